"""Whether a system knows when it is wrong: its uncertainty about a frame against its Dice."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from polyp_utils.data.labels import Scheme
from polyp_utils.score.intervals import NONE, Interval, percentile_interval, resamples

if TYPE_CHECKING:
    from torch import Tensor

BAD_DICE = 0.7
DOUBTS = ("disagreement of mirrored copies", "self-doubt of one pass")


def self_doubt(probabilities: Tensor, scheme: Scheme) -> float:
    """One minus the Dice that a prediction expects of itself, in [0, 1]; 0 if the mask is empty.

    The expected Dice is the soft Dice of the mask P(polyp) > 0.5 against P(polyp), from class
    probabilities (C, S, S) of a single pass.
    """
    polyp = scheme.polyp_probability(probabilities[None])[0]
    mask = polyp > 0.5
    return float(1 - 2 * polyp[mask].sum() / (polyp.sum() + mask.sum())) if mask.any() else 0.0


def auroc(
    score: Iterable[float],
    bad: Iterable[bool],
    groups: Iterable[object] | None = None,
    seed: int = 0,
) -> Interval:
    """Probability that a bad frame has a higher score than a good one; ties count half.

    The area under the ROC curve (Mann and Whitney 1947), with a percentile bootstrap over frames
    or groups of near-duplicates; NaN if all frames are bad or all are good, its
    bounds if many resamples are.
    """
    values, labels = np.asarray(list(score), np.float64), np.asarray(list(bad), bool)
    n = len(values)
    if labels.all() or not labels.any():
        return Interval(np.nan, np.nan, np.nan, n, NONE)
    drawn = resamples(range(n) if groups is None else groups, np.random.default_rng(seed))
    times = np.vstack([np.ones(n), drawn])  # each frame is drawn
    higher = np.heaviside(values[labels][:, None] - values[~labels], 0.5)
    pairs = times[:, labels].sum(axis=1) * times[:, ~labels].sum(axis=1)
    won = (times[:, labels] @ higher * times[:, ~labels]).sum(axis=1)
    with np.errstate(invalid="ignore"):  # undefined for a resample without bad or good frames
        whole, *areas = won / pairs
    return percentile_interval(float(whole), np.array(areas), n)


def risk_coverage_table(score: Iterable[float], dice: Iterable[float]) -> pd.DataFrame:
    """Mean Dice of the frames kept when the most uncertain ones are referred to a reader.

    Returns:
        Columns ``coverage`` (share of frames kept), ``dice`` (their mean), and ``best`` (the mean
        if frames were ranked by their true Dice).
    """
    scores, values = np.asarray(list(score), float), np.asarray(list(dice), float)
    there = ~np.isnan(values)
    scores, values = scores[there], values[there]
    kept = np.arange(1, len(values) + 1)
    by_score = values[np.argsort(scores, kind="stable")].cumsum() / kept
    by_truth = np.sort(values)[::-1].cumsum() / kept
    return pd.DataFrame({"coverage": kept / len(values), "dice": by_score, "best": by_truth})
