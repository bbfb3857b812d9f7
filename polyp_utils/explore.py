"""What is in a data set: sizes, grey levels, class shares, and what each frame is like."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from skimage import color, measure

from polyp_utils.data.dataset import PolypDataset
from polyp_utils.data.labels import SCHEMES, THRESHOLD, is_polyp
from polyp_utils.data.splits import PARTS, Split
from polyp_utils.metrics import count, dice

MIN_SHARE = 5e-4  # of the frame; smaller components are specks, not polyps


class Frame(NamedTuple):
    """What a gallery shows: image uint8 (H, W, 3), masks bool (H, W), P(polyp) float (H, W)."""

    title: str
    image: np.ndarray
    truth: np.ndarray
    prediction: np.ndarray | None = None
    probability: np.ndarray | None = None


def frames_of(dataset: PolypDataset, ids: Iterable[str]) -> list[Frame]:
    """Frames at their original size, for a gallery; the title is the end of the id."""
    pairs = ((frame_id, *dataset.original(frame_id)) for frame_id in ids)
    return [Frame(f"…{i[-6:]}", image, mask > THRESHOLD) for i, image, mask in pairs]


def frame_table(dataset: PolypDataset, split: Split) -> pd.DataFrame:
    """A row per frame of the split.

    Returns:
        ``id``, ``part``, original ``height`` and ``width`` in pixels, and what `describe` says at
        network size, where a whole data set takes seconds.
    """
    frames = [(frame_id, part) for part in PARTS for frame_id in split.part(part)]
    rows = dataset.rows(frame_id for frame_id, _ in frames).tolist()

    def one(row: int) -> dict[str, Any]:
        image, mask = dataset[row]
        height, width = dataset.sizes[row].tolist()
        properties = describe(image.permute(1, 2, 0).numpy(), mask.numpy())
        return {"height": height, "width": width, **properties}

    with ThreadPoolExecutor() as pool:
        described = pool.map(one, rows)
    named = [{"id": i, "part": part} for i, part in frames]
    return pd.DataFrame([n | d for n, d in zip(named, described, strict=True)])


def level_counts(dataset: PolypDataset, ids: Iterable[str]) -> np.ndarray:
    """Pixels per grey level, int64 (256,), over masks at the original size."""

    def one(frame_id: str) -> np.ndarray:
        return np.bincount(dataset.original_mask(frame_id).ravel(), minlength=256)

    with ThreadPoolExecutor() as pool:
        return sum(pool.map(one, ids), np.zeros(256, np.int64))


def dice_of_naive_mask(dataset: PolypDataset, ids: Iterable[str]) -> pd.Series:
    """Dice of ``mask > 0`` against the thresholded mask, at network size: what the error costs.

    Where it is 1 on average, the masks hold no JPEG traces.
    """
    masks = dataset.masks[dataset.rows(ids)]
    counts = count(masks > 0, is_polyp(masks), num_classes=2)
    return pd.Series(dice(counts)[:, 1].numpy()).dropna()


def class_shares(dataset: PolypDataset, ids: Iterable[str]) -> pd.DataFrame:
    """Share of pixels per class for every scheme, at network size.

    Returns:
        Rows ``scheme``, ``class``, ``share``.
    """
    masks = dataset.masks[dataset.rows(ids)]
    rows = []
    for scheme in SCHEMES.values():
        length = len(scheme.classes)
        counts = [
            torch.bincount(scheme.encode(part).flatten(), minlength=length)
            for part in masks.split(64)
        ]
        shares = (torch.stack(counts).sum(dim=0) / masks.numel()).tolist()
        rows += [
            {"scheme": scheme.name, "class": name, "share": share}
            for name, share in zip(scheme.classes, shares, strict=True)
        ]
    return pd.DataFrame(rows)


def position_map(dataset: PolypDataset, ids: Iterable[str]) -> np.ndarray:
    """How often a pixel is polyp, float64 (S, S) in [0, 1]."""
    return is_polyp(dataset.masks[dataset.rows(ids)]).double().mean(dim=0).numpy()


def describe(image: np.ndarray, mask: np.ndarray) -> dict[str, Any]:
    """Properties of a frame that could explain a score.

    Args:
        image: uint8 (H, W, 3) RGB.
        mask: uint8 (H, W), grey levels.

    Returns:
        ``area_share`` of the frame; ``centre_x``, ``centre_y`` of the polyp pixels, 0–1;
        ``off_centre``, 0 (centre) to 1 (corner); ``touches_border`` (within 1 % of the side);
        ``brightness``, mean lightness L* of what the black border leaves, 0–100; ``contrast``,
        |difference of mean L*| between polyp and a ring around it; ``n_polyps``; ``overlay``.
        Those of the polyp are NaN without one.
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
        "n_polyps": len(components(polyp)),
        "touches_border": bool(inside < polyp.sum()),
        "overlay": overlay(image),
    }
    if not polyp.any():
        nothing = ("centre_x", "centre_y", "off_centre", "contrast")
        return row | dict.fromkeys(nothing, np.nan)
    y, x = (np.argwhere(polyp).mean(axis=0) + 0.5) / (height, width)
    step = max(1, round(min(height, width) / 128))  # a ring needs no full resolution
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


def overlay(image: np.ndarray) -> str:
    """``green box``, ``black block`` or ``none`` in the lower left corner, where Kvasir has them.

    A black block darkens a patch that the vignette's corner leaves lit on the other side.
    """
    height, width = image.shape[:2]
    corner = image[int(0.6 * height) :, : int(0.4 * width)].astype(np.int16)
    red, green, blue = corner[..., 0], corner[..., 1], corner[..., 2]
    if ((green > red + 15) & (green > blue + 15) & (green > 40)).mean() > 0.1:
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


def components(polyp: np.ndarray) -> list[np.ndarray]:
    """Connected regions (8-neighbours) of a bool mask (H, W), specks left out, each as a mask."""
    labels = measure.label(polyp, connectivity=2)
    sizes = np.bincount(labels.ravel())
    return [labels == i for i in range(1, len(sizes)) if sizes[i] >= MIN_SHARE * polyp.size]
