"""The verb score: another system's folder, from the command line to its tables."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from polyp_utils.cli import main
from polyp_utils.common.exceptions import RunError
from polyp_utils.common.files import write_json
from polyp_utils.data.dataset import PolypDataset
from polyp_utils.deploy.load import load_model
from polyp_utils.runs.predictions import of_folder, of_run
from polyp_utils.score.comparison import compare_systems
from polyp_utils.score.evaluation import evaluate
from polyp_utils.score.protocols import PROTOCOLS, polyp_scores
from polyp_utils.score.systems import Task, check_free

SIZE = "32"


@pytest.fixture(scope="module")
def home(tiny_runs):
    """A run's data set, and a third of its test part."""
    return PolypDataset("phantom", int(SIZE)), tiny_runs["trimap"].split.test[:4]


@pytest.fixture(scope="module")
def split(home, tmp_path_factory):
    """A split file with that test part."""
    dataset, test = home
    others = [i for i in dataset.ids if i not in set(test)]
    rows = [(i, "test") for i in test] + [(others[0], "train"), (others[1], "val")]
    path = tmp_path_factory.mktemp("split") / "few.csv"
    path.write_text("id,part\n" + "\n".join(f"{i},{part}" for i, part in rows) + "\n")
    return str(path)


@pytest.fixture(scope="module")
def theirs(home, tmp_path_factory):
    """Masks of the test part, shifted by two pixels."""
    dataset, test = home
    folder = tmp_path_factory.mktemp("other") / "theirs"
    folder.mkdir()
    for i in test:
        mask = np.roll(dataset.original_mask(i), (2, 2), (0, 1))
        Image.fromarray(np.uint8(255 * (mask > 127))).save(folder / f"{i}.png")
    return folder


def score(folder, *arguments):
    return main(
        ["score", str(folder), "--dataset", "phantom", "--image-size", SIZE, *map(str, arguments)]
    )


def test_a_part_is_scored_as_a_run_is_and_kept(theirs, split, home, results, capsys):
    dataset, test = home
    assert score(theirs, "--split", split) == 0
    folder = results / "score-theirs-phantom-few-test"
    expected = evaluate(of_folder(theirs, test), dataset)
    stored = pd.read_csv(folder / "per_image.csv", dtype={"id": str})
    pd.testing.assert_frame_equal(stored, expected.per_image, check_dtype=False, rtol=1e-5)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["task"]["folder"] == str(theirs)
    assert summary["values"] == "map:0-255"
    assert summary["doubts"] == []
    assert summary["fingerprints"].keys() == {"data", "split_ids"}
    assert summary["scores"] == expected.record["scores"]
    printed = capsys.readouterr().out
    assert "values: masks, polyp 255 (map:0-255)" in printed
    for protocol in PROTOCOLS:
        assert protocol in printed
    assert str(expected.polyp_dice) in printed
    assert f"{len(test)} frames of phantom, test of split {split}" in printed
    assert printed.endswith(f"per_image.csv and summary.json are in {folder}\n")


