"""Missed, found and hallucinated polyps on four drawn frames whose every number is known."""

import itertools
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from polyp_utils.config import RunConfig
from polyp_utils.data.labels import get_scheme
from polyp_utils.errors import (
    FEATURES,
    by_stratum,
    correlations,
    dice_model,
    error_table,
    findings,
    gallery,
    kind_findings,
    kind_table,
)
from polyp_utils.evaluation import Evaluation
from polyp_utils.files import write_json
from polyp_utils.predictions import Predictions
from polyp_utils.protocols import NETWORK, ORIGINAL, POLYP
from polyp_utils.runs import Run

SIDE = 64  # of a frame; predictions are stored at 32 and doubled exactly


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
    """A run with the stored predictions, 8 of 10 sure."""
    run = Run(tmp_path / "run")
    config = RunConfig.from_recipe("quick", scheme="binary", image_size=32)
    write_json(run.path / "config.json", {"settings": config.to_dict()})
    for frame_id, (_, prediction, _, _) in FRAMES.items():
        polyp = torch.from_numpy(np.where(prediction[::2, ::2], 0.8, 0.2))
        run.save_probabilities("test", frame_id, torch.stack([1 - polyp, polyp]))
    return run


@pytest.fixture
def dataset():
    """What a data set says of the frames: grey images, a lighter polyp."""

    def original(frame_id):
        truth = FRAMES[frame_id][0]
        image = np.where(truth, 180, 120).astype(np.uint8)
        return np.repeat(image[..., None], 3, axis=2), np.where(truth, 255, 0).astype(np.uint8)

    return SimpleNamespace(original=original)


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
    return Evaluation(read_by(run), table, np.zeros((2, 2)), {})


def features(n=40, seed=0):
    """A table like `error_table`'s: Dice rises with the area and falls with the contrast."""
    rng = np.random.default_rng(seed)
    dice = rng.uniform(0.2, 1, n)
    return pd.DataFrame(
        {
            "id": [f"f{i}" for i in range(n)],
            "dice": dice,
            "area_share": dice + rng.normal(0, 0.05, n),
            "off_centre": rng.uniform(size=n),
            "brightness": np.full(n, 50.0),
            "contrast": -dice + rng.normal(0, 0.2, n),
            "sharpness": rng.uniform(size=n),
            "specular": rng.uniform(size=n),
            "sessile": np.zeros(n, bool),
            "n_polyps": np.ones(n, int),
            "touches_border": np.arange(n) % 4 == 0,
            "overlay": np.where(np.arange(n) < 30, "none", "green box"),
            "found": np.ones(n, int),
            "missed": np.arange(n) % 10 == 0,
            "hallucinated": np.zeros(n, int),
        }
    )


# --- kinds ---------------------------------------------------------------------------------------


@pytest.fixture
def two_kinds(tmp_path):
    """Two frames: a neoplastic polyp taken for the other kind; one found as it is, one missed."""
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
    assert first.startswith("Of 3 polyps 2 are found; 0.500 [")
    assert "calling all of them neoplastic would give 0.500" in first
    assert each[0].startswith("Of the 1 neoplastic ones that are found: 0.000")
    assert each[1].startswith("Of the 1 non-neoplastic ones that are found: 1.000")


def test_a_scheme_with_one_kind_has_none_to_mistake(evaluation, dataset):
    dataset.original_mask = lambda frame_id: dataset.original(frame_id)[1]
    table = kind_table(evaluation, dataset)
    assert table["kind"].tolist() == ["polyp"] * 3
    assert table["predicted"].tolist() == ["polyp", "missed", "polyp"]
    assert kind_findings(table, ["polyp"]) == [
        "The label scheme knows one kind of polyp, so there is none to mistake."
    ]


def test_kinds_when_nothing_is_found_or_one_kind_is_shown():
    table = pd.DataFrame({"id": ["a"], "kind": ["neoplastic"], "predicted": ["missed"]})
    kinds = ["neoplastic", "non-neoplastic"]
    assert kind_findings(table, kinds) == ["None of 1 polyps is found, so no kind is given."]
    found = table.assign(predicted="non-neoplastic")
    assert "Of 1 polyps 1 are found; 0.000" in kind_findings(found, kinds)[0]


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
    assert table["touches_border"].tolist() == [True, False, False, False]
    assert table["iou"].eq(0.5).all()


@pytest.mark.parametrize("with_map", [False, True])
def test_gallery_shows_truth_prediction_and_map_in_the_order_asked(with_map, run, dataset):
    titles = {"missed": "first", "half": "second"}
    frames = gallery(read_by(run), dataset, titles, with_map)
    assert [frame.title for frame in frames] == ["first", "second"]
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


# --- strata, correlations, sentences -------------------------------------------------------------


