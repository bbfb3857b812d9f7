"""Confidence intervals: a mean without one is not a result.

Means and ratios have BCa bootstrap intervals, from SciPy. All other bootstraps, here and elsewhere,
use `resamples` and have percentile intervals. Each draws `RESAMPLES` samples.
"""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

RESAMPLES = 9999
FEW = 10  # values; with fewer, an interval is not worth showing


class Interval(NamedTuple):
    """A mean with its confidence interval and the number of values behind it.

    Formats as ``0.873 [0.828, 0.903]``, or with another number format such as ``+.4f``; without
    brackets if the bounds are NaN, and as a dash if the mean is.
    """

    mean: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, row: Any, value: str = "mean") -> "Interval":
        """From a row (mapping or Series) with ``value``, ``low``, ``high`` and optionally ``n``.

        None, which stands for NaN in JSON, is read as NaN.
        """
        mean, low, high = (
            math.nan if row[key] is None else row[key] for key in (value, "low", "high")
        )
        return cls(mean, low, high, row.get("n", 0))

    def __format__(self, spec: str) -> str:
        mean, low, high = (f"{number:{spec or '.3f'}}" for number in self[:3])
        if math.isnan(self.mean):
            return "–"
        return mean if math.isnan(self.low) else f"{mean} [{low}, {high}]"

    def __str__(self) -> str:
        return format(self)


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


def mean_interval(
    values: Iterable[float],
    confidence: float = 0.95,
    seed: int = 0,
    groups: Iterable[object] | None = None,
) -> Interval:
    """Mean with its BCa bootstrap interval (Efron 1987), resampling values or whole groups.

    NaN values (absent classes) are left out of the mean and of ``n``. The bounds are NaN with
    fewer than two values or groups; equal values give an interval of zero width.

    Args:
        values: one per image.
        confidence: coverage of the interval.
        seed: for the resampling.
        groups: the group of each value; images of one sequence and near-duplicates share a group
            and are resampled together.
    """
    values = np.asarray(list(values), dtype=np.float64)
    counted = (~np.isnan(values)).astype(np.float64)
    return ratio_interval(np.nan_to_num(values), counted, confidence, seed, groups)


