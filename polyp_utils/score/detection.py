"""Polyps as objects: which are found, which are missed, which are false positives.

Objects are 8-connected regions; specks under 0.05 % of the frame are ignored. True and predicted
regions whose IoU reaches the threshold are matched one to one so that the sum of their IoUs is
largest. Empty masks need no rule: they hold no objects.
"""

import numpy as np
from scipy.optimize import linear_sum_assignment

from polyp_utils.data.regions import components

IOU_THRESHOLDS = (0.1, 0.5)


def detection_counts(prediction: np.ndarray, target: np.ndarray) -> dict[str, int]:
    """Counts of found, missed and false polyps in bool masks (H, W), at each IoU threshold.

    Returns:
        ``found_01``, ``missed_01``, ``false_01`` at IoU 0.1, and the same with ``_05`` at 0.5.
    """
    true, predicted = components(target), components(prediction)
    overlaps = np.array([[_iou(t, p) for p in predicted] for t in true])
    overlaps = overlaps.reshape(len(true), len(predicted))
    counts = {}
    for threshold in IOU_THRESHOLDS:
        allowed = np.where(overlaps >= threshold, overlaps, 0)
        pairs = linear_sum_assignment(allowed, maximize=True)
        found = int((allowed[pairs] > 0).sum())
        name = f"{threshold:.1f}".replace(".", "")
        counts[f"found_{name}"] = found
        counts[f"missed_{name}"] = len(true) - found
        counts[f"false_{name}"] = len(predicted) - found
    return counts


def _iou(one: np.ndarray, other: np.ndarray) -> float:
    both = (one & other).sum()
    return float(both / (one.sum() + other.sum() - both))
