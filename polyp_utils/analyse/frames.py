"""Properties of the frames of a data set: size, brightness, polyps, text, and mask files."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from skimage import color

from polyp_utils.analyse.gallery import Frame, short
from polyp_utils.common.exceptions import DataError
from polyp_utils.data.dataset import PolypDataset
from polyp_utils.data.duplicates import green_box, reduce
from polyp_utils.data.labels import (
    THRESHOLD,
)
from polyp_utils.data.regions import components
from polyp_utils.data.sources import Source
from polyp_utils.data.split import PARTS, Split


def frame_table(dataset: PolypDataset, split: Split) -> pd.DataFrame:
    """One row per frame of the split.

    Returns:
        ``id``, ``part``, original ``height`` and ``width`` in pixels, and the columns of
        `frame_properties`, computed at network size so that a whole data set takes seconds.
    """
    frames = [(frame_id, part) for part in PARTS for frame_id in split.part(part)]
    rows = dataset.rows(frame_id for frame_id, _ in frames).tolist()

    def one(row: int) -> dict[str, Any]:
        image, mask = dataset[row]
        height, width = dataset.sizes[row].tolist()
        properties = frame_properties(image.permute(1, 2, 0).numpy(), mask.numpy())
        return {"height": height, "width": width, **properties}

    with ThreadPoolExecutor() as pool:
        described = pool.map(one, rows)
    named = [{"id": i, "part": part} for i, part in frames]
    return pd.DataFrame([n | d for n, d in zip(named, described, strict=True)])


def mask_files(dataset: PolypDataset, ids: Iterable[str]) -> tuple[np.ndarray, pd.Series]:
    """Grey levels in the mask files, at the original size.

    Returns:
        Pixels per level of the brightest channel, int64 (256,); and per frame the Dice of
        ``mask > 0`` against the correct mask, which is the cost of that mistake (1: no JPEG
        artefacts).
    """

    def one(frame_id: str) -> tuple[np.ndarray, float]:
        raw = dataset.source.read_mask_file(frame_id).brightest
        polyp = dataset.original_mask(frame_id) > THRESHOLD
        both = (raw > 0).sum() + polyp.sum()
        score = 2 * polyp[raw > 0].sum() / both if both else np.nan
        return np.bincount(raw.ravel(), minlength=256), float(score)

    with ThreadPoolExecutor() as pool:
        counts, scores = zip(*pool.map(one, ids), strict=True)
    return np.sum(counts, axis=0), pd.Series(scores).dropna()


def pair_frames(source: Source, pairs: pd.DataFrame) -> list[Frame]:
    """Both frames of each pair, downscaled, for `plots.sheet` with an even number of columns.

    The titles give the number of matching features and the second frame's scale and rotation
    relative to the first. A frame whose mask cannot be used has no outline.
    """
    frames = []
    for number, pair in enumerate(pairs.to_dict("records"), start=1):
        mirror = ", mirrored" if pair["mirrored"] else ""
        for frame_id, text in (
            (pair["id_a"], f"{pair['inliers']} agree"),
            (pair["id_b"], f"×{pair['scale']:.2f}, {round(pair['rotation'])}°{mirror}"),
        ):
            image = reduce(source.read_image(frame_id), 256)
            try:
                mask = source.read_mask(frame_id)
            except DataError:
                mask = np.zeros(image.shape[:2], np.uint8)
            title = f"{number}: {short(frame_id)}\n{text}"
            frames.append(Frame(title, image, reduce(mask, 256) > THRESHOLD))
    return frames


def frame_properties(image: np.ndarray, mask: np.ndarray) -> dict[str, Any]:
    """Properties of a frame that could explain its score.

    Args:
        image: uint8 (H, W, 3) RGB.
        mask: uint8 (H, W), grey levels.

    Returns:
        ``area_share``, polyp area as a share of the frame; ``centre_x``, ``centre_y`` of the polyp
        pixels, 0–1; ``off_centre``, 0 (centre) to 1 (corner); ``touches_border`` (within 1 % of the
        shorter side); ``brightness``, mean lightness L* of the visible pixels (not black), 0–100;
        ``contrast``, |difference of mean L*| between the polyp and a ring around it; ``sharpness``,
        log10 of the variance of the Laplacian of L* with the longer side at 256 px; ``specular``,
        the share of visible pixels that are highlights; ``n_polyps``; ``overlay``. Centre and
        contrast are NaN without a polyp.
    """
    polyp = mask > THRESHOLD
    height, width = polyp.shape
    lightness = color.rgb2lab(image)[..., 0]
    visible = image.max(axis=-1) >= 30
    margin = max(1, round(0.01 * min(height, width)))
    inside = polyp[margin:-margin, margin:-margin].sum()
    row: dict[str, Any] = {
        "area_share": polyp.mean(),
        "brightness": lightness[visible].mean() if visible.any() else np.nan,
        "sharpness": _sharpness(image),
        "specular": (image.min(axis=-1) > 200)[visible].mean() if visible.any() else np.nan,
        "n_polyps": len(components(polyp)),
        "touches_border": bool(inside < polyp.sum()),
        "overlay": overlay(image),
    }
    if not polyp.any():
        nothing = ("centre_x", "centre_y", "off_centre", "contrast")
        return row | dict.fromkeys(nothing, np.nan)
    y, x = (np.argwhere(polyp).mean(axis=0) + 0.5) / (height, width)
    step = max(1, round(min(height, width) / 128))  # the ring needs no full resolution
    small, small_visible = polyp[::step, ::step], visible[::step, ::step]
    near = torch.nn.functional.max_pool2d(
        torch.from_numpy(small)[None].float(), kernel_size=17, stride=1, padding=8
    )
    ring = near[0].numpy().astype(bool) & ~small & small_visible
    small_lightness = lightness[::step, ::step]
    contrast = (
        abs(small_lightness[small].mean() - small_lightness[ring].mean())
        if ring.any() and small.any()
        else np.nan
    )
    off_centre = np.hypot(x - 0.5, y - 0.5) / np.hypot(0.5, 0.5)
    return row | {"centre_x": x, "centre_y": y, "off_centre": off_centre, "contrast": contrast}


def _sharpness(image: np.ndarray) -> float:
    grey = color.rgb2lab(reduce(image, 256))[..., 0].astype(np.float32)
    return float(np.log10(cv2.Laplacian(grey, cv2.CV_32F).var() + 1e-6))


def overlay(image: np.ndarray) -> str:
    """Overlay in the lower left corner, as in Kvasir: ``green box``, ``black block`` or ``none``.

    A black block is a dark patch whose mirror image, in the lower right corner, is lit.
    """
    height, width = image.shape[:2]
    if green_box(image[int(0.6 * height) :, : int(0.4 * width)]).mean() > 0.1:
        return "green box"
    rows = slice(int(0.80 * height), int(0.92 * height))
    left, right = (
        (image[rows, columns].max(axis=-1) < 30).mean()
        for columns in (
            slice(int(0.12 * width), int(0.20 * width)),
            slice(int(0.80 * width), int(0.88 * width)),
        )
    )
    return "black block" if left > 0.98 and right < 0.5 else "none"


def has_text(image: np.ndarray) -> bool:
    """Whether the frame has two lines of burned-in text below each other, flush left.

    Lines are thin bright strokes that join into flat bars; text that merges with the border or
    with highlights is missed.
    """
    small = reduce(image, 640)
    darkest = small.min(axis=-1)
    strokes = cv2.morphologyEx(darkest, cv2.MORPH_TOPHAT, np.ones((15, 15), np.uint8)) > 60
    bars = cv2.morphologyEx(strokes.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((1, 15), np.uint8))
    x, y, width, height, area = cv2.connectedComponentsWithStats(bars)[2][1:].T
    line = (height >= 5) & (height <= 18) & (width >= 2.5 * height) & (width < 0.3 * small.shape[1])
    x, y, height = (values[line & (area > 0.6 * width * height)] for values in (x, y, height))
    flush = abs(x[:, None] - x) <= 6
    near = abs(y[:, None] - y) < 140
    alike = np.maximum(height[:, None] / height, height / height[:, None]) < 1.7
    return bool(((flush & near & alike).sum(axis=1) >= 2).any())
