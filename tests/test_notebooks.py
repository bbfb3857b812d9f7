"""The notebooks as their users run them: papermill, headless, on phantoms; and their anatomy."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from polyp_utils.data import phantom
from polyp_utils.runs import Run

nbformat, papermill = (pytest.importorskip(name) for name in ("nbformat", "papermill"))

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TINY = {"recipe": "quick", "limit": 12, "epochs": 2, "width": 4, "image_size": 32}


@pytest.fixture(scope="session")
def tiny_results(tmp_path_factory):
    return tmp_path_factory.mktemp("notebook-results")


def run(name, cwd, results, out, **parameters):
    """Runs a notebook in a folder as a user would; returns the executed copy."""
    words = [
        sys.executable,
        "-m",
        "papermill",
        os.path.relpath(ROOT / f"notebooks/{name}.ipynb", cwd),
    ]
    for key, value in parameters.items():
        words += ["-p", key, str(value)]
    execute([*words[:4], str(out), *words[4:]], cwd, results)
    return nbformat.read(out, as_version=4)


def execute(words, cwd, results):
    environment = {**os.environ, "POLYP_RESULTS": str(results)}
    done = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


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


def test_the_first_command_of_the_readme_trains_to_090(tmp_path, monkeypatch):
    readme = (ROOT / "README.md").read_text()
    command = re.search(r"^uv run (papermill .* -p recipe quick)$", readme, flags=re.M)[1]
    words = [sys.executable, "-m", *shlex.split(command)]
    assert words[4] == "out.ipynb"
    words[4] = str(tmp_path / "out.ipynb")
    execute(words, ROOT, tmp_path / "results")
    quick = Run(tmp_path / "results/quick-trimap-w16-s0")
    assert quick.training["best_at_network_size"]["test"]["polyp_dice"] >= 0.90

    monkeypatch.chdir(tmp_path)  # the README's two snippets, as they stand there
    frame, mask = phantom.draw(0)
    Image.fromarray(frame).save("frame.jpg")
    snippets = re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL)
    for snippet in snippets[:2]:
        names = {}
        exec(snippet, names)
    assert names["mask"].shape == mask.shape
    assert names["mask"].dtype == bool


def test_the_second_command_is_what_ci_runs():
    assert "\nuv run pytest\n" in (ROOT / "README.md").read_text()
    assert (ROOT / ".ci/run").read_text().rstrip().endswith("uv run pytest")


@pytest.mark.parametrize("folder", ["", "notebooks"])
def test_all_notebooks_run_on_phantoms_by_parameters_alone(folder, tmp_path):
    cwd, results = ROOT / folder, tmp_path / "results"
    explored = run("01_explore_data", cwd, results, tmp_path / "1.ipynb", recipe="quick", sheet=6)
    pairs = int(re.search(r"(\d+) pairs are flagged .* frames are in none", texts(explored))[1])
    assert figures(explored) == 9 + (pairs > 0)
    assert "0.00 % of the pixels (brightest channel) are neither 0 nor 255" in texts(explored)

    trained = run("02_train", cwd, results, tmp_path / "2.ipynb", **TINY)
    assert figures(trained) == 3
    assert re.search(r"epoch 2/2 .*val polyp Dice 0\.\d+", texts(trained))
    assert "application/vnd.jupyter.widget-view+json" not in str(trained)  # no dead widgets
    again = run("02_train", cwd, results, tmp_path / "2.ipynb", **TINY)
    assert "is finished: nothing to train" in texts(again)

    evaluated = run("03_evaluate", cwd, results, tmp_path / "3.ipynb")
    folder_of_run = results / "quick-trimap-w4-s0-n12"
    for name in ("per_image.csv", "summary.json", "README.md", "figures/confusion.png"):
        assert (folder_of_run / name).is_file()
    assert re.search(r"Polyp Dice 0\.\d+ \[0\.\d+, 0\.\d+\]\*\* on 1\d frames", texts(evaluated))

    itself = {"gallery": 3, "against": folder_of_run.name}
    analysed = run("04_error_analysis", cwd, results, tmp_path / "4.ipynb", **itself)
    assert figures(analysed) == 6  # too few frames for a model, and nothing to disagree on
    assert "No model of Dice is fitted" in texts(analysed)
    assert "no frame that is known to be annotated twice" in texts(analysed)
    assert "is better on 0, `quick-trimap-w4-s0-n12` on 0; they are equal on" in texts(analysed)
    assert (folder_of_run / "figures/test_error_types.png").is_file()
    assert "knows one kind of polyp" in texts(analysed)
    assert re.search(r"As objects: \d+ of \d+ polyps found", texts(analysed))

    small = {"sets": "phantom", "limit": 5, "gallery": 3}
    elsewhere = run("05_generalise", cwd, results, tmp_path / "5.ipynb", **small)
    assert figures(elsewhere) == 1
    assert re.search(r"Phantoms: polyp Dice 0\.\d+ .* on \d frames", texts(elsewhere))
    assert "No published figures on Phantoms are known here." in texts(elsewhere)
    assert (folder_of_run / "generalise.csv").is_file()

    unsure = run("07_uncertainty", cwd, results, tmp_path / "7.ipynb", gallery=2)
    assert figures(unsure) == 2
    assert re.search(r"It takes \d+\.\d times as long", texts(unsure))
    assert texts(unsure).count("AUROC") >= 2
    assert (folder_of_run / "uncertainty.csv").is_file()

    name = folder_of_run.name
    study = run("06_headline", cwd, results, tmp_path / "6.ipynb", runs=name)
    assert figures(study) == 2
    assert f"`{name}`: its third class has" in texts(study)
    assert (folder_of_run / "card_sums.csv").is_file()


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("02_train", {"recipe": "quik"}, "unknown recipe 'quik': did you mean 'quick'"),
        ("02_train", {"augmentation": "strong"}, "unknown parameter 'augmentation': did you mean"),
        ("04_error_analysis", {"runs": "x"}, "unknown parameter 'runs': did you mean 'run'"),
    ],
)
def test_bad_parameters_stop_with_their_message(tmp_path, name, parameters, message):
    with pytest.raises(papermill.PapermillExecutionError, match=message):
        papermill.execute_notebook(
            ROOT / f"notebooks/{name}.ipynb", tmp_path / "out.ipynb", parameters, progress_bar=False
        )


def test_a_broken_folder_is_audited_before_it_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("POLYP_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "broken"
    for index in range(3):
        for kind, pixels in zip(("images", "masks"), phantom.draw(index), strict=True):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / kind / f"{index}.png")
    (folder / "images/0.png").write_bytes((folder / "images/0.png").read_bytes()[:999])
    (folder / "masks/1.png").unlink()
    out = tmp_path / "out.ipynb"
    with pytest.raises(papermill.PapermillExecutionError, match=r"images/1\.png has no mask"):
        papermill.execute_notebook(
            ROOT / "notebooks/01_explore_data.ipynb",
            out,
            {"dataset": str(folder)},
            progress_bar=False,
        )
    said = texts(nbformat.read(out, as_version=4))
    assert "images/1.png has no mask" in said
    assert "images/0.png cannot be decoded" in said


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
    for cell in code:
        assert not cell.outputs
        assert cell.execution_count is None
        longest = 20 if "parameters" in cell.metadata.get("tags", []) else 15
        assert len(cell.source.splitlines()) <= longest
        assert not re.search(r"^\s*(def|class) ", cell.source, flags=re.M)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_parameter_is_documented(path):
    parameters = papermill.inspect_notebook(path)
    assert parameters
    assert all(p["help"] and p["inferred_type_name"] for p in parameters.values())
