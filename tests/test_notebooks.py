"""The notebooks as their users run them: papermill, headless, on phantoms; and their anatomy."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from polyp_utils.analyse.false_alarms import CROPS, PHANTOMS
from polyp_utils.common.config import RunConfig, check_parameters
from polyp_utils.data import phantom
from polyp_utils.data.dataset import PolypDataset
from polyp_utils.runs.run import Run
from polyp_utils.score.evaluation import evaluate_run

nbformat, papermill = (pytest.importorskip(name) for name in ("nbformat", "papermill"))

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture
def execute(tmp_path):
    """Runs a notebook, from the repository's root or from ``notebooks/``; the executed copy."""

    def execute(name, folder="", **parameters):
        notebook, out = ROOT / f"notebooks/{name}.ipynb", tmp_path / "out.ipynb"
        papermill.execute_notebook(notebook, out, parameters, cwd=ROOT / folder, progress_bar=False)
        return nbformat.read(out, as_version=4)

    return execute


def texts(notebook):
    """All text that the outputs show."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    plain = [output.get("text", "") for output in outputs]
    data = [output.get("data", {}) for output in outputs]
    return "\n".join(plain + [d.get("text/markdown", d.get("text/plain", "")) for d in data])


def figures(notebook):
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    kinds = {"image/png", "image/jpeg"}
    return sum(bool(kinds & output.get("data", {}).keys()) for output in outputs)


def kinds(notebook):
    """How figures are shown, and what their metadata say of the frames in them."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return {
        (kind, output.metadata.get(kind, {}).get("frames_of"))
        for output in outputs
        for kind in output.get("data", {})
        if kind.startswith("image/")
    }


def test_the_first_command_of_the_readme_trains(tmp_path, monkeypatch):
    readme = (ROOT / "README.md").read_text()
    command = re.search(r"^uv run (papermill .* -p recipe quick)$", readme, flags=re.M)[1]
    words = [sys.executable, "-m", *shlex.split(command)]
    assert words[4] == "out.ipynb"
    words[4] = str(tmp_path / "out.ipynb")
    PolypDataset("phantom", 64)  # into the cache: drawing them again takes long
    environment = {**os.environ, "POLYP_RESULTS": str(tmp_path / "results")}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    config = RunConfig.from_recipe("quick")
    run = Run(tmp_path / "results" / config.run_name)
    # 0.90 and more is measured over seeds (results/times.csv); where rounding differs, so does the
    # whole course of a training, and single ones are 0.02 apart
    assert run.training["kept_at_network_size"]["test"]["polyp_dice"] >= 0.85

    trained = nbformat.read(words[4], as_version=4)
    assert re.search(r"costs a cross-entropy of 0\.\d+, one of \d+ % costs", texts(trained))
    assert figures(trained) == 4
    assert kinds(trained) == {("image/jpeg", "phantom"), ("image/jpeg", ""), ("image/png", None)}
    last = f"epoch {config.epochs}/{config.epochs} "
    assert re.search(rf"{last}.*val polyp Dice 0\.\d+", texts(trained))
    assert "application/vnd.jupyter.widget-view+json" not in str(trained)  # no dead widgets

    monkeypatch.chdir(tmp_path)  # the documents' snippets, as they stand there
    frame, mask = phantom.draw_phantom(0)
    Image.fromarray(frame).save("frame.jpg")
    names = {}
    for document in (readme, (ROOT / "polyp_utils/README.md").read_text()):
        exec(re.search(r"```python\n(.*?)```", document, flags=re.DOTALL)[1], names)
    assert names["mask"].shape == mask.shape
    assert names["mask"].dtype == bool
    assert names["classes"].shape == (1, 64, 64)


def test_the_second_command_is_what_ci_runs():
    assert "\nuv run pytest\n" in (ROOT / "README.md").read_text()
    assert (ROOT / ".ci/run").read_text().rstrip().endswith("uv run pytest")


# --- each notebook on phantoms, by parameters alone (02 is the first command of the README) ------


def drawn(folder, count):
    """A folder of drawn frames and masks, named by their index."""
    for index in range(count):
        for kind, pixels in zip(("images", "masks"), phantom.draw_phantom(index), strict=True):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / kind / f"{index}.png")
    return folder


def test_01_explores_from_the_root(execute, tmp_path):
    folder = drawn(tmp_path / "drawn", 12)
    for kind in ("images", "masks"):  # one frame twice
        shutil.copy(folder / kind / "0.png", folder / kind / "copy.png")
    explored = execute("01_explore_data", dataset=str(folder), image_size=64, sheet=6)
    assert int(re.search(r"(\d+) pairs are flagged .* frames are in none", texts(explored))[1])
    copied = "A copied mask scores Dice" in texts(explored)
    assert copied or "No such pair was found here" in texts(explored)
    assert figures(explored) == 10 + copied
    assert "0.00 % of the pixels (brightest channel) are neither 0 nor 255" in texts(explored)


def test_03_evaluates_the_newest_run_from_its_folder(execute, run):
    evaluated = execute("03_evaluate", "notebooks")
    for name in ("per_image.csv", "summary.json", "README.md", "figures/confusion.png"):
        assert (run.path / name).is_file()
    assert re.search(r"Polyp Dice 0\.\d+ \[0\.\d+, 0\.\d+\]\*\* on 1\d frames", texts(evaluated))
    assert "No published figures on Phantoms are known here." in texts(evaluated)
    assert figures(evaluated) == 5
    assert re.search(r"frames, the mean of both 0\.4\d+, and with a third", texts(evaluated))
    assert re.search(r"Dice is 0\.\d+ at 0\.5, at best 0\.\d+ at", texts(evaluated))


