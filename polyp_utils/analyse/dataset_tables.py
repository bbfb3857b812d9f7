"""What a data set contains: class shares, polyp positions, rims, and its splits."""

import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import torch

from polyp_utils.data.dataset import PolypDataset
from polyp_utils.data.labels import (
    SCHEMES,
    inner_rim,
    is_polyp,
    polyp_shares,
)
from polyp_utils.data.split import PARTS
from polyp_utils.data.splits import load_split, split_names
from polyp_utils.score.overlap import count, dice


def rim_study(
    dataset: PolypDataset,
    ids: Iterable[str],
    widths: Iterable[float] = (1, 2, 3, 5),
    shifts: Iterable[int] = (1, 2),
) -> pd.DataFrame:
    """How wide a boundary class should be: scores of the true mask shifted by a pixel or two.

    Returns:
        One row per rim width (px, at network size): ``rim_px``, ``share`` of all pixels, and for
        each shift d (px, along both axes) the per-image mean Dice of the shifted against the
        original mask, for the rim (``rim_dice_d``) and the whole polyp (``polyp_dice_d``).
    """
    polyp = is_polyp(dataset.masks[dataset.rows(ids)])
    rows = []
    for width in widths:
        rim = torch.cat([inner_rim(part, width) for part in polyp.split(64)])
        row = {"rim_px": width, "share": float(rim.float().mean())}
        for d in shifts:
            for name, truth in (("rim", rim), ("polyp", polyp)):
                inner, moved = truth[:, d:, d:], truth[:, :-d, :-d]
                scores = dice(count(moved, inner, 2))[:, 1]
                row[f"{name}_dice_{d}"] = float(scores.nanmean())
        rows.append(row)
    return pd.DataFrame(rows)


def split_table(dataset: PolypDataset, pairs: pd.DataFrame) -> pd.DataFrame:
    """Every split of a data set: near-duplicate pairs that cross it, and polyp area per part.

    Args:
        dataset: provides the polyp areas.
        pairs: near-duplicates, see `find_near_duplicates`.

    Returns:
        One row per split that has enough frames: ``split``, ``pairs`` (with both frames in the
        split), how many of them cross ``train and val``, ``train and test``, ``val and test``, and
        ``area`` (median polyp area in per cent, for train / val / test).
    """
    area = pd.Series(100 * polyp_shares(dataset.masks).numpy(), dataset.ids)
    rows = []
    for name in split_names(dataset.name):
        try:
            split = load_split(name, dataset.name)
        except ValueError:  # too few frames for a split of this kind
            continue
        crossing, inside = split.crossing_pairs(zip(pairs["id_a"], pairs["id_b"], strict=True))
        row: dict[str, Any] = {"split": name, "pairs": inside}
        for one, other in itertools.combinations(PARTS, 2):
            row[f"{one} and {other}"] = crossing[f"{one} and {other}"]
        medians = (area.reindex(split.part(part)).median() for part in PARTS)
        row["area"] = " / ".join(f"{median:.1f}" for median in medians)
        rows.append(row)
    return pd.DataFrame(rows)


def class_share_table(dataset: PolypDataset, ids: Iterable[str]) -> pd.DataFrame:
    """Share of pixels per class under every scheme that fits the masks, at network size.

    Returns:
        Columns ``scheme``, ``class``, ``share``.
    """
    masks = dataset.masks[dataset.rows(ids)]
    rows = []
    for scheme in SCHEMES.values():
        if not scheme.fits(masks):
            continue
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


def polyp_frequency(dataset: PolypDataset, ids: Iterable[str]) -> np.ndarray:
    """Share of frames in which a pixel is polyp, float64 (S, S) in [0, 1]."""
    return is_polyp(dataset.masks[dataset.rows(ids)]).double().mean(dim=0).numpy()
