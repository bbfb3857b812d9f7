"""Published runs: light to clone, scored as before, and without frames that may not be shown."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from polyp_utils.analyse.calibration import fit_temperature, validation_levels
from polyp_utils.common.exceptions import RunError
from polyp_utils.common.files import write_json
from polyp_utils.data.catalog import CATALOG
from polyp_utils.data.dataset import PolypDataset
from polyp_utils.model.unet import UNet
from polyp_utils.model.weights import halve_weights, read_metadata, save_weights, with_metadata
from polyp_utils.publish import published as published_module
from polyp_utils.publish.published import publish, without_place
from polyp_utils.publish.shown import hidden_figures, hide_frames
from polyp_utils.runs.run import Run
from polyp_utils.score.evaluation import evaluate_run

PUBLISHED = Path(__file__).parents[1] / "results/published"


@pytest.fixture(autouse=True)
def repository(tmp_path, monkeypatch):
    """Where these tests publish."""
    monkeypatch.setattr(published_module, "repo_root", lambda: tmp_path)


def test_a_published_run_scores_as_before(run):
    config = run.config
    data = PolypDataset(config.dataset, config.image_size)
    published = publish(run)
    assert {path.name for path in (published.path / "predictions").iterdir()} == {"test.zip"}
    before, after = (evaluate_run(each, dataset=data) for each in (run, published))
    pd.testing.assert_frame_equal(before.per_image, after.per_image, check_exact=True)
    assert before.card == after.card
    one, other = (validation_levels(each, data) for each in (run, published))
    assert fit_temperature(one) == fit_temperature(other)
    with pytest.raises(RunError, match="keeps only counts for its validation part"):
        evaluate_run(published, "val", data)
    assert len(published.path.joinpath("val_levels.csv").read_text().splitlines()) == 1 + 256
    again = published.archive_path("test").read_bytes()
    assert publish(run).archive_path("test").read_bytes() == again


def test_a_published_run_does_not_say_where_the_data_were(run, drawn_folder, tmp_path):
    place = str(drawn_folder)
    record = run.record
    record["settings"]["dataset"] = place
    write_json(run.path / "config.json", record)
    (run.path / "02_train.ipynb").write_text(json.dumps({"cells": [], "at": place}))
    save_weights(run.weights, UNet(3, 3, 4), {"settings": record["settings"]})
    published = publish(run, light=True)
    assert publish(run, light=True).path == published.path
    assert published.config.dataset == "Kvasir-SEG"
    assert "--dataset Kvasir-SEG" in (published.path / "README.md").read_text(encoding="utf-8")
    halve_weights(run.weights, published.weights, without_place)
    assert read_metadata(published.weights)["settings"]["dataset"] == "Kvasir-SEG"
    for path in published.path.rglob("*"):
        assert path.is_dir() or place.encode() not in path.read_bytes()
    assert place.encode() not in with_metadata(run.weights, without_place)
    assert with_metadata(run.weights, dict) == run.weights.read_bytes()


def executed(path, *frames_of):
    """An executed notebook that shows a chart, and frames of these sets."""
    kinds = [{"image/png": ""}, *({"image/jpeg": ""} for _ in frames_of)]
    metadata = [{}, *({"image/jpeg": {"frames_of": name}} for name in frames_of)]
    outputs = [{"data": d, "metadata": m} for d, m in zip(kinds, metadata, strict=True)]
    path.write_text(json.dumps({"cells": [{"outputs": outputs}, {"source": "no code"}]}))


def shown_in(notebook):
    outputs = json.loads(notebook.read_text())["cells"][0]["outputs"]
    return ["".join(output["data"].get("text/markdown", output["data"])) for output in outputs]


def test_frames_that_may_not_be_shown_are_not_published(run, monkeypatch):
    figure = run.path / "figures/worst.jpg"
    figure.parent.mkdir(exist_ok=True)
    for path in (figure, figure.with_suffix(".png")):
        path.write_bytes(b"picture")
    executed(run.path / "05_generalise.ipynb", "", "kvasir-seg", "neopolyp", "somebody's")
    left_out = r"\*\(Left out: frames of {} are not shown"
    published = publish(run)
    assert (published.path / "figures/worst.jpg").is_file()
    chart, own, kvasir, neopolyp, unknown = shown_in(published.path / "05_generalise.ipynb")
    assert (chart, own, kvasir) == ("image/png", "image/jpeg", "image/jpeg")
    assert re.match(left_out.format("BKAI-IGH NeoPolyp-Small"), neopolyp)
    assert re.match(left_out.format("somebody's"), unknown)

    monkeypatch.setitem(CATALOG, "phantom", replace(CATALOG["phantom"], shown=False))
    publish(published)  # in place
    figures = {path.name for path in (published.path / "figures").iterdir()}
    assert "worst.png" in figures
    assert "worst.jpg" not in figures
    own = shown_in(published.path / "05_generalise.ipynb")[1]
    assert re.match(left_out.format("Phantoms"), own)
    assert shown_in(run.path / "05_generalise.ipynb")[1:] == 4 * ["image/jpeg"]


def test_what_is_published_is_light_to_clone():
    files = [path for path in PUBLISHED.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files if path.name != "model.safetensors")
    assert size < 45e6, f"{size / 1e6:.1f} MB besides weights"
    assert len(files) < 400


def test_no_frames_are_published_that_may_not_be_shown(tmp_path):
    seen = 0
    for folder in PUBLISHED.iterdir():
        name = folder.name  # a data set's, or a run's
        if (folder / "training.json").is_file():
            name = Run(folder).config.dataset
        assert not hidden_figures(folder, name)
        for path in folder.rglob("*.ipynb"):
            copy = shutil.copy(path, tmp_path)
            assert hide_frames(Path(copy), name) == 0, f"{path}: see polyp_utils.publish.shown"
            seen += 1
    assert seen > 10
