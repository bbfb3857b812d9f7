"""Differences between systems: a bootstrap interval, and a permutation test if they are paired."""

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from scipy import stats

from polyp_utils.score.intervals import (
    NONE,
    RESAMPLES,
    Interval,
    bootstrap_means,
    group_sums,
    mean_interval,
    percentile_interval,
)


class Comparison(NamedTuple):
    """Two systems on the same images.

    Attributes:
        difference: mean of first minus second, with its interval.
        p: two-sided p-value of a permutation test; null hypothesis: the systems are exchangeable
            per group of images.
        detectable: the smallest true difference that the test detects with 80 % power.
    """

    difference: Interval
    p: float
    detectable: float


def compare_paired(
    one: Iterable[float],
    other: Iterable[float],
    groups: Iterable[object] | None = None,
    seed: int = 0,
) -> Comparison:
    """Compares two systems on the same images: paired bootstrap and permutation test.

    The test flips the sign of each group's differences at random (`RESAMPLES` times). An image
    whose score is NaN for either system is left out. The detectable difference is
    (z₀.₉₇₅ + z₀.₈)·SE.

    Args:
        one: scores of the first system, one per image.
        other: scores of the second, in the same order.
        groups: as in `mean_interval`.
        seed: for both resamplings.

    Raises:
        ValueError: the numbers of scores differ.
    """
    one, other = np.asarray(list(one), np.float64), np.asarray(list(other), np.float64)
    if len(one) != len(other):
        raise ValueError(f"{len(one)} and {len(other)} scores: a paired test needs the same images")
    labels = None if groups is None else list(groups)
    interval = mean_interval(one - other, seed=seed, groups=labels)
    sums, counts, _ = group_sums(one - other, np.ones(len(one)), labels)
    if len(sums) < 2:
        return Comparison(interval, np.nan, np.nan)
    signs = np.random.default_rng(seed).integers(0, 2, (RESAMPLES, len(sums))) * 2 - 1
    tolerance = 1e-12 * np.abs(sums).sum()
    extreme = np.abs(signs @ sums) >= abs(sums.sum()) - tolerance
    residual = sums - interval.mean * counts
    error = math.sqrt((residual**2).sum() * len(sums) / (len(sums) - 1)) / counts.sum()
    reach = float(stats.norm.ppf(0.975) + stats.norm.ppf(0.8))
    return Comparison(interval, float((1 + extreme.sum()) / (1 + RESAMPLES)), reach * error)


def compare_unpaired(
    one: Iterable[float],
    other: Iterable[float],
    groups: tuple[Iterable[object] | None, Iterable[object] | None] = (None, None),
    seed: int = 0,
) -> Interval:
    """Mean of one minus mean of other, on different frames, with a percentile bootstrap interval.

    The two sides are resampled independently, by groups if given. ``n`` counts both together. The
    result is NaN if either side has fewer than two values or groups.
    """
    rng = np.random.default_rng(seed)
    means, drawn, n = [], [], 0
    for side, labels in zip((one, other), groups, strict=True):
        values, of = list(side), None if labels is None else list(labels)
        tops, bottoms, count = group_sums(values, np.ones(len(values)), of)
        n += count
        if len(tops) < 2:
            return Interval(np.nan, np.nan, np.nan, n, NONE)
        means.append(float(tops.sum() / bottoms.sum()))
        drawn.append(bootstrap_means(values, of, rng))
    return percentile_interval(means[0] - means[1], drawn[0] - drawn[1], n)


def holm(p_values: Iterable[float]) -> np.ndarray:
    """Holm-adjusted p-values (Holm 1979), in the given order; NaN stays and counts as no test."""
    p = np.asarray(list(p_values), np.float64)
    order = [i for i in np.argsort(p) if not np.isnan(p[i])]
    adjusted = p.copy()
    running = 0.0
    for rank, i in enumerate(order):
        running = max(running, min(1.0, (len(order) - rank) * p[i]))
        adjusted[i] = running
    return adjusted
