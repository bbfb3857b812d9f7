"""Confidence intervals: a mean without one is not a result.

Means and ratios have BCa bootstrap intervals, from SciPy. All other bootstraps, here and elsewhere,
use `resamples` and have percentile intervals (`percentile_interval`). Each draws `RESAMPLES`
samples.

One rule for all: an interval holds its value, or there is none. Where the value is outside the
middle 95 % of the resamples (BCa: |z0| > 1.96), either kind of interval misses it, and resampling
does not reproduce the statistic. With means and ratios of sums this cannot happen: the groups'
residuals from the ratio sum to zero, so that at least one resample in 16 lies on either side
(Hölder and Cauchy-Schwarz; the kurtosis of a sum of resampled residuals is at most 4), and |z0| is
below 1.54. `Interval.method` names what was used.
"""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

RESAMPLES = 9999
FEW = 10  # values; with fewer, an interval is not worth showing
ROUNDING = 1e-12  # numbers of magnitude 1 that differ by less are equal
BCA, PERCENTILE, NONE = "BCa", "percentile", "none"


class Interval(NamedTuple):
    """A mean with its confidence interval and the number of values behind it.

    Formats as ``0.873 [0.828, 0.903]``, or with another number format such as ``+.4f``; without
    brackets if the bounds are NaN, and as a dash if the mean is.

    Attributes:
        mean: or another statistic.
        low, high: ``low <= mean <= high``, or both are NaN.
        n: number of values.
        method: of the bounds: ``BCa``, ``percentile`` or ``none`` (they are NaN); empty if it was
            not recorded, or if they do not come from a bootstrap.
    """

    mean: float
    low: float
    high: float
    n: int
    method: str = ""

    @classmethod
    def of(cls, row: Any, value: str = "mean") -> "Interval":
        """From a row (mapping or Series) with ``value``, ``low``, ``high``.

        ``n`` and ``method`` are optional. None, which stands for NaN in JSON, is read as NaN.
        """
        mean, low, high = (
            math.nan if row[key] is None else row[key] for key in (value, "low", "high")
        )
        method = row.get("method")
        return cls(mean, low, high, row.get("n", 0), method if isinstance(method, str) else "")

    def __format__(self, spec: str) -> str:
        mean, low, high = (f"{number:{spec or '.3f'}}" for number in self[:3])
        if math.isnan(self.mean):
            return "–"
        return mean if math.isnan(self.low) else f"{mean} [{low}, {high}]"

    def __str__(self) -> str:
        return format(self)

    @property
    def named(self) -> str:
        """As text, with the method if it is not BCa: for tables whose intervals are BCa."""
        words = {PERCENTILE: " (percentile)", NONE: " (no interval)"}
        return str(self) + ("" if math.isnan(self.mean) else words.get(self.method, ""))


def mean_interval(
    values: Iterable[float],
    confidence: float = 0.95,
    seed: int = 0,
    groups: Iterable[object] | None = None,
) -> Interval:
    """Mean with its BCa bootstrap interval (Efron 1987), resampling values or whole groups.

    NaN values (absent classes) are left out of the mean and of ``n``. There is no interval with
    fewer than two values or groups; if all are equal, it has zero width (and is called percentile,
    since BCa is then undefined).

    Args:
        values: one per image.
        confidence: coverage of the interval.
        seed: for the resampling.
        groups: the group of each value; images of one sequence and near-duplicates share a group
            and are resampled together.
    """
    values = np.asarray(list(values), np.float64)
    return ratio_interval(values, np.ones(len(values)), confidence, seed, groups)


