"""From probabilities at the network's size to the class map of a frame, without enlarging them all.

Bilinear interpolation mixes four neighbours. Where the same class is the likeliest of all four, it
is the likeliest of every mixture, so only pixels between neighbours that differ, a thin band along
the outlines, need their probabilities at all. The map is the argmax of `predict.to_original`, but
for rounding where two classes are equally likely.
"""

import numpy as np
from torch import Tensor


def to_class_map(probabilities: Tensor, size: tuple[int, int]) -> np.ndarray:
    """The likeliest class per pixel, uint8 (H, W) at ``size`` = (H, W).

    Args:
        probabilities: float (C, S, S), at the network's size.
        size: of the frame.
    """
    p = probabilities.numpy()
    classes = p.argmax(axis=0).astype(np.uint8)
    (top, bottom, down), (left, right, across) = map(_neighbours, size, classes.shape)
    below, beside = (np.minimum(np.arange(1, n + 1), n - 1) for n in classes.shape)
    corners = (classes[below], classes[:, beside], classes[below][:, beside])
    differ = np.any([corner != classes for corner in corners], axis=0)
    enlarged = classes[top][:, left]
    rows, columns = np.nonzero(differ[top][:, left])
    upper, lower = (
        (1 - across[columns]) * p[:, y[rows], left[columns]]
        + across[columns] * p[:, y[rows], right[columns]]
        for y in (top, bottom)
    )
    enlarged[rows, columns] = ((1 - down[rows]) * upper + down[rows] * lower).argmax(axis=0)
    return enlarged


def _neighbours(out: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each of ``out`` pixels: the two neighbours among ``size``, and the second's weight."""
    at = (np.arange(out, dtype=np.float32) + 0.5) * np.float32(size / out) - 0.5
    at = np.maximum(at, np.float32(0))
    first = np.minimum(at.astype(np.int64), size - 1)
    return first, np.minimum(first + 1, size - 1), at - first.astype(np.float32)
