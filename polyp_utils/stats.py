"""Intervals: a mean without one is not a result."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from scipy import stats

RESAMPLES = 9999


class Interval(NamedTuple):
    """A mean with its confidence interval and the number of values behind it."""

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def mean_interval(values: Iterable[float], confidence: float = 0.95, seed: int = 0) -> Interval:
    """Mean with its BCa bootstrap interval (Efron 1987), resampling the values.

    NaN (by the rule for absent classes) leaves the mean and is not counted in ``n``. The bounds
    are NaN with fewer than two values; equal values give an interval of no width.
    """
    kept = np.asarray(list(values), dtype=np.float64)
    kept = np.sort(kept[~np.isnan(kept)])  # the order of the images must not matter
    if len(kept) < 2:
        return Interval(float(kept.mean()) if len(kept) else np.nan, np.nan, np.nan, len(kept))
    mean = float(kept.mean())
    if np.ptp(kept) == 0:
        return Interval(mean, mean, mean, len(kept))
    result = stats.bootstrap(
        (kept,),
        np.mean,
        confidence_level=confidence,
        n_resamples=RESAMPLES,
        method="BCa",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(mean, float(result.low), float(result.high), len(kept))


def spearman_interval(
    x: Iterable[float], y: Iterable[float], confidence: float = 0.95, seed: int = 0
) -> Interval:
    """Spearman's rank correlation with its percentile bootstrap interval, resampling pairs.

    Pairs with a NaN are left out. NaN with fewer than three pairs or when one side is constant;
    bounds of NaN when one side is so nearly constant that many resamples have no correlation.
    """
    pairs = np.stack([np.asarray(list(x), np.float64), np.asarray(list(y), np.float64)])
    pairs = pairs[:, ~np.isnan(pairs).any(axis=0)]
    if pairs.shape[1] < 3 or np.ptp(pairs, axis=1).min() == 0:
        return Interval(np.nan, np.nan, np.nan, pairs.shape[1])
    rng = np.random.default_rng(seed)
    rows = rng.integers(pairs.shape[1], size=(RESAMPLES, pairs.shape[1]))
    ranks = stats.rankdata(pairs[:, rows], axis=-1)
    ranks -= ranks.mean(axis=-1, keepdims=True)
    spread = np.sqrt((ranks**2).sum(axis=-1).prod(axis=0))
    with np.errstate(invalid="ignore"):  # a resample of equal values has no correlation
        resampled = ranks.prod(axis=0).sum(axis=-1) / spread
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(resampled, [tail, 1 - tail])
    if np.isnan(resampled).mean() > tail:  # nearly constant: the bounds would rest on a few pairs
        low = high = np.nan
    rho = float(stats.spearmanr(*pairs).statistic)
    return Interval(rho, float(low), float(high), pairs.shape[1])
