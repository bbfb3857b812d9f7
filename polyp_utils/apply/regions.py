"""The connected regions that a prediction marks as polyp, in numbers."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from polyp_utils.data.labels import SPECK_SHARE


def find_regions(
    polyp: np.ndarray, kinds: dict[str, np.ndarray], copies: Sequence[np.ndarray] = ()
) -> list[dict[str, Any]]:
    """A row per connected region (8-neighbours) where P(polyp) > 0.5, the largest first.

    Specks, as in `polyp_utils.data.regions`, are left out.

    Args:
        polyp: P(any polyp class), float32 (H, W).
        kinds: kind of polyp -> its probability, float32 (H, W).
        copies: P(any polyp class) of each mirrored copy, turned back, where there are any.

    Returns:
        ``class`` (the kind of the highest mean probability), ``left``, ``top``, ``width`` and
        ``height`` of its box in pixels, ``area_px``, ``area`` (share of the frame),
        ``mean_probability`` and ``largest_probability`` of P(polyp), ``touches_border``, and
        ``doubt`` in [0, 1], within the region's box: one minus the soft Dice of the region with
        P(polyp); with copies one minus the mean Dice of their masks with the region.
    """
    height, width = polyp.shape
    n, labels, boxes, _ = cv2.connectedComponentsWithStats(
        (polyp > 0.5).astype(np.uint8), connectivity=8
    )
    rows = []
    for label in sorted(range(1, n), key=lambda k: -boxes[k, cv2.CC_STAT_AREA]):
        left, top, wide, high, area = (int(number) for number in boxes[label])
        if area < SPECK_SHARE * polyp.size:
            continue
        box = np.s_[top : top + high, left : left + wide]
        inside, p = labels[box] == label, polyp[box]
        maps = [copy[box] > 0.5 for copy in copies] or [p]
        means = {kind: float(chance[box][inside].mean()) for kind, chance in kinds.items()}
        others = (labels[box] != label) & (labels[box] != 0)
        rows.append(
            {
                "class": max(means, key=lambda kind: means[kind]),
                "left": left,
                "top": top,
                "width": wide,
                "height": high,
                "area_px": area,
                "area": area / polyp.size,
                "mean_probability": float(p[inside].mean()),
                "largest_probability": float(p[inside].max()),
                "touches_border": bool(
                    min(left, top) == 0 or left + wide == width or top + high == height
                ),
                "doubt": _doubt(inside, maps, others),
            }
        )
    return rows


def _doubt(inside: np.ndarray, maps: Sequence[np.ndarray], others: np.ndarray) -> float:
    """One minus the mean soft Dice of a region with maps in [0, 1], other regions left out."""
    dice = [2 * p[inside].sum() / (p[~others].sum() + inside.sum()) for p in maps]
    return float(1 - np.mean(dice))