def test_a_system_is_compared_with_a_run_and_a_folder(theirs, split, home, run, capsys, tmp_path):
    dataset, _ = home
    one, other = (
        evaluate(system, dataset, all_scores=False) for system in (of_folder(theirs), of_run(run))
    )
    row = compare_systems(one, [other]).iloc[0]
    assert (row["n"], len(other.predictions.ids)) == (4, 12)
    assert score(theirs, "--split", split, "--against", run.name, "--out", tmp_path / "out") == 0
    text = f"theirs minus {run.name}: polyp Dice {row['difference']:+.3f} ["
    assert text in capsys.readouterr().out
    (kept,) = json.loads((tmp_path / "out/summary.json").read_text())["against"]
    assert kept["p"] == row["p"]
    indices = tmp_path / "indices"
    indices.mkdir()
    for path in theirs.iterdir():
        Image.fromarray(np.array(Image.open(path)) // 255 * 2).save(indices / path.name)
    against = ["--split", split, "--against", indices]
    assert score(theirs, *against) == 2
    assert "not certain" in capsys.readouterr().err
    assert score(theirs, *against, "--against-values", "indices:2") == 0
    said = capsys.readouterr().out
    assert "theirs minus indices: polyp Dice +0.000 [+0.000, +0.000]" in said
    assert "indices: values: taken for indices:2, as asked" in said


def test_a_run_without_a_common_frame_is_refused(theirs, run, tmp_path, capsys, home):
    dataset, test = home
    other = [i for i in dataset.ids if i not in set(test)][:3]
    path = tmp_path / "other.csv"
    rows = zip(other, ("train", "val", "test"), strict=True)
    path.write_text("id,part\n" + "\n".join(f"{i},{part}" for i, part in rows) + "\n")
    Image.new("L", (8, 8), 255).save(tmp_path / f"{other[2]}.png")
    assert score(tmp_path, "--split", path, "--against", run.name) == 2
    assert f"{run.name} has predictions of none of these 1 frames" in capsys.readouterr().err


def test_missing_predictions_are_counted_and_nothing_is_left(theirs, results, capsys, home):
    dataset, test = home
    assert score(theirs) == 2
    error = capsys.readouterr().err
    missing = len(dataset) - len(test)
    assert f"lacks {missing} of {len(dataset)} predictions" in error
    assert score(theirs, "--part", "val") == 2
    assert "part is val but no split is named: add --split" in capsys.readouterr().err
    assert not results.exists()


def test_results_of_something_else_are_not_overwritten(theirs, split, tmp_path, capsys):
    out, task = tmp_path / "out", Task(str(theirs), "phantom", split)
    out.mkdir()
    check_free(out, task)
    write_json(out / "summary.json", {"task": task.subject})
    check_free(out, replace(task, values="above:127"))
    assert score(theirs, "--out", out) == 2
    assert f"out holds the scores of split {split}: name a new" in capsys.readouterr().err
    (out / "summary.json").write_text("[]")
    with pytest.raises(RunError, match="out holds other results"):
        check_free(out, task)
    (out / "summary.json").rename(out / "mine.txt")
    with pytest.raises(RunError, match="out holds other files: name an empty"):
        check_free(out, task)


def test_doubts_are_warned_of_and_recorded(theirs, split, tmp_path, capsys):
    inverted = tmp_path / "inverted"
    inverted.mkdir()
    for path in theirs.iterdir():
        Image.fromarray(255 - np.array(Image.open(path))).save(inverted / path.name)
    with pytest.warns(UserWarning, match=r"inverted: Dice is 0\.") as warned:
        assert score(inverted, "--split", split, "--out", tmp_path / "out") == 0
    (doubt,) = json.loads((tmp_path / "out/summary.json").read_text())["doubts"]
    assert str(warned[0].message) == f"inverted: {doubt}"


def test_our_own_masks_and_class_maps_get_the_same_score(tiny_runs, home, tmp_path):
    """Of scheme binary; that those of trimap are asked for is in test_values."""
    dataset, test = home
    model = load_model(tiny_runs["binary"].path, device="cpu", runtime="torch")
    found = {}
    for kind in ("polyp_mask", "class_map"):
        (tmp_path / kind).mkdir()
        for i in test:
            shown = getattr(model, kind)(dataset.original_image(i))
            Image.fromarray(shown).save(tmp_path / kind / f"{i}.png")
        predictions = of_folder(tmp_path / kind, test)
        found[kind] = evaluate(predictions, dataset, all_scores=False).polyp_dice.mean
    stored = evaluate(of_run(tiny_runs["binary"]), dataset, all_scores=False).per_image
    own = polyp_scores(stored)[list(test)].mean()
    assert own > 0.3
    assert found["polyp_mask"] == pytest.approx(own, abs=0.01)
    assert found["class_map"] == pytest.approx(own, abs=0.01)
