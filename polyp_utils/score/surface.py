"""Boundary scores of a predicted mask against the true one.

The boundary of a mask consists of its pixels with a 4-neighbour outside it; everything beyond the
frame counts as outside, so a polyp cut off by the frame has a boundary there (as in MONAI).
Distances are Euclidean, in pixels of the given masks, from each boundary pixel to the other
boundary.

**Empty masks.** If both are empty, scores are NaN, as in `score.overlap`. If only one is, distances
are the frame's diagonal, an upper bound of any distance within it, and shares are 0, so that a
missed polyp is penalised and the mean stays finite.
"""

import math

import cv2
import numpy as np

TOLERANCE_PX = 2.0  # of the normalised surface Dice
_BOUNDARY_SHARE = 0.02  # of the diagonal, Cheng et al. 2021


def surface_scores(prediction: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """All scores of a pair of masks bool (H, W).

    Returns:
        ``hd95``: the larger of the 95th percentiles of the two directed distances (px).
        ``asd``: average symmetric surface distance, the mean over both boundaries (px).
        ``nsd_2px``: share of both boundaries within 2 px of the other (Nikolov et al. 2018, on
        pixels). ``nsd_2of256``: the same within 2·√(H·W)/256 px.
        ``boundary_iou``: IoU of inner rims 2 % of the diagonal wide (Cheng et al. 2021).

    Raises:
        ValueError: the masks differ in shape or are not bool.
    """
    for name, mask in (("prediction", prediction), ("target", target)):
        if mask.dtype != bool or mask.ndim != 2 or mask.shape != target.shape:
            raise ValueError(
                f"{name} is {mask.dtype} {mask.shape}: both must be bool (H, W) of the same shape"
            )
    height, width = target.shape
    names = ("hd95", "asd", "nsd_2px", "nsd_2of256", "boundary_iou")
    if not (prediction.any() and target.any()):
        diagonal = math.hypot(height, width)
        both = not (prediction.any() or target.any())
        worst = (math.nan,) * 5 if both else (diagonal, diagonal, 0.0, 0.0, 0.0)
        return dict(zip(names, worst, strict=True))
    rows, columns = (_span((prediction | target).any(axis=axis)) for axis in (1, 0))
    one, other = (np.pad(mask[rows, columns], 1) for mask in (prediction, target))
    edges = [mask & ~_eroded(mask, 1, cv2.MORPH_CROSS) for mask in (one, other)]
    there, back = _distances(*edges), _distances(*edges[::-1])
    both_ways = np.concatenate([there, back])
    rims = [mask & ~_eroded(mask, _rim_px(height, width), cv2.MORPH_RECT) for mask in (one, other)]
    values = (
        max(np.percentile(there, 95), np.percentile(back, 95)),
        both_ways.mean(),
        (both_ways <= TOLERANCE_PX).mean(),
        (both_ways <= TOLERANCE_PX * math.sqrt(height * width) / 256).mean(),
        (rims[0] & rims[1]).sum() / (rims[0] | rims[1]).sum(),
    )
    return {name: float(value) for name, value in zip(names, values, strict=True)}


def _rim_px(height: int, width: int) -> int:
    return max(1, round(_BOUNDARY_SHARE * math.hypot(height, width)))


def _span(flags: np.ndarray) -> slice:
    """The span from the first to the last true flag."""
    where = np.flatnonzero(flags)
    return slice(int(where[0]), int(where[-1]) + 1)


def _eroded(mask: np.ndarray, times: int, shape: int) -> np.ndarray:
    """Repeated erosion by a 3×3 element; expects a margin of background around the mask."""
    element = cv2.getStructuringElement(shape, (3, 3))
    return cv2.erode(mask.astype(np.uint8), element, iterations=times).astype(bool)


def _distances(edge: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Distance from each pixel of an edge to the nearest of the other, float32, px."""
    field = cv2.distanceTransform((~other).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return field[edge]
