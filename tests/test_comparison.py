"""Comparisons of whole evaluations; the statistics themselves are in test_intervals."""

import numpy as np
import pandas as pd
import pytest

from polyp_utils.data.labels import POLYP, get_scheme
from polyp_utils.runs.predictions import Predictions
from polyp_utils.score.comparison import (
    compare_systems,
    disagreement_findings,
    disagreements,
    far_apart,
    over_seeds,
)
from polyp_utils.score.differences import compare_paired
from polyp_utils.score.evaluation import Evaluation
from polyp_utils.score.protocols import NETWORK, ORIGINAL


def evaluation(name, dice, groups=None, first=0):
    ids = [f"f{first + i:03}" for i in range(len(dice))]
    tables = [
        pd.DataFrame({"id": ids, "size": size, "class": kind, "dice": values})
        for size, kind, values in (
            (ORIGINAL, POLYP, dice),
            (ORIGINAL, "polyp", 0.123),
            (NETWORK, POLYP, 0.456),
        )
    ]
    predictions = Predictions(name, get_scheme("binary"), tuple(ids), None)
    return Evaluation(predictions, pd.concat(tables), np.zeros((2, 2)), groups or {})


@pytest.fixture
def images():
    return np.random.default_rng(0).uniform(0.3, 0.95, 60)


def test_a_better_system_is_told_from_an_equal_one(images):
    rng = np.random.default_rng(1)
    one = evaluation("one", images + 0.02)
    others = [
        evaluation("worse", images + rng.normal(0, 0.01, 60)),
        evaluation("like it", images + 0.02 + rng.normal(0, 0.01, 60)),
    ]
    table = compare_systems(one, others).set_index("other")
    assert table.loc["worse", "difference"] == pytest.approx(0.02, abs=0.004)
    assert table.loc["worse", "p_holm"] == pytest.approx(2 * table.loc["worse", "p"])
    assert table.loc["worse", "p_holm"] < 0.001
    assert table.loc["like it", "p_holm"] > 0.05
    assert table.loc["like it", "low"] < 0 < table.loc["like it", "high"]
    assert 0.003 < table.loc["like it", "detectable"] < 0.006


def test_frames_are_matched_by_id_and_drawn_in_groups(images):
    groups = {f"f{i:03}": i // 5 for i in range(60)}
    one = evaluation("one", images, groups)
    other = evaluation("other", images[10:] * 0.98, first=10)
    shuffled = Evaluation(
        other.predictions, other.per_image.sample(frac=1, random_state=0), other.confusion, {}
    )
    (row,) = compare_systems(one, [shuffled]).to_dict("records")
    expected = compare_paired(images[10:], images[10:] * 0.98, [i // 5 for i in range(10, 60)])
    assert row["n"] == 50
    assert (row["difference"], row["p"]) == pytest.approx((expected.difference.mean, expected.p))


def test_runs_that_share_no_frame_are_refused(images):
    with pytest.raises(ValueError, match="one and far share no frame"):
        compare_systems(evaluation("one", images), [evaluation("far", images, first=100)])


def test_seeds_by_hand(images):
    runs = [evaluation(f"s{i}", images + shift) for i, shift in enumerate((-0.03, 0, 0.03))]
    groups = {i: k for k, i in enumerate(runs[0].per_image["id"])}
    mean, spread = over_seeds([r.per_image for r in runs], groups)
    assert mean.mean == pytest.approx(images.mean())
    assert spread == pytest.approx(0.03)
    assert mean.low < images.mean() - 0.03
    with pytest.raises(ValueError, match="different frames"):
        over_seeds([r.per_image for r in (runs[0], evaluation("s9", images, first=3))], groups)
    pairs = {i: k // 2 for i, k in groups.items()}
    together, _ = over_seeds([r.per_image for r in runs], pairs)
    assert together.mean == mean.mean
    assert together != mean


def test_disagreements_by_hand():
    one = evaluation("one", np.array([0.5, 0.9, 0.25, 0.8, np.nan, 0.7]))
    other = evaluation("other", np.array([0.75, 0.9, 0.75, 0.4, 0.5, 0.66]))
    table = disagreements(one, other)
    assert table["id"].tolist() == ["f002", "f003", "f000", "f005", "f001"]
    assert table["difference"].tolist() == pytest.approx([-0.5, 0.4, -0.25, 0.04, 0])
    assert table.loc[1, ["one", "other"]].tolist() == [0.8, 0.4]
    assert far_apart(table, 1)["id"].tolist() == ["f003", "f002"]  # first the one that ``one`` wins
    assert far_apart(table, 9)["id"].tolist() == ["f003", "f005", "f002", "f000"]
    assert disagreement_findings(table, "one", "other") == [
        "Of 5 frames `one` is better on 2, `other` on 2; they are equal on 1.",
        "They differ by more than 0.1 of Dice on 3: `one` is better on 1 of these, `other` on 2.",
    ]
    assert far_apart(disagreements(one, one), 3).empty


def test_disagreements_need_a_common_frame():
    apart = evaluation("apart", np.array([0.5]), first=7)
    with pytest.raises(ValueError, match="one and apart share no frame"):
        disagreements(evaluation("one", np.array([0.5])), apart)
