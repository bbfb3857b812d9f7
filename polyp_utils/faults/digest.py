"""What a folder holds, without what may differ between two equal runs: times and speeds.

Numbers in text count with six significant digits, as tables are written: of the weighted F-measure
the eleventh depends on where OpenCV's arrays lie in memory.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from polyp_utils.model.pickled import read_pickle
from polyp_utils.model.weights import read_metadata, read_tensors

_TIMES = {"started", "finished", "seconds", "train_seconds", "images_per_second", "this_time"}
_TIMES |= {"peak_memory_mib"}
_TIME_LINES = ("| time (wall", "| speed |", "| peak memory |")  # of a run card


def digest(folder: Path) -> dict[str, str]:
    """Path below the folder -> hash of the file's content without times; locks do not count."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    files = (path for path in files if not path.name.endswith(".lock"))
    return {path.relative_to(folder).as_posix(): _hash(_content(path)) for path in files}


def tensor_hash(tensor: Tensor) -> str:
    """Hash of a tensor's type, shape and values, 16 hex digits."""
    values = tensor.detach().contiguous().numpy()
    return _hash(f"{values.dtype} {values.shape} ".encode() + values.tobytes())


def changed_files(one: dict[str, str], other: dict[str, str]) -> list[str]:
    """Names of files that only one of two folders holds, or that differ."""
    return sorted(name for name in one | other if one.get(name) != other.get(name))


def unreadable(path: Path) -> str:
    """Why a file is not whole; empty if it is."""
    try:
        _content(path)
        if path.suffix in (".png", ".jpg"):
            with Image.open(path) as image:
                image.load()
        if path.suffix == ".pt":
            read_pickle(path)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _content(path: Path) -> bytes:
    if path.suffix == ".json":
        return json.dumps(_timeless(json.loads(path.read_text("utf-8")))).encode()
    if path.suffix == ".csv":
        rows = list(csv.DictReader(io.StringIO(path.read_text("utf-8"), newline="")))
        if any(None in row or None in row.values() for row in rows):
            raise ValueError("a row is not whole")
        return json.dumps([_timeless(row) for row in rows]).encode()
    if path.suffix == ".safetensors" and "cache" not in path.parts:
        tensors = {name: tensor_hash(t) for name, t in sorted(read_tensors(path).items())}
        return json.dumps([tensors, _timeless(read_metadata(path))]).encode()
    if path.suffix == ".md":
        lines = path.read_text("utf-8").splitlines()
        text = "\n".join(x for x in lines if not x.startswith(_TIME_LINES))
        return re.sub(r"\d+\.\d{6,}", lambda found: f"{float(found[0]):.6g}", text).encode()
    return path.read_bytes()


def _timeless(values: Any) -> Any:
    if isinstance(values, dict):
        return {key: _timeless(value) for key, value in values.items() if key not in _TIMES}
    if isinstance(values, list):
        return [_timeless(value) for value in values]
    return f"{values:.6g}" if isinstance(values, float) else values


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
