"""The protocols by which the field computes "the" Dice, all from one per-image table.

Every protocol is a function of `Evaluation.per_image` (and, for intervals, of the groups that are
resampled together), so a published table yields each of them without data or weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from polyp_utils.data.labels import POLYP
from polyp_utils.score.intervals import (
    NONE,
    ROUNDING,
    Interval,
    mean_interval,
    percentile_interval,
    ratio_interval,
    resamples,
)
from polyp_utils.score.saliency import THRESHOLDS, counts_above

if TYPE_CHECKING:
    from polyp_utils.score.overlap import Counts

ORIGINAL, NETWORK = "original", "network"  # sizes at which a prediction is scored
SHUFFLES = 999
ORDER_LEVEL = 0.01  # a given order is not like a random one if its p is smaller

PROTOCOLS = {
    "image-mean": "per-image mean at the original size: the default here",
    "at-network-size": "the same at network size: more lenient on outlines",
    "pooled": "pooled over the pixels of all images at network size (DUCK-Net)",
    "pranet": "P(polyp) rescaled to 0–1 per image, mean over 256 thresholds, original size",
    "card": "argmax at network size, pooled over batches of 8 images, an absent class scores 1; "
    "mean over all classes, background included: this would explain the model card",
}


def polyp_scores(per_image: pd.DataFrame, score: str = "dice", size: str = ORIGINAL) -> pd.Series:
    """The merged polyp's score per frame, by id.

    Args:
        per_image: table of an `Evaluation` or a run.
        score: one of its columns.
        size: `ORIGINAL` or `NETWORK`.
    """
    rows = per_image[(per_image["class"] == POLYP) & (per_image["size"] == size)]
    return rows.set_index("id")[score]


def threshold_scores(probability: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """PraNet's scores of a map float (H, W) against a mask bool (H, W).

    The map is rescaled to span 0 to 1, quantised to 8 bits, and thresholded at each of the 256
    levels; a level without true positives scores 0, and so does an empty target (their MATLAB
    code).

    Returns:
        ``pranet_dice`` and ``pranet_iou``, means over the thresholds.
    """
    low, high = float(probability.min()), float(probability.max())
    stretched = (probability - low) / (high - low) if high > low else probability
    hits, false = counts_above(np.round(stretched * (THRESHOLDS - 1)).astype(np.uint8), target)
    size = target.sum()
    return {
        "pranet_dice": float((2 * hits / np.maximum(size + hits + false, 1)).mean()),
        "pranet_iou": float((hits / np.maximum(size + false, 1)).mean()),
    }


def protocol_table(per_image: pd.DataFrame, groups: Mapping[str, object]) -> pd.DataFrame:
    """Polyp Dice and IoU (``card``: Dice of all classes) under each protocol.

    Args:
        per_image: table of an `Evaluation`.
        groups: id -> group; frames of one group are resampled together, ids without one alone.

    Returns:
        Columns ``protocol``, ``score`` (``dice`` or ``iou``) and those of `Interval`.
    """
    polyp = {
        size: per_image[(per_image["class"] == POLYP) & (per_image["size"] == size)]
        for size in (ORIGINAL, NETWORK)
    }
    at_original, at_network = polyp[ORIGINAL], polyp[NETWORK]
    together = [groups.get(i, i) for i in at_original["id"]]
    tp, wrong = at_network["tp"], at_network["fp"] + at_network["fn"]
    found: list[tuple[str, str, Interval]] = []
    for score in ("dice", "iou"):
        weight = 2 if score == "dice" else 1
        found += [
            ("image-mean", score, mean_interval(at_original[score], groups=together)),
            ("at-network-size", score, mean_interval(at_network[score], groups=together)),
            ("pooled", score, ratio_interval(weight * tp, weight * tp + wrong, groups=together)),
            ("pranet", score, mean_interval(at_original[f"pranet_{score}"], groups=together)),
        ]
    found.append(("card", "dice", _card(per_image, groups)))
    rows = [{"protocol": name, "score": score, **i._asdict()} for name, score, i in found]
    return pd.DataFrame(rows)


def _card(per_image: pd.DataFrame, groups: Mapping[str, object], seed: int = 0) -> Interval:
    """The card's Dice; percentile interval over whole groups, batched anew in each resample.

    New batches are fair only if the given order is like a random one. In sets that are sorted, say
    frames without polyps last, whole batches lack a class and score 1, which shuffled ones do not:
    so if fewer than 1 % of shuffles are as far out as the given order, there is no interval.
    """
    import torch  # stored scores are tabulated without it

    from polyp_utils.score.overlap import Counts, card_dice

    table = per_image[(per_image["size"] == NETWORK) & (per_image["class"] != POLYP)]
    ids = table["id"].drop_duplicates().tolist()
    wide = [table.pivot(index="id", columns="class", values=c).loc[ids] for c in Counts._fields]
    counts = Counts(*(torch.tensor(c.to_numpy()) for c in wide))
    together = [groups.get(i, i) for i in ids]
    whole, n = card_dice(counts), len(ids)
    if len(set(together)) < 2:
        return Interval(whole, np.nan, np.nan, n, NONE)
    rng = np.random.default_rng(seed)
    drawn = _rebatched(counts, resamples(together, rng), rng)
    shuffled = _rebatched(counts, np.ones((SHUFFLES, n), np.int64), rng)
    sides = (shuffled <= whole + ROUNDING, shuffled >= whole - ROUNDING)
    if min(1 + side.sum() for side in sides) / (1 + SHUFFLES) < ORDER_LEVEL / 2:
        return Interval(whole, np.nan, np.nan, n, NONE)
    return percentile_interval(whole, drawn, n)


def _rebatched(counts: Counts, times: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The card's Dice of samples in random order, float64 (samples,).

    Args:
        counts: int64 (N, C) each.
        times: how often each image is in each sample, int64 (samples, N).
        rng: source of the order.
    """
    import torch

    from polyp_utils.score.overlap import CARD_BATCH, Counts, dice

    sizes = times.sum(axis=1)
    sample = np.repeat(np.arange(len(sizes)), sizes)
    image = np.repeat(np.tile(np.arange(times.shape[1]), len(sizes)), times.ravel())
    image = image[np.lexsort((rng.random(len(image)), sample))]  # shuffles each sample
    place = np.arange(len(image)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    batches = -(-int(sizes.max()) // CARD_BATCH)  # per sample, at most
    batch = torch.from_numpy(sample * batches + place // CARD_BATCH)
    empty = torch.zeros(len(sizes) * batches, counts.tp.shape[1], dtype=torch.int64)
    summed = Counts(*(empty.index_add(0, batch, c[image]) for c in counts))
    scores = dice(summed).nan_to_num(nan=1.0).mean(dim=1).view(-1, batches)
    there = (torch.bincount(batch, minlength=len(empty)) > 0).view(-1, batches)
    return ((scores * there).sum(dim=1) / there.sum(dim=1)).numpy()