@pytest.mark.parametrize("bins", [2, 4])
def test_strata_of_a_number_are_its_quantiles(bins):
    table = features()
    found = by_stratum(table, "area_share", bins)
    groups = np.array_split(table.sort_values("area_share")["dice"].to_numpy(), bins)
    edges = np.quantile(table["area_share"], np.linspace(0, 1, bins + 1))
    labels = [f"{low:.2f}–{high:.2f}" for low, high in itertools.pairwise(edges)]
    assert found["stratum"].tolist() == labels
    assert found["mean"].tolist() == pytest.approx([group.mean() for group in groups])
    assert found["n"].tolist() == [40 // bins] * bins
    assert (found["low"] < found["mean"]).all()
    assert (found["mean"] < found["high"]).all()


@pytest.mark.parametrize(
    ("column", "labels"),
    [
        ("overlay", ["green box", "none"]),
        ("touches_border", ["no", "yes"]),
        ("n_polyps", ["0", "1", "2", "3", "4", "5", "6"]),
    ],
)
def test_strata_of_a_category_are_its_values(column, labels):
    table = features().assign(n_polyps=np.arange(40) % 7)
    table.loc[3, "dice"] = np.nan
    found = by_stratum(table, column)
    expected = table.groupby(column)["dice"].agg(["mean", "count"])
    assert found["stratum"].tolist() == labels
    assert found["mean"].tolist() == pytest.approx(expected["mean"].tolist())
    assert found["n"].tolist() == expected["count"].tolist()


def test_correlations_come_strongest_first_with_their_sign():
    table = features()
    found = correlations(table).set_index("feature")
    order = [FEATURES[name] for name in ("area_share", "contrast")]
    assert found.index[:2].tolist() == order
    for name in ("area_share", "contrast", "off_centre"):
        rho = stats.spearmanr(table[name], table["dice"]).statistic
        assert found.loc[FEATURES[name], "rho"] == pytest.approx(rho)
    assert found.loc[order[0], "low"] > 0 > found.loc[order[1], "high"]
    assert found["rho"].isna().tolist() == [False] * 5 + [True] * 2  # constant here


def test_findings_say_what_the_table_holds():
    table = features()
    table.loc[0, "dice"] = np.nan
    text = findings(table)
    scored = table["dice"].dropna()
    assert all(sentence.endswith(".") for sentence in text)
    assert text[0].startswith(f"{(scored < 0.5).sum()} of 39 frames score below 0.5; the mean is")
    assert f"{scored.mean():.3f} [" in text[0]
    assert f"the median {scored.median():.3f}" in text[0]
    assert text[1] == "As objects: 40 of 44 polyps found, 4 missed, 0 hallucinated."
    by_feature = {name: next(s for s in text if FEATURES[name] in s) for name in FEATURES}
    assert by_feature["area_share"].startswith("Dice rises with")
    assert by_feature["contrast"].startswith("Dice falls with")
    assert by_feature["off_centre"].startswith("No steady rise or fall")
    assert "hardly varies" in by_feature["brightness"]
    assert "hardly varies" in by_feature["n_polyps"]


def test_findings_compare_frames_with_and_without_overlay_and_border_contact():
    table = features()
    *_, of_overlay, of_border, _ = findings(table)
    for sentence, rows in (
        (of_overlay, table["overlay"] == "green box"),
        (of_border, table["touches_border"]),
    ):
        with_it, without = (table.loc[r, "dice"] for r in (rows, ~rows))
        assert sentence.startswith("With ")
        assert f": {with_it.mean():.3f} [" in sentence
        assert f"(n = {len(with_it)}); without: {without.mean():.3f} [" in sentence
        assert sentence.endswith(f"(n = {len(without)}).")


def test_findings_do_not_compare_a_single_frame():
    table = features().assign(overlay="none", touches_border=[True] + [False] * 39)
    assert findings(table)[-3:] == [
        "Too few frames with or without an overlay to compare.",
        "Too few frames with or without contact with the border to compare.",
        "Too few frames with or without a flat or sessile polyp (Kvasir-Sessile) to compare.",
    ]


def test_findings_of_the_drawn_frames(evaluation, dataset):
    text = findings(error_table(evaluation, dataset))
    assert text[0].startswith("1 of 3 frames score below 0.5; the mean is 0.556 [")
    assert text[1] == "As objects: 2 of 3 polyps found, 1 missed, 1 hallucinated."


def test_a_model_finds_the_effects_that_made_the_scores():
    rng = np.random.default_rng(6)
    table = features(400)
    table["area_share"] = np.exp(rng.normal(-2, 0.7, 400))
    table["contrast"] = rng.normal(30, 10, 400)
    size, contrast = np.log(table["area_share"]), table["contrast"]
    noise = rng.normal(0, 0.02, 400)
    table["dice"] = 0.7 + 0.05 * (size - size.mean()) / size.std() - 0.002 * (contrast - 30) + noise
    table.loc[table["touches_border"], "dice"] -= 0.1
    model, explained = dice_model(table)
    found = model.set_index("property")
    assert list(model["property"][:3]) == [
        "contact with the border",
        FEATURES["area_share"],
        FEATURES["contrast"],
    ]
    for name, effect in (
        ("contact with the border", -0.1),
        (FEATURES["area_share"], 0.05),
        (FEATURES["contrast"], -0.002 * contrast.std()),
    ):
        assert found.loc[name, "low"] < effect < found.loc[name, "high"]
    for name in ("off_centre", "sharpness", "specular"):
        assert abs(found.loc[FEATURES[name], "effect"]) < 0.005
    assert FEATURES["brightness"] not in found.index  # it does not vary, so it explains nothing
    assert 0.9 < explained < 1
    few, unknown = dice_model(table[:30])
    assert few.empty
    assert np.isnan(unknown)