def test_04_analyses_errors_from_the_root(execute, run):
    analysed = execute("04_error_analysis", gallery=3, phantoms=2, against=run.name)
    alarms = pd.read_csv(run.path / "false_alarms.csv")
    alarmed = (alarms.loc[alarms["frames"] == CROPS, "objects"] > 0).any()
    assert figures(analysed) == 6 + alarmed  # too few frames for a model; nothing to disagree on
    assert re.search(r"Of a Dice of 1, 0\.\d+ \[.*\] is lost", texts(analysed))
    assert f"{PHANTOMS.capitalize()} (2): one false alarm or more in" in texts(analysed)
    assert "No model of Dice is fitted" in texts(analysed)
    assert "no frame that is known to be annotated twice" in texts(analysed)
    assert f"is better on 0, `{run.name}` on 0; they are equal on" in texts(analysed)
    assert (run.path / "figures/test_error_types.png").is_file()
    assert "knows one kind of polyp" in texts(analysed)
    assert re.search(r"As objects: \d+ of \d+ polyps found", texts(analysed))


def test_05_generalises_from_its_folder(execute, run):
    elsewhere = execute("05_generalise", "notebooks", sets="phantom", limit=5, gallery=3)
    assert figures(elsewhere) == 1
    assert re.search(r"Phantoms: polyp Dice 0\.\d+ .* on \d frames", texts(elsewhere))
    assert "No published figures on Phantoms are known here." in texts(elsewhere)
    assert (run.path / "generalise.csv").is_file()


def test_06_answers_from_the_root(execute, run, dataset):
    evaluate_run(run, dataset=dataset).save(run)
    study = execute("06_headline", runs=run.name)
    assert figures(study) == 2
    assert f"`{run.name}`: its third class has" in texts(study)
    assert "The predictions are the same in all four." in texts(study)
    assert (run.path / "card_sums.csv").is_file()


def test_07_doubts_from_its_folder(execute, run):
    unsure = execute("07_uncertainty", "notebooks", gallery=2)
    assert figures(unsure) == 2
    assert re.search(r"It takes \d+\.\d times as long", texts(unsure))
    assert texts(unsure).count("AUROC") >= 2
    assert (run.path / "uncertainty.csv").is_file()


def test_10_looks_at_phantoms_from_elsewhere(execute, run, tmp_path):
    looked = execute("10_use_the_model", tmp_path, weights=str(run.path), device="cpu")
    assert re.search(r"- 6 frames were looked at, and something is marked in \d", texts(looked))
    assert "0 frames are flagged so far" in texts(looked)
    assert len(list(run.path.parent.glob("viewer/synthetic/*.png"))) == 6


def test_a_bad_parameter_stops_with_its_message(tmp_path):
    """As every notebook checks its parameters first, see below, one may stand for all.

    It imports nothing else here: that takes three seconds.
    """
    notebook = nbformat.read(ROOT / "notebooks/03_evaluate.ipynb", as_version=4)
    imports = next(cell for cell in notebook.cells if cell.cell_type == "code")
    imports.source = "from polyp_utils.common.config import check_parameters"
    nbformat.write(notebook, tmp_path / "03.ipynb")
    paths = tmp_path / "03.ipynb", tmp_path / "out.ipynb"
    with pytest.raises(papermill.PapermillExecutionError, match="'run_': did you mean 'run'"):
        papermill.execute_notebook(*paths, {"run_": "x"}, cwd=ROOT, progress_bar=False)


def test_a_broken_folder_is_audited_before_it_is_refused(execute, tmp_path, monkeypatch):
    monkeypatch.setenv("POLYP_CACHE", str(tmp_path / "cache"))
    folder = drawn(tmp_path / "broken", 3)
    (folder / "images/0.png").write_bytes((folder / "images/0.png").read_bytes()[:999])
    (folder / "masks/1.png").unlink()
    with pytest.raises(papermill.PapermillExecutionError, match=r"images/1\.png has no mask"):
        execute("01_explore_data", dataset=str(folder))
    said = texts(nbformat.read(tmp_path / "out.ipynb", as_version=4))
    assert "images/1.png has no mask" in said
    assert "images/0.png is damaged" in said


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_anatomy(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = notebook.cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert cells[0].cell_type == "markdown"
    assert cells[0].source.startswith("# ")
    assert "results/published" in cells[0].source
    assert code[0].source.startswith(("import ", "from "))
    assert [cell.metadata.get("tags", []) for cell in code[:3]] == [[], ["parameters"], []]
    assert code[2].source.startswith("check_parameters()\n")
    with pytest.raises(ValueError, match=r"unknown parameter 'x': .*known are "):
        check_parameters([code[1].source, "# Parameters\nx = 1\n"])
    for cell in code:
        assert not cell.outputs
        assert cell.execution_count is None
        longest = {0: 22, 1: 32}.get(code.index(cell), 15)  # imports, parameters
        assert len(cell.source.splitlines()) <= longest
        assert not re.search(r"^\s*(def|class) ", cell.source, flags=re.M)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_parameter_is_documented(path):
    parameters = papermill.inspect_notebook(path)
    assert parameters
    assert all(p["help"] and p["inferred_type_name"] for p in parameters.values())


def test_settings_mean_the_same_in_the_training_notebook():
    parameters = papermill.inspect_notebook(ROOT / "notebooks/02_train.ipynb")
    meant = {setting.name: setting.metadata["help"] for setting in fields(RunConfig)}
    said = {name: parameter["help"] for name, parameter in parameters.items()}
    assert said.pop("recipe").startswith(meant["recipe"])
    assert said == {name: meant[name] for name in said}
