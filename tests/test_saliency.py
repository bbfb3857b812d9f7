"""MAE, weighted F, S- and E-measure against golden values of pysodmetrics, and by hand."""

from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from golden.pairs import random_pairs, real_pairs

from polyp_utils.score.saliency import saliency_scores

HERE = Path(__file__).parent
GOLDEN = pd.read_csv(HERE / "golden/saliency.csv")
TOLERANCE = 1e-6


def scores_of(pairs):
    return pd.DataFrame([saliency_scores(*pair) for pair in pairs])


def test_200_random_pairs_score_as_in_pysodmetrics():
    found = scores_of(random_pairs())
    pd.testing.assert_frame_equal(found, GOLDEN[:200], rtol=0, atol=TOLERANCE)
    assert found.nunique().min() > 100


@pytest.mark.data
def test_200_real_pairs_score_as_in_pysodmetrics(kvasir_root):
    found = scores_of(real_pairs(HERE.parent, kvasir_root / "Kvasir-SEG"))
    expected = GOLDEN[200:].reset_index(drop=True)
    pd.testing.assert_frame_equal(found, expected, rtol=0, atol=TOLERANCE)


def test_a_perfect_map_scores_1_and_its_opposite_0():
    _, mask = next(islice(random_pairs(), 3, None))
    perfect, wrong = (saliency_scores(values, mask) for values in (mask * 1.0, 1.0 - mask))
    assert perfect["mae"] == 0
    assert wrong["mae"] == 1
    for name in ("weighted_f", "s_measure", "e_max"):
        assert perfect[name] == pytest.approx(1, abs=1e-3)
        assert wrong[name] < 0.3


def test_empty_targets_follow_the_rule():
    empty = np.zeros((20, 30), bool)
    right, wrong = (saliency_scores(np.full((20, 30), p), empty) for p in (0.0, 1.0))
    assert (right["mae"], right["weighted_f"], right["s_measure"]) == (0, 0, 1)
    assert (wrong["mae"], wrong["weighted_f"], wrong["s_measure"]) == (1, 0, 0)
    assert right["e_max"] == pytest.approx(600 / 599)
    assert right["e_mean"] == pytest.approx(255 / 256 * 600 / 599)  # level 0 predicts everything
    assert wrong["e_mean"] == 0


@pytest.mark.parametrize(
    ("probability", "target", "message"),
    [
        (np.zeros((4, 5)), np.zeros((5, 4), bool), r"map \(4, 5\)"),
        (np.zeros((4, 5)), np.zeros((4, 5)), "must be bool"),
        (np.full((4, 5), 1.5), np.zeros((4, 5), bool), r"1\.5 … 1\.5: it must lie in \[0, 1\]"),
    ],
)
def test_bad_input_is_refused(probability, target, message):
    with pytest.raises(ValueError, match=message):
        saliency_scores(probability, target)
