"""Polyp-free views and what a system marks on them; `false_alarms` computes rates from it.

A view is the largest part of a frame that is clear of its polyps, or a phantom drawn without one.
Regions are counted as in `detection`: specks under 0.05 % of the view are ignored.
"""

from collections.abc import Callable, Mapping

import cv2
import numpy as np
import pandas as pd

from polyp_utils.analyse.audit import border
from polyp_utils.analyse.failure_types import depth
from polyp_utils.analyse.false_alarms import CROPS, MIN_SHARE, PHANTOMS, WITHIN
from polyp_utils.analyse.gallery import Frame, short
from polyp_utils.data import phantom
from polyp_utils.data.dataset import PolypDataset
from polyp_utils.data.duplicates import green_box, reduce
from polyp_utils.data.labels import THRESHOLD
from polyp_utils.data.regions import components

MARGIN = 0.05  # distance of a crop from any polyp, as a share of the frame's diagonal
MAX_ASPECT = 2  # of a crop: the network sees every frame as a square
PHANTOM_SEED = 1  # phantoms for training have 0
_PLACE = ("top", "left", "height", "width")
_SIDE = 256  # px, longer side of the downscaled frame in which a crop is sought

Box = tuple[slice, slice]  # rows and columns


def largest_rectangle(free: np.ndarray) -> tuple[int, int, int, int]:
    """The largest rectangle of true cells in bool (H, W), with aspect ratio at most `MAX_ASPECT`.

    A rectangle that cannot grow is a bar in the histogram of free cells above some row, extended
    over all neighbours that are at least as high; a stack finds all of them in O(H·W). Each is then
    cut to the aspect ratio, equally from both ends.

    Returns:
        Top, left, height and width; the first if several are equally large, zeros if no cell is
        true.
    """
    best = (0, 0, 0, 0)
    heights = np.zeros(free.shape[1] + 1, int)  # the last stays 0, which closes every bar
    for bottom, row in enumerate(free):
        heights[:-1] = (heights[:-1] + 1) * row
        open_bars: list[tuple[int, int]] = []  # left end and height, in rising order
        for right, rise in enumerate(heights.tolist()):
            left = right
            while open_bars and open_bars[-1][1] > rise:
                left, bar = open_bars.pop()
                run = right - left
                height, width = min(bar, MAX_ASPECT * run), min(run, MAX_ASPECT * bar)
                if height * width > best[2] * best[3]:
                    top = bottom + 1 - bar + (bar - height) // 2
                    best = (top, left + (run - width) // 2, height, width)
            if not open_bars or open_bars[-1][1] < rise:
                open_bars.append((left, rise))
    return best


def find_crop(image: np.ndarray, mask: np.ndarray) -> Box | None:
    """The largest part of a frame that shows no polyp, black border or green box.

    Args:
        image: uint8 (H, W, 3) RGB.
        mask: uint8 (H, W), grey levels.

    Returns:
        Its rows and columns; None if it covers less than `MIN_SHARE` of the frame.
    """
    small = reduce(image, _SIDE)
    polyp = reduce(np.where(mask > THRESHOLD, 255, 0).astype(np.uint8), _SIDE) > 0
    overlaid = cv2.dilate(green_box(small), np.ones((5, 5), np.uint8)) > 0
    far = depth(~polyp) > MARGIN * np.hypot(*polyp.shape)
    top, left, height, width = largest_rectangle(far & ~border(small.max(axis=-1)) & ~overlaid)
    if height * width < MIN_SHARE * polyp.size:
        return None
    y, x = np.divide(mask.shape, polyp.shape)
    ends = (top * y, (top + height) * y, left * x, (left + width) * x)
    first_row, last_row, first_column, last_column = (round(end) for end in ends)
    return slice(first_row, last_row), slice(first_column, last_column)


def alarm_table(
    mark: Callable[[np.ndarray], np.ndarray],
    dataset: PolypDataset,
    groups: Mapping[str, object],
    phantoms: int = 100,
) -> pd.DataFrame:
    """What a system marks on each frame's crop, shown alone and within the frame, and on phantoms.

    Args:
        mark: image uint8 (H, W, 3) -> polyp mask bool (H, W), such as `load.Model.polyp_mask`.
        dataset: holds the frames.
        groups: id -> group of each frame; frames of one group are resampled together.
        phantoms: number of phantoms to draw.

    Returns:
        One row per kind of ``frames`` (`CROPS`, `WITHIN`, `PHANTOMS`) and ``id``: its ``group``;
        ``top``, ``left``, ``height`` and ``width`` (px) of the crop and its share ``of_frame``;
        the number of marked ``objects`` and the marked ``share`` of the area. A frame without a
        large enough crop has only a row of `CROPS` with its id and group.
    """
    rows: list[dict[str, object]] = []
    for frame_id, group in groups.items():
        row = {"id": frame_id, "group": group}
        image, mask = dataset.original(frame_id)
        crop = find_crop(image, mask)
        if crop is None:
            rows.append({"frames": CROPS, **row})
            continue
        row |= _place(crop) | {"of_frame": mask[crop].size / mask.size}
        for frames, marked in ((CROPS, mark(image[crop])), (WITHIN, mark(image)[crop])):
            rows.append({"frames": frames, **row, **_alarms(marked)})
    for index in range(phantoms):
        image, _ = phantom.draw_phantom(index, PHANTOM_SEED, with_polyps=False)
        rows.append({"frames": PHANTOMS, "id": str(index), "group": index, **_alarms(mark(image))})
    columns = ["frames", "id", "group", *_PLACE, "of_frame", "objects", "share"]
    return pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(_PLACE, "Int64"))


def _place(crop: Box) -> dict[str, int]:
    rows, columns = crop
    place = (rows.start, columns.start, rows.stop - rows.start, columns.stop - columns.start)
    return dict(zip(_PLACE, place, strict=True))


def _alarms(marked: np.ndarray) -> dict[str, float]:
    return {"objects": len(components(marked)), "share": float(marked.mean())}


def alarm_frames(
    table: pd.DataFrame,
    mark: Callable[[np.ndarray], np.ndarray],
    dataset: PolypDataset,
    count: int,
) -> list[Frame]:
    """The frames whose crops have the largest marked share, with truth, marked area and crop.

    Args:
        table: from `alarm_table`.
        mark: the same system.
        dataset: holds the frames.
        count: maximum number; frames without a false alarm are left out.

    Returns:
        Frames whose ``prediction`` is the marked area within the crop, and ``second`` the crop.
    """
    crops = table[(table["frames"] == CROPS) & (table["objects"] > 0)]
    most = crops.sort_values("share", ascending=False).head(count)
    frames = []
    for row in most.to_dict("records"):
        image, mask = dataset.original(row["id"])
        top, left, height, width = (row[name] for name in _PLACE)
        crop = slice(top, top + height), slice(left, left + width)
        marked, inside = np.zeros(mask.shape, bool), np.zeros(mask.shape, bool)
        marked[crop], inside[crop] = mark(image[crop]), True
        title = f"{short(row['id'])}\n{100 * row['share']:.0f} % of the crop"
        name, truth = dataset.info.name, mask > THRESHOLD
        frames.append(Frame(title, image, truth, marked, second=inside, dataset=name))
    return frames
