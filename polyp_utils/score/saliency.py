"""Scores that the field reports beside Dice: MAE, weighted F, S-measure, E-measure.

They score a probability map against a mask and were defined for salient object detection; PraNet
(Fan et al. 2020) introduced them to polyp segmentation. Definitions and constants are those of
pysodmetrics, against which they are tested.

**Empty masks.** MAE needs no rule. With an empty target, weighted F is 0, S-measure is one minus
the mean of the map, and E-measure at each threshold is the share of pixels that are not predicted:
an empty prediction scores 1 in the latter two, whereas overlap scores leave such a frame out of the
mean (`polyp_utils.score.overlap`).
"""

import math

import cv2
import numpy as np
from scipy import ndimage

THRESHOLDS = 256
_KERNEL, _SIGMA = 7, 5.0  # of the weighted F-measure, in pixels
_EPSILON = np.finfo(np.float64).eps


def saliency_scores(probability: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """All scores of a map float (H, W) in [0, 1] against a mask bool (H, W).

    Returns:
        ``mae``, ``weighted_f``, ``s_measure``, ``e_mean`` and ``e_max`` (over 256 thresholds).

    Raises:
        ValueError: the shapes differ, the target is not bool, or a value lies outside [0, 1].
    """
    if target.dtype != bool or target.ndim != 2 or probability.shape != target.shape:
        raise ValueError(
            f"map {probability.shape}, target {target.dtype} {target.shape}: the target must be "
            "bool (H, W) and the map of the same shape"
        )
    if not 0 <= probability.min() <= probability.max() <= 1:
        raise ValueError(
            f"the map holds {probability.min():g} … {probability.max():g}: it must lie in [0, 1]"
        )
    probability = probability.astype(np.float64)
    enhanced = e_curve(probability, target)
    return {
        "mae": float(np.abs(probability - target).mean()),
        "weighted_f": weighted_f(probability, target),
        "s_measure": s_measure(probability, target),
        "e_mean": float(enhanced.mean()),
        "e_max": float(enhanced.max()),
    }


def weighted_f(probability: np.ndarray, target: np.ndarray) -> float:
    """Weighted F-measure (Margolin et al. 2014), beta 1.

    Inside the object an error counts at most as much as the average around it; outside, it weighs
    more the farther it is from the object.
    """
    if not target.any():
        return 0.0
    error = np.abs(probability - target)
    distance = cv2.distanceTransform((~target).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    weighted = error * np.where(target, 1.0, 2 - np.exp(math.log(0.5) / 5 * distance))
    weighted[target] = np.minimum(error, _smooth(error, target))[target]
    hits = target.sum() - weighted[target].sum()
    recall = 1 - weighted[target].mean()
    precision = hits / (hits + weighted[~target].sum() + _EPSILON)
    return float(2 * recall * precision / (recall + precision + _EPSILON))


def _smooth(error: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Errors smoothed by a Gaussian; pixels outside take the error of the nearest object pixel.

    Correct on the target and zero far from it: only pixels within the kernel's reach are computed.
    """
    reach = _KERNEL // 2
    near = cv2.dilate(target.astype(np.uint8), np.ones((_KERNEL, _KERNEL), np.uint8))
    box = cv2.boundingRect(near)
    part = np.s_[box[1] : box[1] + box[3], box[0] : box[0] + box[2]]
    nearest = ndimage.distance_transform_edt(
        ~target[part], return_distances=False, return_indices=True
    )
    spread = error[part][tuple(nearest)]
    offset = np.arange(_KERNEL) - reach
    kernel = np.exp(-(offset[:, None] ** 2 + offset**2) / (2 * _SIGMA**2))
    smooth = np.zeros_like(error)
    smooth[part] = cv2.filter2D(spread, -1, kernel / kernel.sum(), borderType=cv2.BORDER_CONSTANT)
    return smooth


def s_measure(probability: np.ndarray, target: np.ndarray) -> float:
    """Structure measure (Fan et al. 2017): the mean of its object and its region similarity."""
    share = target.mean()
    if share == 0:
        return float(1 - probability.mean())
    if share == 1:
        return float(probability.mean())
    inside, outside = probability[target], 1 - probability[~target]
    objects = share * _object(inside) + (1 - share) * _object(outside)
    return float(max(0, 0.5 * objects + 0.5 * _regions(probability, target)))


def _object(values: np.ndarray) -> float:
    mean, spread = values.mean(), values.std(ddof=1) if len(values) > 1 else 0.0
    return float(2 * mean / (mean**2 + 1 + spread + _EPSILON))


def _regions(probability: np.ndarray, target: np.ndarray) -> float:
    """Similarity of the four quadrants around the target's centroid, weighted by area."""
    row, column = (int(i) + 1 for i in np.argwhere(target).mean(axis=0).round())
    score = 0.0
    for rows in (slice(row), slice(row, None)):
        for columns in (slice(column), slice(column, None)):
            part = target[rows, columns]
            if part.size:
                score += part.size * _similarity(probability[rows, columns], part)
    return score / target.size


def _similarity(one: np.ndarray, other: np.ndarray) -> float:
    """SSIM of two regions, each taken as a single window."""
    n, x, y = one.size, one.mean(), other.mean()
    a, b = one - x, other - y
    freedom = max(1, n - 1)
    covariance, spread = (a * b).sum() / freedom, ((a**2).sum() + (b**2).sum()) / freedom
    above, below = 4 * x * y * covariance, (x**2 + y**2) * spread
    if above != 0:
        return float(above / (below + _EPSILON))
    return 1.0 if below == 0 else 0.0


def counts_above(levels: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels inside and outside the target at or above each of 256 levels, int64 (256,) each."""
    inside, outside = (
        np.bincount(levels[mask], minlength=THRESHOLDS)[::-1].cumsum()[::-1]
        for mask in (target, ~target)
    )
    return inside, outside


def e_curve(probability: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Enhanced-alignment measure (Fan et al. 2018) at each of 256 thresholds, float64 (256,)."""
    levels = (probability * (THRESHOLDS - 1)).astype(np.uint8)
    inside, outside = counts_above(levels, target)
    n, polyp = target.size, int(target.sum())
    predicted = inside + outside
    if polyp == 0:
        return (n - predicted) / (n - 1 + _EPSILON)
    if polyp == n:
        return predicted / (n - 1 + _EPSILON)
    mean_p, mean_t = predicted / n, polyp / n
    total = np.zeros(THRESHOLDS)
    for count, p, t in (
        (inside, 1, 1),
        (outside, 1, 0),
        (polyp - inside, 0, 1),
        (n - polyp - outside, 0, 0),
    ):
        a, b = p - mean_p, t - mean_t
        aligned = 2 * a * b / (a**2 + b**2 + _EPSILON)
        total += count * (aligned + 1) ** 2 / 4
    return total / (n - 1 + _EPSILON)
