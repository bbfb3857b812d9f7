"""Kinds of error: of pixels, by where they lie, and of polyps, by what became of them."""

import cv2
import numpy as np

from polyp_utils.data.labels import rim_width
from polyp_utils.explore import components

TOUCHED = 0.1  # of a region: less of it is no overlap
SPILLED = 0.5  # of a predicted region that lies outside of any polyp


def pixel_errors(predicted: np.ndarray, truth: np.ndarray) -> dict[str, int]:
    """Wrong pixels of masks bool (H, W) by the band of the truth that they lie in.

    Returns:
        ``lost_inside`` and ``lost_rim`` (polyp that is not predicted, deep in it or within the
        trimap's rim width of its outline), ``spilt_rim`` and ``spilt_outside`` (predicted, but
        no polyp). Without a polyp all that is predicted is ``spilt_outside``.
    """
    width = rim_width(*truth.shape)
    inside, outside = (_distance(mask) for mask in (truth, ~truth))  # to the other side, px
    lost, spilt = truth & ~predicted, predicted & ~truth
    return {
        "lost_inside": int((lost & (inside > width)).sum()),
        "lost_rim": int((lost & (inside <= width)).sum()),
        "spilt_rim": int((spilt & (outside <= width)).sum()),
        "spilt_outside": int((spilt & (outside > width)).sum()),
    }


def _distance(mask: np.ndarray) -> np.ndarray:
    """Of each true pixel to the nearest false one; infinite if there is none."""
    if mask.all():
        return np.full(mask.shape, np.inf)
    return cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)


def object_errors(predicted: np.ndarray, truth: np.ndarray) -> dict[str, int]:
    """What became of the polyps of a frame, as regions of masks bool (H, W).

    Returns:
        ``missed``: polyps of which less than a tenth is predicted. ``split``: polyps that two or
        more predicted regions share. ``merged``: predicted regions that hold a tenth or more of
        two or more polyps. ``spilled``: predicted regions that touch a polyp but lie by more than
        half outside of any. ``hallucinated``: predicted regions of which less than a tenth is
        polyp, and which hold no tenth of any polyp.
    """
    polyps, regions = components(truth), components(predicted)
    both = np.array([[(p & r).sum() for r in regions] for p in polyps], np.float64)
    both = both.reshape(len(polyps), len(regions))
    of_polyp = both / np.array([p.sum() for p in polyps]).reshape(-1, 1)
    of_region = both / np.array([r.sum() for r in regions]).reshape(1, -1)
    holds = of_polyp >= TOUCHED
    lies_in = of_region >= TOUCHED
    touches = (holds | lies_in).any(axis=0)
    hit = np.array([truth[r].mean() for r in regions])
    return {
        "missed": int((of_polyp.sum(axis=1) < TOUCHED).sum()),
        "split": int(((holds | lies_in).sum(axis=1) > 1).sum()),
        "merged": int((holds.sum(axis=0) > 1).sum()),
        "spilled": int((touches & (hit < 1 - SPILLED)).sum()),
        "hallucinated": int((~touches).sum()),
    }
