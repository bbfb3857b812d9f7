"""The two terms of the loss on masks whose losses and gradients can be written down."""

import numpy as np
import pytest
import torch

from polyp_utils.analyse.loss_terms import NO, cost_of_missing, pull_on_polyp


def polyp_of(pixels):
    """A mask of 100 pixels."""
    return (torch.arange(100) < pixels).view(10, 10)


def test_overlooking_a_small_polyp_costs_little_cross_entropy_and_a_whole_dice():
    table = cost_of_missing([polyp_of(2), polyp_of(0), polyp_of(50)])
    assert table["share"].to_dict() == {0: 0.02, 2: 0.5}
    share = table["share"]
    ce = -share * np.log(NO) - (1 - share) * np.log(1 - NO)
    assert table["cross-entropy"].tolist() == pytest.approx(ce.tolist())
    dice = 1 - 2 * NO * share / (NO + share)
    assert table["Dice loss"].tolist() == pytest.approx(dice.tolist(), abs=1e-6)
    assert list(cost_of_missing([polyp_of(0)])) == list(table)


def test_the_pull_on_a_polyp_pixel_is_the_derivative_by_hand():
    p, polyp = np.array([0.001, 0.3, 0.9]), polyp_of(20)
    table = pull_on_polyp(polyp, p)
    assert table["cross-entropy"].tolist() == pytest.approx((1 - p).tolist())
    said, true = 20 * p + 80 * NO, 20
    slope = 2 * ((said + true) - 20 * p) / (said + true) ** 2  # of 2·Σpt / (Σp + Σt) by one p
    assert table["Dice loss"].tolist() == pytest.approx((100 * slope * p * (1 - p)).tolist())
    sure, unsure, _ = table["Dice loss"] / table["cross-entropy"]
    assert sure < 0.1 < 1 < unsure  # why both
