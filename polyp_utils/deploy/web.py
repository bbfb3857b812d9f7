"""A static page that runs an ONNX file in the browser: `web.html`, ONNX Runtime Web beside it.

Nothing of ONNX Runtime Web is in this package: npm brings it, or the user gives it.
"""

import json
import re
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from urllib.parse import quote

from polyp_utils.common.exceptions import UserError
from polyp_utils.common.files import atomic, write_text
from polyp_utils.deploy.onnx import describe_onnx

ORT = "onnxruntime-web@1.30.0"  # as npm names a package and its version
FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
_TEMPLATE = Path(__file__).with_suffix(".html")
_PLACE = "{{ data }}"


def write_web_page(model: Path) -> Path:
    """Writes ``index.html`` beside an ONNX file, in float32 or int8; returns its path.

    The page loads that file and, from the folder ``ort`` beside it, what `copy_ort` puts there, and
    nothing else. It needs a web server, any one.

    Raises:
        ImportError: onnx is not installed.
        WeightsError: a file of another program.
    """
    data = {**describe_onnx(model), "file": quote(model.name)}
    data["mb"] = round(model.stat().st_size / 1e6)
    inline = json.dumps(data).replace("<", "\\u003c")  # else a name could end the script
    page = model.with_name("index.html")
    write_text(page, _TEMPLATE.read_text(encoding="utf-8").replace(_PLACE, inline))
    return page


def copy_ort(folder: Path, package: str | Path = "") -> Path:
    """Copies `FILES` of ONNX Runtime Web into ``folder/ort``; returns that folder.

    Args:
        folder: of the page.
        package: the unpacked npm package `ORT`; empty: npm downloads it.

    Raises:
        UserError: neither npm nor a package, npm fails, or the folder is not that package.
    """
    target = folder / "ort"
    if package:
        _copy(Path(package).expanduser(), target)
        return target
    with tempfile.TemporaryDirectory() as temporary:
        _copy(_pack(Path(temporary)), target)
    return target


def _copy(package: Path, target: Path) -> None:
    try:
        about = json.loads((package / "package.json").read_text(encoding="utf-8"))
        found = f"{about['name']}@{about['version']}"
    except (OSError, ValueError, KeyError, TypeError):
        found = "no npm package: a folder with package.json and dist is wanted"
    missing = [name for name in FILES if not (package / "dist" / name).is_file()]
    if found != ORT or missing:
        lacks = f", without {', '.join(missing)} in dist" if found == ORT else f", not {ORT}"
        raise UserError(f"{package} holds {found}{lacks}")
    for name in FILES:
        with atomic(target / name) as temporary:
            shutil.copyfile(package / "dist" / name, temporary)


def _pack(folder: Path) -> Path:
    """The package as npm unpacks it, in a folder."""
    npm = shutil.which("npm")
    by_hand = f"give a folder that holds {ORT} unpacked with --ort"
    if not npm:
        raise UserError(f"the page needs {ORT}: install npm, which downloads it, or {by_hand}")
    command = [npm, "pack", ORT, "--loglevel=error", "--ignore-scripts"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    archives = list(folder.glob("*.tgz"))
    if done.returncode or len(archives) != 1:
        said = " ".join(re.sub(r"^npm \S+ ", "", line) for line in done.stderr.splitlines()[:2])
        raise UserError(f"npm could not download {ORT} ({said}): try again online, or {by_hand}")
    with tarfile.open(archives[0]) as archive:
        archive.extractall(folder, filter="data")
    return folder / "package"
