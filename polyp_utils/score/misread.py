"""Signs that another system's predictions were misread: their sizes, and the area that they mark.

A number is not held back for these doubts, since a poor system may be just that; but it is never
given without them.
"""

from collections import defaultdict
from collections.abc import Mapping

import pandas as pd

from polyp_utils.common.exceptions import DataError
from polyp_utils.data.labels import POLYP
from polyp_utils.score.protocols import ORIGINAL

Size = tuple[int, int]  # height and width

_INVERSE_BETTER = 0.3  # of Dice
_LITTLE = 0.1  # of the area of all polyps
_CAUTIOUS, _HARDLY = 0.7, 0.02  # of it; of what is marked


def size_notes(
    sizes: Mapping[str, Size], frames: Mapping[str, Size]
) -> tuple[list[str], list[str]]:
    """How the predictions' sizes differ from the frames', as notes and as doubts, in words.

    A prediction may be the frame scaled, up to rounding; square, or of one size where frames have
    several, it is at network size. Everything else is doubtful, since it is stretched to the frame
    all the same.

    Args:
        sizes: id -> size of the prediction.
        frames: id -> size of the frame.

    Raises:
        DataError: height and width are exchanged.
    """
    if not sizes:
        return [], []
    kinds: dict[str, list[str]] = defaultdict(list)
    for frame_id, size in sizes.items():
        kinds[_kind(size, frames[frame_id])].append(frame_id)
    one_size = len(set(sizes.values())) == 1 < len({frames[frame_id] for frame_id in sizes})
    swapped, other = kinds.pop("swapped", []), kinds.pop("other", [])
    if swapped and not (one_size and len(swapped) < len(sizes)):
        raise DataError(
            f"{len(swapped)} of {len(sizes)} predictions have height and width exchanged, "
            f"{_example(swapped[0], sizes, frames)}: save them the way round that the frames are"
        )
    fixed = kinds["square"] + (swapped + other if one_size else [])
    notes, doubts = [], []
    if kinds["scaled"]:
        notes.append(
            f"{len(kinds['scaled'])} of {len(sizes)} predictions are scaled to their frames, "
            f"{_example(kinds['scaled'][0], sizes, frames)}"
        )
    if fixed:
        notes.append(
            f"{len(fixed)} of {len(sizes)} predictions are taken for maps at network size and "
            f"stretched to their frames, {_example(fixed[0], sizes, frames)}"
        )
    if other and not one_size:
        doubts.append(
            f"{len(other)} of {len(sizes)} predictions differ from their frames in proportion, "
            f"{_example(other[0], sizes, frames)}, and are stretched to them: if they show a part "
            "of the frame, or more than it, save them at the frame's size"
        )
    return notes, doubts


def _kind(size: Size, frame: Size) -> str:
    if size == frame:
        return "equal"
    if _is_scaled(size, frame):
        return "scaled"
    if size[0] == size[1]:
        return "square"
    return "swapped" if _is_scaled(size, frame[::-1]) else "other"


def _is_scaled(size: Size, frame: Size) -> bool:
    (h, w), (height, width) = size, frame
    return abs(h - w * height / width) <= 1 or abs(w - h * width / height) <= 1


def _example(frame_id: str, sizes: Mapping[str, Size], frames: Mapping[str, Size]) -> str:
    (h, w), (height, width) = sizes[frame_id], frames[frame_id]
    return f"first {frame_id} ({w}×{h} px, its frame {width}×{height})"


def area_doubts(per_image: pd.DataFrame) -> list[str]:
    """What makes one doubt that the masks were read as they are meant, in words.

    Args:
        per_image: table of an `Evaluation`.
    """
    rows = per_image[(per_image["class"] == POLYP) & (per_image["size"] == ORIGINAL)]
    tp, fp, fn, tn = (rows[count] for count in ("tp", "fp", "fn", "tn"))
    there, marked = tp + fn, tp + fp
    if not there.any():
        return []
    frames = f"{(there > 0).sum()} of {len(rows)} frames show polyps"
    if not marked.any():
        return [
            f"{frames}, and no pixel of any prediction is polyp: probabilities that were cast to "
            "integers without × 255 look like this, and so do empty files"
        ]
    if not (fn + tn).any():
        return [
            f"{frames}, and every pixel of every prediction is polyp: are they the right files?"
        ]
    with_polyp = there > 0
    dice = (2 * tp / (2 * tp + fp + fn))[with_polyp].mean()
    inverse = (2 * fn / (2 * fn + tn + tp))[with_polyp].mean()
    if inverse > dice + _INVERSE_BETTER:
        return [
            f"Dice is {dice:.3f}, but that of the inverse would be {inverse:.3f}: polyp may be "
            "black in these files. If it is, score them with values map:255-0 (or the range that "
            "they have, higher end first)"
        ]
    share, false = marked.sum() / there.sum(), fp.sum() / marked.sum()
    if share < _LITTLE or (share < _CAUTIOUS and false < _HARDLY):
        return [
            f"all predictions together mark {share:.0%} of the area of the polyps, {false:.0%} of "
            "it wrongly: probabilities that were scaled or cast to integers look like this"
        ]
    return []
