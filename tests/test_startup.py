"""What a command imports before its work: modules are counted, as seconds vary by machine."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from polyp_utils.common.config import RunConfig
from polyp_utils.publish.tables import DOCUMENTS
from polyp_utils.train.fit import fit

ROOT = Path(__file__).parents[1]
# What the first step needs besides PyTorch, the optimizer and the standard library; SciPy and
# scikit-image by name only: they load their parts on first use.
NEEDED = {"PIL", "filelock", "lazy_loader", "polyp_utils", "safetensors", "scipy", "skimage"}
PARTS = {"scipy.ndimage", "scipy.special", "scipy.stats", "skimage.io", "skimage.measure"}


def run(code, *arguments, cwd=ROOT):
    """The output of a new process."""
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_help_waits_for_no_library():
    code = (
        "import atexit, sys; from polyp_utils.cli import main\n"
        "atexit.register(lambda: print({'numpy', 'pandas', 'torch'} & {*sys.modules}))\n"
        "main(['train', '--help'])"
    )
    said = run(code)
    assert "--dice-absent" in said
    assert said.splitlines()[-1] == "set()"


def test_what_is_loaded_between_the_command_and_the_first_step(dataset, results):
    code = """if True:
        import sys, torch
        torch.optim.Adam([torch.zeros(1)])  # brings torch._dynamo
        inevitable = {*sys.modules}

        def first_step(*_):
            print(sorted(sys.modules.keys() - inevitable))
            sys.exit()

        from polyp_utils import cli
        from polyp_utils.train import learner
        learner.Learner.step = first_step
        cli.main(sys.argv[1:])
        """
    assert len(dataset) == 360  # all in the cache, so nothing is drawn
    flags = "--recipe quick --image-size 32 --width 4 --limit 8"
    said = run(code, "train", *flags.split()).splitlines()
    assert said[0].startswith("quick-trimap-w4-s0-n8-image-size-32: 8 frames of Phantoms at 32 px")
    ours = set(ast.literal_eval(said[-1]))
    assert "polyp_utils.train.learner" in ours
    assert not PARTS & ours
    libraries = {name.partition(".")[0] for name in ours} - sys.stdlib_module_names
    known = NEEDED | {"numpy", "torch", "tqdm", "Cython", "cython"}  # others bring it if installed
    assert {name for name in libraries if not name.startswith("_")} <= known


@pytest.fixture
def repository(tmp_path):
    """A copy of the documents for `report` to write to."""
    root = tmp_path / "repository"
    for name in ("notebooks", "polyp_utils", "results"):
        (root / name).mkdir(parents=True)
    for name in DOCUMENTS:
        (root / name).write_text((ROOT / name).read_text())
    (root / "results/published").symlink_to(ROOT / "results/published")
    return root


def test_verbs_that_train_nothing_do_not_import_what_training_needs(repository, results):
    tiny = {"limit": 4, "width": 4, "image_size": 32, "epochs": 1, "batch_size": 4}
    trained = fit(RunConfig.from_recipe("quick", **tiny))
    code = """if True:
        import sys
        from polyp_utils.cli import main

        for verb in ("report", "evaluate"):
            assert main([verb]) == 0
            print({"torch", "torch._dynamo", "torchvision"} & {*sys.modules})
        """
    *_, report, without_torch, score, evaluate = run(code, cwd=repository).splitlines()
    assert report == "the tables are up to date"
    assert without_torch == "set()"
    assert score.startswith(f"{trained.name}: polyp Dice 0.")
    assert evaluate == "{'torch'}"
