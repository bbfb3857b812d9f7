"""The package's layers: which may import which, and what can be imported from the top."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import polyp_utils

ROOT = Path(polyp_utils.__file__).parent
FLOORS = ("common", "data", "model", "runs", "score", "train", "analyse", "study", "deploy")
FLOORS += ("apply", "bench", "plots", "publish", "faults")
FLOORS += ("cli",)  # a room may import from those before it
MODULES = sorted(ROOT.rglob("*.py"))


def room_of(module):
    """The room of a dotted name ``polyp_utils.room.module``."""
    return module.split(".")[1]


def imported(path):
    """All modules of the package that a file imports, at its top or later."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("polyp_utils."):
            yield node.module
        elif isinstance(node, ast.ImportFrom) and node.module == "polyp_utils":
            yield from (f"polyp_utils.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.startswith("polyp_utils."))


def test_every_module_is_in_a_room():
    alone = {path.name for path in ROOT.glob("*.py")}
    assert alone == {"__init__.py", "__main__.py", "cli.py"}
    rooms = {path.name for path in ROOT.iterdir() if (path / "__init__.py").is_file()}
    assert rooms == set(FLOORS) - {"cli"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down(path):
    here = path.relative_to(ROOT).parts[0].removesuffix(".py")
    if here in ("__init__", "__main__"):
        return
    for module in imported(path):
        room = room_of(module)
        if room != "__version__":
            assert FLOORS.index(room) <= FLOORS.index(here), f"{path} imports {module}"


def test_the_imports_within_a_room_have_no_circle():
    files = {
        ".".join(("polyp_utils", *p.relative_to(ROOT).with_suffix("").parts)): p for p in MODULES
    }
    arrows = {name: {m for m in imported(path) if m in files} for name, path in files.items()}
    arrows["polyp_utils.cli"] = set()  # the top layer
    while arrows:
        free = {name for name, targets in arrows.items() if not targets & arrows.keys()}
        assert free, f"a circle among {sorted(arrows)}"
        arrows = {name: targets for name, targets in arrows.items() if name not in free}


def test_the_names_that_users_need_come_from_the_top():
    code = (
        "import sys, polyp_utils; assert 'torch' not in sys.modules\n"
        "from polyp_utils import RunConfig; assert 'torch' not in sys.modules\n"
        "from polyp_utils import evaluate, fit, load_model\n"
        "print(*(f.__module__ for f in (RunConfig, evaluate, fit, load_model)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    homes = ("common.config", "score.evaluation", "train.fit", "deploy.load")
    assert done.stdout.split() == [f"polyp_utils.{home}" for home in homes]
    with pytest.raises(AttributeError, match="no attribute 'load_modle'"):
        polyp_utils.load_modle  # noqa: B018
