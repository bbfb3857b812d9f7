"""The ways in which the field computes "the" Dice, side by side, from one table per image.

Every protocol is a function of `Evaluation.per_image` (and of the groups that its intervals draw
together), so a published table can be read under each of them without data or weights.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from polyp_utils.data.labels import POLYP
from polyp_utils.score.intervals import (
    Interval,
    mean_interval,
    percentiles,
    ratio_interval,
    resamples,
)
from polyp_utils.score.saliency import THRESHOLDS, counts_above

ORIGINAL, NETWORK = "original", "network"  # sizes at which a prediction is scored

PROTOCOLS = {
    "image-mean": "a value per image at the original size, then the mean: the default here",
    "at-network-size": "the same at the network's size (256 px): kinder to outlines",
    "pooled": "the pixels of all images at the network's size together, then one value (DUCK-Net)",
    "pranet": "P(polyp) stretched to 0–1 per image, mean over 256 thresholds, original size",
    "card": "argmax at network size, pixels of 8 images together, an absent class counts 1, mean "
    "over all classes, background included: what would explain the model card",
}


def polyp_scores(per_image: pd.DataFrame, score: str = "dice", size: str = ORIGINAL) -> pd.Series:
    """The merged polyp's score per frame, by id.

    Args:
        per_image: of `Evaluation` or of a run.
        score: a column of it.
        size: `ORIGINAL` or `NETWORK`.
    """
    rows = per_image[(per_image["class"] == POLYP) & (per_image["size"] == size)]
    return rows.set_index("id")[score]


def threshold_scores(probability: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """PraNet's scores of a map float (H, W) against a mask bool (H, W).

    The map is stretched so that it spans 0 to 1, stored with 8 bits, and thresholded at each of
    256 levels; a level without a hit scores 0, so an empty target scores 0 (their MATLAB code).

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
        per_image: of `Evaluation`.
        groups: id -> frames that are resampled together; ids that are in none stand alone.

    Returns:
        Rows ``protocol``, ``score`` (``dice`` or ``iou``), ``mean``, ``low``, ``high``, ``n``.
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
    """The card's Dice; percentile interval over whole groups, batches drawn anew each time."""
    import torch  # tables of scores that are stored do without

    from polyp_utils.score.overlap import CARD_BATCH, Counts, card_dice, dice

    table = per_image[(per_image["size"] == NETWORK) & (per_image["class"] != POLYP)]
    ids = table["id"].drop_duplicates().tolist()
    wide = [table.pivot(index="id", columns="class", values=c).loc[ids] for c in Counts._fields]
    counts = Counts(*(torch.tensor(c.to_numpy()) for c in wide))
    together = [groups.get(i, i) for i in ids]
    whole = card_dice(counts)
    if len(set(together)) < 2:
        return Interval(whole, np.nan, np.nan, len(ids))
    rng = np.random.default_rng(seed)
    times = resamples(together, rng)
    sizes = times.sum(axis=1)
    sample = np.repeat(np.arange(len(sizes)), sizes)
    image = np.repeat(np.tile(np.arange(len(ids)), len(sizes)), times.ravel())
    image = image[np.lexsort((rng.random(len(image)), sample))]  # each sample in random order
    place = np.arange(len(image)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    batches = -(-int(sizes.max()) // CARD_BATCH)  # of a sample, at most
    batch = torch.from_numpy(sample * batches + place // CARD_BATCH)
    empty = torch.zeros(len(sizes) * batches, counts.tp.shape[1], dtype=torch.int64)
    summed = Counts(*(empty.index_add(0, batch, c[image]) for c in counts))
    scores = dice(summed).nan_to_num(nan=1.0).mean(dim=1).view(-1, batches)
    there = (torch.bincount(batch, minlength=len(empty)) > 0).view(-1, batches)
    low, high = percentiles(((scores * there).sum(dim=1) / there.sum(dim=1)).numpy())
    return Interval(whole, float(low), float(high), len(ids))
