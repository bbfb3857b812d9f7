"""Missed, found and hallucinated polyps on four synthetic frames with known numbers."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from polyp_utils.analyse import failure_types
from polyp_utils.analyse.dice_drivers import FEATURES, driver_findings
from polyp_utils.analyse.failures import (
    error_table,
    kind_findings,
    kind_table,
)
from polyp_utils.analyse.gallery import predicted_frames
from polyp_utils.common.config import RunConfig
from polyp_utils.common.files import write_json
from polyp_utils.data.catalog import get_info
from polyp_utils.data.labels import POLYP, get_scheme
from polyp_utils.runs.predictions import Predictions, of_arrays
from polyp_utils.runs.run import Run
from polyp_utils.score.evaluation import Evaluation
from polyp_utils.score.protocols import NETWORK, ORIGINAL

SIDE = 64  # of a frame; predictions are stored at 32 px and exactly doubled


def boxes(*corners, side=SIDE):
    mask = np.zeros((side, side), bool)
    for top, left, bottom, right in corners:
        mask[top:bottom, left:right] = True
    return mask


# id -> truth, prediction, dice, (found, missed, hallucinated)
FRAMES = {
    "half": (boxes((16, 16, 48, 48)), boxes((16, 16, 32, 48)), 2 / 3, (1, 0, 0)),
    "clean": (boxes(), boxes(), np.nan, (0, 0, 0)),
    "missed": (boxes((0, 0, 16, 16)), boxes((40, 40, 56, 56)), 0.0, (0, 1, 1)),
    "good": (boxes((16, 16, 32, 32)), boxes((16, 16, 32, 32)), 1.0, (1, 0, 0)),
}


@pytest.fixture
def run(tmp_path):
    """A run with stored predictions of probability 0.8."""
    run = Run(tmp_path / "run")
    config = RunConfig.from_recipe("quick", scheme="binary", image_size=32)
    write_json(run.path / "config.json", {"settings": config.to_dict()})
    for frame_id, (_, prediction, _, _) in FRAMES.items():
        polyp = torch.from_numpy(np.where(prediction[::2, ::2], 0.8, 0.2))
        run.save_probabilities("test", frame_id, torch.stack([1 - polyp, polyp]))
    return run


@pytest.fixture
def dataset():
    """The frames as a data set: grey images with a lighter polyp."""

    def original(frame_id):
        truth = FRAMES[frame_id][0]
        image = np.where(truth, 180, 120).astype(np.uint8)
        return np.repeat(image[..., None], 3, axis=2), np.where(truth, 255, 0).astype(np.uint8)

    return SimpleNamespace(original=original, ids=tuple(FRAMES), info=get_info("phantom"))


def read_by(run):
    scheme = get_scheme(run.config.scheme)
    return Predictions(run.name, scheme, (), lambda i: run.probabilities("test", i, scheme))


@pytest.fixture
def evaluation(run):
    rows = [
        {"id": i, "size": size, "class": name, "dice": value}
        for i, (_, _, dice, _) in FRAMES.items()
        for size in (ORIGINAL, NETWORK)
        for name in (POLYP, "background", "polyp")
        for value in [dice if (size, name) == (ORIGINAL, POLYP) else 0.123]
    ]
    table = pd.DataFrame(rows).assign(iou=0.5, precision=0.6, recall=0.7, card_dice=0.9)
    return Evaluation(read_by(run), table, np.zeros((2, 2)), {"half": "a place", "good": "a place"})


# --- kinds ---------------------------------------------------------------------------------------


@pytest.fixture
def two_kinds(tmp_path):
    """Two frames: a neoplastic polyp taken for the other kind; one of its own kind; one missed."""
    run = Run(tmp_path / "kinds")
    config = RunConfig.from_recipe("quick", scheme="neopolyp", image_size=SIDE)
    write_json(run.path / "config.json", {"settings": config.to_dict()})
    first, second, third = (boxes(b) for b in ((4, 4, 24, 24), (4, 4, 24, 24), (40, 40, 60, 60)))
    truth = {"a": np.where(first, 255, 0), "b": np.where(second, 191, 0) + np.where(third, 255, 0)}
    chances = {"a": np.where(first, 0.3, 0.1), "b": np.full((SIDE, SIDE), 0.1)}
    others = {"a": np.where(first, 0.5, 0.1), "b": np.where(second, 0.8, 0.1)}
    for i in truth:
        kinds = torch.from_numpy(np.stack([chances[i], others[i]]))
        run.save_probabilities("test", i, torch.cat([1 - kinds.sum(0, keepdim=True), kinds]))
    data = SimpleNamespace(original_mask=lambda i: truth[i].astype(np.uint8))
    table = pd.DataFrame({"id": ["a", "b"]})
    return Evaluation(read_by(run), table, np.zeros((3, 3)), {}), data


def test_kinds_of_found_polyps_by_hand(two_kinds):
    table = kind_table(*two_kinds)
    assert table.to_numpy().tolist() == [
        ["a", "neoplastic", "non-neoplastic"],
        ["b", "non-neoplastic", "non-neoplastic"],
        ["b", "neoplastic", "missed"],
    ]
    first, *each = kind_findings(table, ["neoplastic", "non-neoplastic"])
    assert first.startswith("Of 3 polyps, 2 are found; 0.500 [")
    assert "calling all of them neoplastic would give 0.500" in first
    assert each[0].startswith("Of the 1 neoplastic polyps found: 0.000")
    assert each[1].startswith("Of the 1 non-neoplastic polyps found: 1.000")


def test_a_scheme_with_one_kind_has_none_to_confuse(evaluation, dataset):
    dataset.original_mask = lambda frame_id: dataset.original(frame_id)[1]
    table = kind_table(evaluation, dataset)
    assert table["kind"].tolist() == ["polyp"] * 3
    assert table["predicted"].tolist() == ["polyp", "missed", "polyp"]
    assert kind_findings(table, ["polyp"]) == [
        "The label scheme has one kind of polyp, so kinds cannot be confused."
    ]


def test_kinds_when_nothing_is_found_or_only_one_kind_occurs():
    table = pd.DataFrame({"id": ["a"], "kind": ["neoplastic"], "predicted": ["missed"]})
    kinds = ["neoplastic", "non-neoplastic"]
    assert kind_findings(table, kinds) == ["None of 1 polyps is found, so no kind is predicted."]
    found = table.assign(predicted="non-neoplastic")
    assert "Of 1 polyps, 1 are found; 0.000" in kind_findings(found, kinds)[0]


# --- the table and the gallery -------------------------------------------------------------------


def test_error_table_joins_scores_features_and_objects_worst_first(evaluation, dataset):
    table = error_table(evaluation, dataset)
    assert table["id"].tolist() == ["missed", "half", "good", "clean"]  # NaN is not the worst
    assert table.columns[:5].tolist() == ["id", "dice", "iou", "precision", "recall"]
    assert {*FEATURES, "touches_border", "overlay"} < {*table.columns}
    for _, row in table.iterrows():
        truth, _, dice, counted = FRAMES[row["id"]]
        assert row["dice"] == pytest.approx(dice, nan_ok=True)
        assert tuple(row[["found", "missed", "hallucinated"]]) == counted
        assert row["area_share"] == truth.mean()
        assert row["group"] == ("a place" if row["id"] in ("half", "good") else row["id"])
        assert row["pixels"] == SIDE**2
    assert table["touches_border"].tolist() == [True, False, False, False]
    assert table["iou"].eq(0.5).all()
    wrong = table.set_index("id")[["lost_inside", "lost_rim", "spilt_rim", "spilt_outside"]]
    assert wrong.loc["half", ["lost_inside", "lost_rim"]].sum() == 16 * 32
    assert wrong.loc[["good", "clean"]].to_numpy().sum() == 0
    costs = table.filter(like="cost_").sum(axis=1, skipna=False)
    assert costs.tolist() == pytest.approx((1 - table["dice"]).tolist(), nan_ok=True)
    assert "sessile" not in table  # no frame of this data set can be in Kvasir-Sessile


def test_sessile_is_a_column_if_the_data_set_holds_such_frames(evaluation, dataset, monkeypatch):
    monkeypatch.setattr(
        "polyp_utils.analyse.failures.sessile_ids", lambda: frozenset({"half", "elsewhere"})
    )
    table = error_table(evaluation, dataset).set_index("id")
    assert table["sessile"].to_dict() == {i: i == "half" for i in FRAMES}


@pytest.mark.parametrize("with_map", [False, True])
def test_gallery_shows_truth_prediction_and_map_in_the_given_order(with_map, run, dataset):
    titles = {"missed": "first", "half": "second"}
    frames = predicted_frames(read_by(run), dataset, titles, with_map)
    assert [frame.title for frame in frames] == ["first", "second"]
    assert {frame.dataset for frame in frames} == {"phantom"}
    for frame_id, frame in zip(titles, frames, strict=True):
        truth, prediction, *_ = FRAMES[frame_id]
        assert frame.image.shape == (SIDE, SIDE, 3)
        assert (frame.truth == truth).all()
        assert (frame.prediction == prediction).all()
        if with_map:
            assert ((frame.probability > 0.5) == prediction).all()
            assert (frame.probability.min(), frame.probability.max()) == pytest.approx((0.2, 0.8))
        else:
            assert frame.probability is None


def test_a_gallery_of_two_systems_shows_both(run, dataset):
    full = of_arrays({"half": np.ones((SIDE, SIDE), bool)})
    (frame,) = predicted_frames(read_by(run), dataset, {"half": "t"}, other=full)
    assert (frame.prediction == FRAMES["half"][1]).all()
    assert frame.second.all()


def test_findings_on_the_synthetic_frames(evaluation, dataset):
    table = error_table(evaluation, dataset)
    text = driver_findings(table)
    assert text[0].startswith("1 of 3 frames score below 0.5; the mean is 0.556 [")
    objects = failure_types.failure_findings(table)[0]
    assert objects.startswith("As objects: 2 of 3 polyps found, 1 missed in 1 frames; 0 split")
