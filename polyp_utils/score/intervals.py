"""Intervals: a mean without one is not a result."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

RESAMPLES = 9999
FEW = 10  # values: with fewer no interval is worth its ink


class Interval(NamedTuple):
    """A mean with its confidence interval and the number of values behind it.

    As text, ``0.873 [0.828, 0.903]``, or in another number format, for example ``+.4f``; without
    brackets where there are no bounds, and a dash where there is no mean (NaN).
    """

    mean: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, row: Any, value: str = "mean") -> "Interval":
        """Of a row (mapping or Series) with ``value``, ``low``, ``high``, and perhaps ``n``.

        None is NaN, as in JSON.
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
        difference: mean of the first minus the second, with its interval.
        p: two-sided, of a permutation test against "the systems are exchangeable per image".
        detectable: the smallest true difference that such a test finds with 80 % power.
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

    NaN (by the rule for absent classes) leaves the mean and is not counted in ``n``. The bounds
    are NaN with fewer than two values or groups; equal values give an interval of no width.

    Args:
        values: one per image.
        confidence: of the interval.
        seed: of the resampling.
        groups: of each value: images of one sequence, or near-duplicates, are drawn together.
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

    A mean is the ratio with denominators of 1; Dice over pooled pixels is another. Items with a
    denominator of 0 leave it and are not counted in ``n``.
    """
    above, below = (np.asarray(list(v), np.float64) for v in (numerators, denominators))
    labels = np.arange(len(above)) if groups is None else pd.factorize(pd.Series(list(groups)))[0]
    there = below != 0
    above, below, labels = above[there], below[there], labels[there]
    n = len(above)
    ratio = float(above.sum() / below.sum()) if n else np.nan
    _, of = np.unique(labels, return_inverse=True)
    tops, bottoms = np.bincount(of, above), np.bincount(of, below)
    order = np.lexsort((tops, bottoms))  # the order of the images must not matter
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
    """Values that are numbers, and a number for the group of each."""
    array = np.asarray(list(values), dtype=np.float64)
    labels = np.arange(len(array)) if groups is None else pd.factorize(pd.Series(list(groups)))[0]
    there = ~np.isnan(array)
    return array[there], labels[there]


def _by_group(values: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sum and count per group, sorted: the order of the images must not matter."""
    _, of = np.unique(labels, return_inverse=True)
    sums, counts = np.bincount(of, values), np.bincount(of)
    order = np.lexsort((sums, counts))
    return sums[order], counts[order]


def _resampled_means(tops: np.ndarray, bottoms: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Means of `RESAMPLES` bootstrap samples of the groups of `_by_group`."""
    weights = rng.multinomial(len(tops), np.full(len(tops), 1 / len(tops)), RESAMPLES)
    return (weights @ tops) / (weights @ bottoms)


def bootstrap_means(
    values: Iterable[float], groups: Iterable[object] | None = None, seed: int = 0
) -> np.ndarray:
    """Means of the bootstrap samples of which `mean_interval` tells the spread, float64 (R,).

    NaN leaves the mean; arguments as in `mean_interval`.
    """
    return _resampled_means(*_by_group(*_kept(values, groups)), np.random.default_rng(seed))


def members_of(groups: Iterable[object]) -> list[np.ndarray]:
    """Rows of each group, int64, in the order in which the groups appear."""
    labels = pd.factorize(pd.Series(list(groups)))[0]
    return [np.flatnonzero(labels == k) for k in range(labels.max() + 1)]


def draw_groups(members: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Rows of a bootstrap sample that draws as many whole groups as there are."""
    return np.concatenate([members[k] for k in rng.integers(len(members), size=len(members))])


def compare_paired(
    one: Iterable[float],
    other: Iterable[float],
    groups: Iterable[object] | None = None,
    seed: int = 0,
) -> Comparison:
    """Whether two systems differ on the same images: paired bootstrap and permutation test.

    The test flips the sign of each group's differences at random (`RESAMPLES` times). An image
    that is NaN for either leaves both. The detectable difference is (z₀.₉₇₅ + z₀.₈)·SE.

    Args:
        one: scores of the first, one per image.
        other: of the second, in the same order.
        groups: of each image, as in `mean_interval`.
        seed: of both resamplings.

    Raises:
        ValueError: another number of scores.
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

    Each side is resampled on its own, by its groups where it has any. ``n``: of both together.
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
    low, high = np.quantile(drawn[0] - drawn[1], [0.025, 0.975])
    return Interval(means[0] - means[1], float(low), float(high), n)


def holm(p_values: Iterable[float]) -> np.ndarray:
    """p-values adjusted for their number (Holm 1979), in their order; NaN stays and is no test."""
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
    """Mean over seeds and images with an interval over both.

    Seeds and images are resampled crosswise (Owen 2007, "the pigeonhole bootstrap", a little too
    wide rather than too narrow); percentile interval.

    Args:
        scores: (seeds, images); an image that is NaN under any seed is left out.
        groups: of each image, as in `mean_interval`.
        confidence: of the interval.
        seed: of the resampling.

    Returns:
        The bounds are NaN with fewer than two seeds or groups; ``n`` counts images.
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
    rows = rng.multinomial(runs, np.full(runs, 1 / runs), RESAMPLES) / runs
    columns = rng.multinomial(len(units), np.full(len(units), 1 / len(units)), RESAMPLES)[:, of]
    resampled = ((rows @ kept) * columns).sum(axis=1) / columns.sum(axis=1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return Interval(mean, float(low), float(high), n)


def left_tail(values: Iterable[float]) -> dict[str, float]:
    """What a mean hides: ``below_half`` (share under 0.5), 5th and 10th percentile."""
    kept, _ = _kept(values, None)
    if not len(kept):
        return dict.fromkeys(("below_half", "p05", "p10"), np.nan)
    p05, p10 = np.percentile(kept, [5, 10])
    return {"below_half": float((kept < 0.5).mean()), "p05": float(p05), "p10": float(p10)}


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