def ratio_interval(
    numerators: Iterable[float],
    denominators: Iterable[float],
    confidence: float = 0.95,
    seed: int = 0,
    groups: Iterable[object] | None = None,
) -> Interval:
    """Ratio of two sums with its BCa bootstrap interval, as in `mean_interval`.

    A mean is the ratio with denominators of 1; Dice pooled over pixels is another such ratio.
    Items that are NaN or have a denominator of 0 are left out of the ratio and of ``n``.

    Args:
        numerators: one per image.
        denominators: one per image, not negative.
        confidence: coverage of the interval.
        seed: for the resampling.
        groups: as in `mean_interval`.
    """
    tops, bottoms, n = group_sums(numerators, denominators, groups)
    if len(tops) < 2:
        return Interval(float(tops[0] / bottoms[0]) if n else np.nan, np.nan, np.nan, n, NONE)
    ratio = float(tops.sum() / bottoms.sum())
    if np.ptp(tops / bottoms) <= _slack(ratio):
        return Interval(ratio, ratio, ratio, n, PERCENTILE)
    found = stats.bootstrap(
        (tops, bottoms),
        lambda top, bottom, axis: top.sum(axis=axis) / bottom.sum(axis=axis),
        paired=True,
        confidence_level=confidence,
        n_resamples=RESAMPLES,
        method="BCa",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return _held(ratio, float(found.low), float(found.high), n, BCA)


def percentile_interval(
    value: float, drawn: np.ndarray, n: int, confidence: float = 0.95
) -> Interval:
    """A statistic with its percentile bootstrap interval.

    There is none if the value lies outside it, or if the statistic is undefined in so many
    resamples that the rest cannot tell the bounds.

    Args:
        value: of the whole sample.
        drawn: of each resample, float (`RESAMPLES`,); NaN where it is undefined.
        n: number of values.
        confidence: coverage of the interval.
    """
    defined, tail = drawn[~np.isnan(drawn)], (1 - confidence) / 2
    if len(defined) < (1 - tail) * len(drawn):
        return Interval(value, np.nan, np.nan, n, NONE)
    low, high = np.quantile(defined, [tail, 1 - tail])
    return _held(value, float(low), float(high), n, PERCENTILE)


def _held(value: float, low: float, high: float, n: int, method: str) -> Interval:
    """The rule: an interval holds its value, up to rounding, or there is none."""
    slack = _slack(value)
    if low - slack <= value <= high + slack:
        return Interval(value, min(low, value), max(high, value), n, method)
    return Interval(value, np.nan, np.nan, n, NONE)


def _slack(value: float) -> float:
    return ROUNDING * max(1.0, abs(value))


def group_sums(
    numerators: Iterable[float],
    denominators: Iterable[float],
    groups: Iterable[object] | None = None,
) -> tuple[np.ndarray, np.ndarray, int]:
    """Sums of both per group, float64 (groups,), and the number of items in them.

    The groups are sorted, so that the order of the images does not matter. Arguments and what is
    left out: as in `ratio_interval`.
    """
    above, below = (np.asarray(list(v), np.float64) for v in (numerators, denominators))
    labels = np.arange(len(above)) if groups is None else pd.factorize(pd.Series(list(groups)))[0]
    there = ~np.isnan(above) & ~np.isnan(below) & (below != 0)
    _, of = np.unique(labels[there], return_inverse=True)
    tops, bottoms = np.bincount(of, above[there]), np.bincount(of, below[there])
    order = np.lexsort((tops, bottoms))
    return tops[order], bottoms[order], int(there.sum())


def bootstrap_means(
    values: Iterable[float],
    groups: Iterable[object] | None = None,
    seed: int | np.random.Generator = 0,
) -> np.ndarray:
    """Means of bootstrap samples, float64 (RESAMPLES,): `mean_interval` is about their spread.

    NaN leaves the mean; arguments as in `mean_interval`.
    """
    values = np.asarray(list(values), np.float64)
    tops, bottoms, _ = group_sums(values, np.ones(len(values)), groups)
    weights = resamples(range(len(tops)), np.random.default_rng(seed))
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
        return Interval(mean, np.nan, np.nan, n, NONE)
    rng = np.random.default_rng(seed)
    rows = resamples(range(runs), rng) / runs
    columns = resamples(range(len(units)), rng)[:, of]
    resampled = ((rows @ kept) * columns).sum(axis=1) / columns.sum(axis=1)
    return percentile_interval(mean, resampled, n, confidence)


def left_tail(values: Iterable[float]) -> dict[str, float]:
    """What a mean hides: ``below_half`` (share under 0.5), ``p05`` and ``p10`` (percentiles)."""
    kept = np.asarray(list(values), np.float64)
    kept = kept[~np.isnan(kept)]
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
    n = pairs.shape[1]
    if n < 3 or np.ptp(pairs, axis=1).min() == 0:
        return Interval(np.nan, np.nan, np.nan, n, NONE)
    rng = np.random.default_rng(seed)
    rows = np.repeat(np.tile(np.arange(n), RESAMPLES), resamples(range(n), rng).ravel())
    ranks = stats.rankdata(pairs[:, rows.reshape(RESAMPLES, n)], axis=-1)
    ranks -= ranks.mean(axis=-1, keepdims=True)
    spread = np.sqrt((ranks**2).sum(axis=-1).prod(axis=0))
    with np.errstate(invalid="ignore"):  # undefined for a resample of equal values
        resampled = ranks.prod(axis=0).sum(axis=-1) / spread
    return percentile_interval(float(stats.spearmanr(*pairs).statistic), resampled, n, confidence)
