"""How well two annotations of one frame agree: scores above that reflect the annotator.

Some data sets hold a frame twice, unchanged or re-cropped, with a mask drawn anew. Such pairs are
sought among the known near-duplicates: one frame must match the other after a shift by whole
pixels, with grey levels that differ by no more than JPEG compression explains.
"""

import cv2
import numpy as np
import pandas as pd

from polyp_utils.data.dataset import PolypDataset
from polyp_utils.data.known import known_pairs
from polyp_utils.data.labels import THRESHOLD
from polyp_utils.score.intervals import FEW, Interval, mean_interval

MAX_SCALE, MAX_DEGREES = 0.01, 0.5  # of a fit at 384 px; below them, it is a pure shift
MAX_DIFFERENCE = 3.0  # mean, grey levels: Kvasir-SEG's pairs have at most 2.2, or at least 9
_PAIR = ["id_a", "id_b", "mirrored", "scale", "rotation"]
_DARK = 30  # grey level; darker pixels (border, burned-in blocks) are ignored


def annotated_twice(dataset: PolypDataset) -> pd.DataFrame:
    """Pairs of images of one frame with two annotations.

    Pairs whose masks agree in every pixel are left out: they are copies of one annotation.

    Returns:
        One row per pair: ``id_a``, ``id_b``, ``difference`` (mean absolute, in grey levels of 255)
        and ``dice`` of one mask against the other, both over the common area at the original size.
    """
    rows = []
    for pair in _same_view(dataset).itertuples():
        image_a, mask_a = dataset.original(str(pair.id_a))
        image_b, mask_b = dataset.original(str(pair.id_b))
        grey_a, grey_b = (cv2.cvtColor(i, cv2.COLOR_RGB2GRAY) for i in (image_a, image_b))
        shift = _shift(grey_a, grey_b)
        one, other = _common(grey_a, grey_b, shift)
        lit = np.minimum(one, other) >= _DARK
        difference = cv2.absdiff(one, other)[lit].mean() if lit.any() else np.inf
        first, second = _common(mask_a > THRESHOLD, mask_b > THRESHOLD, shift)
        if difference <= MAX_DIFFERENCE and (first != second).any():
            dice = 2 * (first & second).sum() / (first.sum() + second.sum())
            rows.append((pair.id_a, pair.id_b, difference, dice))
    return pd.DataFrame(rows, columns=["id_a", "id_b", "difference", "dice"])


def _same_view(dataset: PolypDataset) -> pd.DataFrame:
    """The known near-duplicates that differ by a shift only, at the original size."""
    pairs = pd.DataFrame(known_pairs(dataset.name), columns=_PAIR)
    longer = [dataset.sizes[dataset.rows(pairs[i])].max(dim=1).values.numpy() for i in _PAIR[:2]]
    scale = pairs["scale"] * longer[1] / longer[0]  # pairs were fitted with equal longer sides
    shifted = (abs(scale - 1) <= MAX_SCALE) & (abs(pairs["rotation"]) <= MAX_DEGREES)
    return pairs[shifted & ~pairs["mirrored"].astype(bool)]


def _shift(one: np.ndarray, other: np.ndarray) -> tuple[int, int]:
    """(dy, dx): pixel (y, x) of one grey image lies at (y + dy, x + dx) of the other."""
    height, width = np.minimum(one.shape, other.shape) // 2
    top, left = one.shape[0] // 4, one.shape[1] // 4
    centre = one[top : top + height, left : left + width]
    match = cv2.matchTemplate(other, centre, cv2.TM_CCOEFF_NORMED)
    y, x = np.unravel_index(match.argmax(), match.shape)
    return int(y) - top, int(x) - left


def _common(
    one: np.ndarray, other: np.ndarray, shift: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """The area that both show, cut out of each."""
    start = [max(0, -d) for d in shift]
    sizes = zip(one.shape, other.shape, shift, strict=True)
    end = [min(length, longer - d) for length, longer, d in sizes]
    cut = tuple(slice(a, b) for a, b in zip(start, end, strict=True))
    moved = tuple(slice(a + d, b + d) for a, b, d in zip(start, end, shift, strict=True))
    return one[cut], other[moved]


def ceiling(twice: pd.DataFrame) -> Interval | None:
    """Mean Dice of the pairs of `annotated_twice`; None if there are fewer than ten."""
    return mean_interval(twice["dice"]) if len(twice) >= FEW else None


def label_noise_findings(
    twice: pd.DataFrame, scores: pd.Series, dataset: PolypDataset
) -> list[str]:
    """What is known of the label noise of a data set, in sentences.

    Args:
        twice: of `annotated_twice`.
        scores: Dice of a system's frames.
        dataset: that both are of.
    """
    title = dataset.info.title
    if known_pairs(dataset.name) is None:
        return [
            f"Whether {title} holds frames that are annotated twice is not known: `python -m "
            f"polyp_utils audit --dataset {dataset.name}` looks for them."
        ]
    if twice.empty:
        return [
            f"{title} has no frame that is known to be annotated twice, so its label noise cannot "
            "be measured."
        ]
    low, high = twice["dice"].min(), twice["dice"].max()
    mean = ceiling(twice)
    if mean is None:
        return [
            f"{len(twice)} pairs of frames of {title} look the same and are annotated separately "
            f"(Dice {low:.3f} to {high:.3f} between the two): too few for a mean."
        ]
    return [
        f"{title} holds {mean.n} frames twice (in any part of the split), as they are or "
        f"re-cropped, annotated separately: the two annotations agree at Dice {mean}, from "
        f"{low:.3f} to {high:.3f}.",
        f"{(scores >= mean.mean).sum()} of {scores.notna().sum()} frames here reach that mean.",
    ]
