"""What is in a data set: class shares, where polyps lie, rims, and what its splits hold."""

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
    """How wide a boundary class should be: what a mask that is a pixel or two off would score.

    Returns:
        A row per rim width (px, at network size): ``rim_px``, ``share`` of all pixels, and for
        each shift d (px, along both axes) the mean Dice per image of rim and of whole polyp,
        ``rim_dice_d`` and ``polyp_dice_d``, of the true mask moved by it.
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
    """Every split of a data set: who crosses it, and whether its parts look alike.

    Args:
        dataset: gives the polyp areas.
        pairs: near-duplicates, see `find_near_duplicates`.

    Returns:
        A row per split that its frames allow: ``split``, ``pairs`` (wholly inside it), how many
        of them stand in ``train and val``, ``train and test``, ``val and test``, and ``area``
        (median polyp area in per cent, for train / val / test).
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
    """Share of pixels per class for every scheme that the masks can bear, at network size.

    Returns:
        Rows ``scheme``, ``class``, ``share``.
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
    """How often a pixel is polyp, float64 (S, S) in [0, 1]."""
    return is_polyp(dataset.masks[dataset.rows(ids)]).double().mean(dim=0).numpy()
