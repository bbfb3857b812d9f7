"""Where a card's Dice of 0.9169 can come from: label schemes × ways of averaging.

A run's validation and test frames are turned into sums per image and class, from its weights.
Every way of averaging, the loss included, follows from these sums, and so does its interval:
images are drawn anew, batches formed again, and with several seeds one is drawn each time, so that
the interval covers both. The card's split and seed are unknown, so no interval covers those.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from polyp_utils.data.dataset import PolypDataset
from polyp_utils.data.labels import get_scheme
from polyp_utils.data.splits import load_split
from polyp_utils.data.transforms import to_input
from polyp_utils.device import get_compute
from polyp_utils.evaluation import CARD
from polyp_utils.inference import load_weights
from polyp_utils.losses import EPSILON
from polyp_utils.metrics import confusion_matrix
from polyp_utils.model import UNet
from polyp_utils.runs import Run

BATCH = 8
_RESAMPLES = 999
_CHUNK = 8


@dataclass(frozen=True)
class Sums:
    """What a part of the data adds up to, per image: N images, C classes.

    Attributes:
        counts: pixels by argmax, int64 (3, N, C): true positives, predicted, true.
        soft: probability mass, float64 (3, N, C): on the right class, in all, and true pixels.
        ce: mean cross-entropy, float64 (N,).
    """

    counts: np.ndarray
    soft: np.ndarray
    ce: np.ndarray


def sums_of(run: Run, part: str, dataset: PolypDataset, device: str = "auto") -> Sums:
    """Sums of ``val`` or ``test`` under a run's weights, at network size, in float32.

    Raises:
        FileNotFoundError: the run's weights are not at hand.
    """
    config, scheme = run.config, get_scheme(run.config.scheme)
    if scheme.logits == 1:
        raise ValueError(f"{run.name} has one logit; the card has three classes")
    compute = get_compute(device, "fp32")
    network = load_weights(UNet(3, scheme.logits, config.width), run.weights).eval()
    network = network.to(memory_format=torch.channels_last).to(compute.device)
    ids = load_split(config.split, config.dataset).limited(config.limit).part(part)
    parts: list[tuple[torch.Tensor, ...]] = []
    for rows in dataset.rows(ids).split(_CHUNK):
        with torch.inference_mode():
            logits = network(to_input(dataset.images[rows], compute.device)).float().cpu()
        target = scheme.encode(dataset.masks[rows])
        matrix = confusion_matrix(logits.argmax(dim=1), target, scheme.logits)
        hard = torch.stack([matrix.diagonal(dim1=1, dim2=2), matrix.sum(1), matrix.sum(2)])
        log = logits.double().log_softmax(dim=1)
        chance = log.exp()
        one_hot = torch.nn.functional.one_hot(target, scheme.logits).permute(0, 3, 1, 2)
        soft = torch.stack(
            [(chance * one_hot).sum((2, 3)), chance.sum((2, 3)), one_hot.sum((2, 3)).double()]
        )
        parts.append((hard, soft, -(log * one_hot).sum(1).mean((1, 2))))
    counts, mass, losses = zip(*parts, strict=True)
    return Sums(torch.cat(counts, 1).numpy(), torch.cat(mass, 1).numpy(), torch.cat(losses).numpy())


def class_mean(
    sums: Sums, rows: np.ndarray, batch: int, absent: float, classes: Sequence[int]
) -> float:
    """Dice by argmax: pixels of each batch together, mean over classes, then over batches.

    Args:
        sums: of a part.
        rows: of its images, in order.
        batch: images that are summed; 1: per image; 0: all together.
        absent: score of a class that neither truth nor prediction holds; NaN: left out.
        classes: to average over.
    """
    starts = range(0, len(rows), batch or len(rows))
    hits, predicted, true = (
        np.add.reduceat(count[rows][:, list(classes)], starts, axis=0) for count in sums.counts
    )
    total = predicted + true
    dice = np.where(total > 0, 2 * hits / np.maximum(total, 1), absent)
    return float(np.nanmean(np.nanmean(dice, axis=1)))


def loss(sums: Sums, rows: np.ndarray, batch: int = BATCH) -> float:
    """The card's loss, 0.5 CE + 0.5 Dice, per batch and then weighted by images."""
    starts = list(range(0, len(rows), batch))
    hits, chance, true = (np.add.reduceat(part[rows], starts, axis=0) for part in sums.soft)
    dice = (2 * hits + EPSILON) / (chance + true + EPSILON)
    sizes = np.diff([*starts, len(rows)])
    return float(
        0.5 * sums.ce[rows].mean() + 0.5 * np.average(1 - dice.mean(axis=1), weights=sizes)
    )


AVERAGES: Mapping[str, tuple[int, float, bool]] = {  # batch, absent, whether all classes
    "all classes, absent 1, batches of 8": (BATCH, 1.0, True),
    "all classes, absent 1, per image": (1, 1.0, True),
    "all classes, absent 1, pooled": (0, 1.0, True),
    "all classes, absent left out, batches of 8": (BATCH, np.nan, True),
    "all classes, absent 0, batches of 8": (BATCH, 0.0, True),
    "background and polyp, batches of 8": (BATCH, np.nan, False),
}


def _averages(sums: Sums, rows: np.ndarray) -> dict[str, float]:
    classes = range(sums.counts.shape[2])
    return {
        name: class_mean(sums, rows, batch, absent, classes if every else (0, 1))
        for name, (batch, absent, every) in AVERAGES.items()
    }


def hypothesis(
    seeds: Sequence[tuple[Sums, Sums]], seed: int = 0, confidence: float = 0.95
) -> pd.DataFrame:
    """One label scheme: its figures under each average, with intervals over images and seeds.

    Args:
        seeds: sums of validation and test for each seed.
        seed: of the resampling.
        confidence: of the intervals.

    Returns:
        A row per average: ``average``, and for each figure of the card ``<figure>``,
        ``<figure> low``, ``<figure> high`` and ``<figure> fits`` (the card's lies between).
    """
    rng = np.random.default_rng(seed)
    whole = [_figures(*sums) for sums in seeds]
    drawn = []
    for _ in range(_RESAMPLES):
        val, test = seeds[int(rng.integers(len(seeds)))]
        rows = [rng.integers(len(s.ce), size=len(s.ce)) for s in (val, test)]
        drawn.append(_figures(val, test, *rows))
    tail = (1 - confidence) / 2
    table = []
    for name in AVERAGES:
        row: dict[str, object] = {"average": name}
        for figure, value in CARD.items():
            low, high = np.quantile([d[name][figure] for d in drawn], [tail, 1 - tail])
            row[figure] = float(np.mean([w[name][figure] for w in whole]))
            row |= {f"{figure} low": float(low), f"{figure} high": float(high)}
            row[f"{figure} fits"] = bool(low <= value <= high)
        table.append(row)
    return pd.DataFrame(table)


def _figures(
    val: Sums, test: Sums, val_rows: np.ndarray | None = None, test_rows: np.ndarray | None = None
) -> dict[str, dict[str, float]]:
    rows = [
        np.arange(len(s.ce)) if r is None else r for s, r in ((val, val_rows), (test, test_rows))
    ]
    on_val, on_test, lost = _averages(val, rows[0]), _averages(test, rows[1]), loss(test, rows[1])
    return {n: dict(zip(CARD, (on_val[n], on_test[n], lost), strict=True)) for n in AVERAGES}