def ratio_interval(
    numerators: Iterable[float],
    denominators: Iterable[float],
    confidence: float = 0.95,
    seed: int = 0,
    groups: Iterable[object] | None = None,
) -> Interval:
    """Ratio of two sums with its BCa bootstrap interval, as in `mean_interval`.

    A mean is the ratio with denominators of 1; Dice pooled over pixels is another such ratio.
    Items with a denominator of 0 are left out of the ratio and of ``n``.
    """
    above, below = (np.asarray(list(v), np.float64) for v in (numerators, denominators))
    labels = np.arange(len(above)) if groups is None else pd.factorize(pd.Series(list(groups)))[0]
    there = below != 0
    above, below, labels = above[there], below[there], labels[there]
    n = len(above)
    ratio = float(above.sum() / below.sum()) if n else np.nan
    _, of = np.unique(labels, return_inverse=True)
    tops, bottoms = np.bincount(of, above), np.bincount(of, below)
    order = np.lexsort((tops, bottoms))  # makes the result independent of the images' order
    tops, bottoms = tops[order], bottoms[order]
    if len(tops) < 2:
        return Interval(ratio, np.nan, np.nan, n)
    if np.ptp(above / below) == 0:
        return Interval(ratio, ratio, ratio, n)
    result = stats.bootstrap(
        (tops, bottoms),
        lambda top, bottom, axis: top.sum(axis=axis) / bottom.sum(axis=axis),
        paired=True,
        confidence_level=confidence,
        n_resamples=RESAMPLES,
        method="BCa",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(ratio, float(result.low), float(result.high), n)


def _kept(
    values: Iterable[float], groups: Iterable[object] | None
) -> tuple[np.ndarray, np.ndarray]:
    """The values that are not NaN, and the group number of each."""
    array = np.asarray(list(values), dtype=np.float64)
    labels = np.arange(len(array)) if groups is None else pd.factorize(pd.Series(list(groups)))[0]
    there = ~np.isnan(array)
    return array[there], labels[there]


def _by_group(values: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sum and count per group, sorted so that the order of the images does not matter."""
    _, of = np.unique(labels, return_inverse=True)
    sums, counts = np.bincount(of, values), np.bincount(of)
    order = np.lexsort((sums, counts))
    return sums[order], counts[order]


def bootstrap_means(
    values: Iterable[float], groups: Iterable[object] | None = None, seed: int = 0
) -> np.ndarray:
    """Means of bootstrap samples, float64 (RESAMPLES,): `mean_interval` is about their spread.

    NaN leaves the mean; arguments as in `mean_interval`.
    """
    return _resampled_means(*_by_group(*_kept(values, groups)), np.random.default_rng(seed))


def _resampled_means(tops: np.ndarray, bottoms: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Means of bootstrap samples of the groups of `_by_group`."""
    weights = resamples(range(len(tops)), rng)
    return (weights @ tops) / (weights @ bottoms)


def resamples(groups: Iterable[object], rng: np.random.Generator) -> np.ndarray:
    """How often each item is in each of `RESAMPLES` bootstrap samples, int64 (RESAMPLES, items).

    Each sample draws, with replacement, as many whole groups as there are.

    Args:
        groups: the group of each item; ``range(n)`` if items are drawn one by one.
        rng: source of randomness.
    """
    labels = pd.factorize(pd.Series(list(groups)))[0]
    k = labels.max() + 1
    return rng.multinomial(k, np.full(k, 1 / k), RESAMPLES)[:, labels]


def percentiles(drawn: np.ndarray, confidence: float = 0.95) -> np.ndarray:
    """Lower and upper bound of the percentile interval, over the resamples in the first axis."""
    tail = (1 - confidence) / 2
    return np.quantile(drawn, [tail, 1 - tail], axis=0)


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
    sums, counts = _by_group(*_kept(one - other, labels))
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

    The two sides are resampled independently, by groups if given. ``n`` counts both together.
    """
    rng = np.random.default_rng(seed)
    drawn, means, n = [], [], 0
    for values, labels in zip((one, other), groups, strict=True):
        kept, of = _kept(values, labels)
        tops, bottoms = _by_group(kept, of)
        if len(tops) < 2:
            return Interval(np.nan, np.nan, np.nan, n + len(kept))
        drawn.append(_resampled_means(tops, bottoms, rng))
        means.append(float(kept.mean()))
        n += len(kept)
    low, high = percentiles(drawn[0] - drawn[1])
    return Interval(means[0] - means[1], float(low), float(high), n)


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


def seeds_interval(
    scores: np.ndarray,
    groups: Iterable[object] | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Mean over seeds and images, with an interval over both.

    Seeds and images are resampled independently of each other (Owen 2007, "the pigeonhole
    bootstrap", slightly conservative); percentile interval.

    Args:
        scores: (seeds, images); an image that is NaN under any seed is left out.
        groups: the group of each image, as in `mean_interval`.
        confidence: coverage of the interval.
        seed: for the resampling.

    Returns:
        The mean; its bounds are NaN with fewer than two seeds or groups. ``n`` counts images.
    """
    there = ~np.isnan(scores).any(axis=0)
    kept = scores[:, there]
    runs, n = kept.shape
    labels = np.arange(len(there)) if groups is None else np.asarray(list(groups))
    units, of = np.unique(labels[there], return_inverse=True)
    mean = float(kept.mean()) if kept.size else np.nan
    if min(runs, len(units)) < 2:
        return Interval(mean, np.nan, np.nan, n)
    rng = np.random.default_rng(seed)
    rows = resamples(range(runs), rng) / runs
    columns = resamples(range(len(units)), rng)[:, of]
    resampled = ((rows @ kept) * columns).sum(axis=1) / columns.sum(axis=1)
    low, high = percentiles(resampled, confidence)
    return Interval(mean, float(low), float(high), n)


def left_tail(values: Iterable[float]) -> dict[str, float]:
    """What a mean hides: ``below_half`` (share under 0.5), ``p05`` and ``p10`` (percentiles)."""
    kept, _ = _kept(values, None)
    if not len(kept):
        return dict.fromkeys(("below_half", "p05", "p10"), np.nan)
    p05, p10 = np.percentile(kept, [5, 10])
    return {"below_half": float((kept < 0.5).mean()), "p05": float(p05), "p10": float(p10)}


def spearman_interval(
    x: Iterable[float], y: Iterable[float], confidence: float = 0.95, seed: int = 0
) -> Interval:
    """Spearman's rank correlation with its percentile bootstrap interval, resampling pairs.

    Pairs with a NaN are left out. The result is NaN with fewer than three pairs or if one side is
    constant; its bounds are NaN if one side is so nearly constant that the correlation is
    undefined in many resamples.
    """
    pairs = np.stack([np.asarray(list(x), np.float64), np.asarray(list(y), np.float64)])
    pairs = pairs[:, ~np.isnan(pairs).any(axis=0)]
    if pairs.shape[1] < 3 or np.ptp(pairs, axis=1).min() == 0:
        return Interval(np.nan, np.nan, np.nan, pairs.shape[1])
    rng = np.random.default_rng(seed)
    n = pairs.shape[1]
    rows = np.repeat(np.tile(np.arange(n), RESAMPLES), resamples(range(n), rng).ravel())
    ranks = stats.rankdata(pairs[:, rows.reshape(RESAMPLES, n)], axis=-1)
    ranks -= ranks.mean(axis=-1, keepdims=True)
    spread = np.sqrt((ranks**2).sum(axis=-1).prod(axis=0))
    with np.errstate(invalid="ignore"):  # undefined for a resample of equal values
        resampled = ranks.prod(axis=0).sum(axis=-1) / spread
    defined = resampled[~np.isnan(resampled)]
    low, high = percentiles(defined, confidence)
    if len(defined) < RESAMPLES * (1 + confidence) / 2:  # the bounds would rest on a few pairs
        low = high = np.nan
    rho = float(stats.spearmanr(*pairs).statistic)
    return Interval(rho, float(low), float(high), pairs.shape[1])
