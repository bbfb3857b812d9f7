"""Boundary scores by hand, and against MONAI on random and real masks."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from golden.pairs import random_pairs, real_pairs

from polyp_utils.score.surface import surface_scores

NAMES = ["hd95", "asd", "nsd_2px", "nsd_2of256", "boundary_iou"]
TOLERANCE = 1e-4  # MONAI computes in float32


def square(top, left, side=10, shape=(60, 80)):
    mask = np.zeros(shape, bool)
    mask[top : top + side, left : left + side] = True
    return mask


def by_monai(prediction, target):
    monai = pytest.importorskip("monai.metrics")
    one, other = (torch.from_numpy(m)[None, None].float() for m in (prediction, target))
    height, width = target.shape
    scaled = 2 * math.sqrt(height * width) / 256
    return {
        "hd95": monai.compute_hausdorff_distance(one, other, True, percentile=95).item(),
        "asd": monai.compute_average_surface_distance(one, other, True, symmetric=True).item(),
        "nsd_2px": monai.compute_surface_dice(one, other, [2.0], True).item(),
        "nsd_2of256": monai.compute_surface_dice(one, other, [scaled], True).item(),
    }


def compare(pairs):
    compared = 0
    for probability, target in pairs:
        prediction = probability > 0.5
        if prediction.any() and target.any():
            found = surface_scores(prediction, target)
            for name, expected in by_monai(prediction, target).items():
                assert found[name] == pytest.approx(expected, abs=TOLERANCE), name
            compared += 1
    return compared


def test_random_pairs_score_as_in_monai():
    assert compare(random_pairs()) > 140  # in the other pairs, one mask is empty


@pytest.mark.data
def test_real_pairs_score_as_in_monai(kvasir_root):
    assert compare(real_pairs(Path(__file__).parents[1], kvasir_root / "Kvasir-SEG")) > 190


def test_a_perfect_mask():
    assert list(surface_scores(square(5, 5), square(5, 5)).values()) == [0, 0, 1, 1, 1]


def test_a_shifted_square_by_hand():
    found = surface_scores(square(10, 13), square(10, 10))
    assert found["hd95"] == 3  # the two far sides, 10 of 36 boundary pixels each way
    # Along top and bottom, columns 10–12 are 3, 2, 1 px from the other boundary. The side at
    # column 10 has 8 more pixels, 3 px away; those of the side at 19 are 1, 2, 3, 3, 3, 3, 2, 1 px
    # from the nearest of top, bottom and column 22.
    assert found["asd"] == pytest.approx((2 * (3 + 2 + 1) + 8 * 3 + 18) / 36)
    assert found["nsd_2px"] == pytest.approx(1 - (2 + 8 + 4) / 36)
    # The rim is 2 px wide (2 % of the diagonal of 100): 64 px each; 2 rows above and below share
    # 7 columns, the sides share nothing but what lies in those rows.
    assert found["boundary_iou"] == pytest.approx(28 / (128 - 28))


def test_tolerance_grows_with_the_frame():
    shape = (512, 512)
    found = surface_scores(square(100, 104, 60, shape), square(100, 100, 60, shape))
    assert found["nsd_2of256"] == 1  # 4 px in 512 are 2 px in 256
    assert found["nsd_2px"] < 1


@pytest.mark.parametrize(
    ("prediction", "target", "expected"),
    [
        (False, False, [math.nan] * 5),
        (True, False, [100, 100, 0, 0, 0]),
        (False, True, [100, 100, 0, 0, 0]),
    ],
)
def test_empty_masks_follow_the_rule(prediction, target, expected):
    masks = [square(5, 5) if full else np.zeros((60, 80), bool) for full in (prediction, target)]
    found = surface_scores(*masks)
    assert list(found) == NAMES
    np.testing.assert_equal(list(found.values()), expected)


def test_the_order_of_the_masks_does_not_matter():
    one, other = square(10, 10, 20), square(14, 17, 12)
    assert surface_scores(one, other) == pytest.approx(surface_scores(other, one))


def test_bad_masks_are_refused():
    with pytest.raises(ValueError, match=r"prediction is uint8 \(4, 5\)"):
        surface_scores(np.zeros((4, 5), np.uint8), np.zeros((4, 5), bool))
    with pytest.raises(ValueError, match=r"prediction is bool \(4, 5\)"):
        surface_scores(np.zeros((4, 5), bool), np.zeros((5, 5), bool))
