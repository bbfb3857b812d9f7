"""Sums per image and class that determine a card's Dice and loss, and ways of averaging them.

`measure_sums` reduces a run's validation and test frames to sums, from its weights or predictions;
they are kept in the run as ``card_sums.csv``. Dice and loss under every way of averaging follow
from them, without weights or data.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from polyp_utils.common.exceptions import RunError
from polyp_utils.common.files import read_csv
from polyp_utils.data.dataset import PolypDataset
from polyp_utils.data.transforms import to_input
from polyp_utils.model.losses import EPSILON
from polyp_utils.runs.predictions import network_of
from polyp_utils.runs.run import Run
from polyp_utils.score.overlap import CARD_BATCH, Counts, batch_dice, confusion_matrix, counts_of

TABLE = "card_sums"
_CHUNK = 8
_LEVEL_0 = 1 / 1020  # substitute for a stored 0, which means 0 to 1/510: the middle

_Read = Callable[[str, Sequence[str], Tensor], tuple[Tensor, Tensor]]

AVERAGES: dict[str, tuple[int, float, bool]] = {  # batch size, absent class, all classes?
    "absent 1, batches of 8": (CARD_BATCH, 1.0, True),
    "absent 1, per image": (1, 1.0, True),
    "absent 1, pooled": (0, 1.0, True),
    "absent left out, batches of 8": (CARD_BATCH, np.nan, True),
    "absent 0, batches of 8": (CARD_BATCH, 0.0, True),
    "background and polyp, batches of 8": (CARD_BATCH, np.nan, False),
}
LOSSES: dict[str, tuple[float, float | None]] = {  # smoothing term, soft Dice of an absent class
    "absent as smoothed by 1e-6": (EPSILON, None),
    "absent as smoothed by 1": (1.0, None),
    "absent left out": (EPSILON, np.nan),
    "absent counts 1": (EPSILON, 1.0),
}


@dataclass(frozen=True)
class Sums:
    """Sums over the pixels of each image of a part: N images, C classes.

    Attributes:
        counts: pixel counts by argmax at network size, int64 (N, C) each.
        right: sum of the class's probability over its true pixels, float64 (N, C).
        mass: sum of the class's probability over all pixels, float64 (N, C).
        ce: mean cross-entropy, float64 (N,).
    """

    counts: Counts
    right: Tensor
    mass: Tensor
    ce: Tensor

    def __getitem__(self, rows: Tensor) -> "Sums":
        counts = Counts(*(c[rows] for c in self.counts))
        return Sums(counts, self.right[rows], self.mass[rows], self.ce[rows])

    def __len__(self) -> int:
        return len(self.ce)


def is_measured(run: Run) -> bool:
    """Whether the run holds a table from `measure_sums`."""
    return (run.path / f"{TABLE}.csv").is_file()


def is_measurable(run: Run) -> bool:
    """Whether the run has weights, or predictions of its validation part, for `measure_sums`."""
    return run.weights.is_file() or (run.path / "predictions/val").is_dir()


def measure_sums(run: Run, dataset: PolypDataset, device: str = "auto") -> pd.DataFrame:
    """Sums over the validation and test parts at network size, from the run's weights in float32.

    Without weights, its stored predictions are used, whose 8 bits round each probability by at most
    1/510.

    Returns:
        One row per image and class: ``part``, ``id``, ``class``, ``tp``, ``fp``, ``fn``, ``tn``,
        ``right``, ``mass``, ``ce`` (of the image).

    Raises:
        RunError: the run has neither weights nor predictions.
        ValueError: the run has one logit.
    """
    scheme = run.scheme
    if scheme.logits == 1:
        raise ValueError(f"{run.name} has one logit: take a run with the card's three classes")
    read = _computed(run, dataset, device) if run.weights.is_file() else _stored(run)
    split = run.split
    tables = []
    for part in ("val", "test"):
        ids = split.part(part)
        for names, rows in zip(_chunks(ids), dataset.rows(ids).split(_CHUNK), strict=True):
            p, log = read(part, names, rows)
            target = scheme.encode(dataset.masks[rows])
            columns = counts_of(confusion_matrix(p.argmax(1), target, scheme.logits))._asdict()
            truth = torch.nn.functional.one_hot(target, scheme.logits).permute(0, 3, 1, 2)
            columns["right"] = (p * truth).sum((2, 3))
            columns["mass"] = p.sum((2, 3))
            columns["ce"] = -(log * truth).sum(1).mean((1, 2))[:, None].expand(-1, scheme.logits)
            table = {name: values.flatten().numpy() for name, values in columns.items()}
            index = {"id": np.repeat(names, scheme.logits), "class": [*scheme.classes] * len(names)}
            tables.append(pd.DataFrame({"part": part, **index, **table}))
    return pd.concat(tables, ignore_index=True)


def _computed(run: Run, dataset: PolypDataset, device: str) -> _Read:
    """Reads probabilities and their logarithms, float64 (B, C, H, W), from the run's network."""
    network, compute = network_of(run, dataset, device, "fp32")

    def read(_part: str, _names: Sequence[str], rows: Tensor) -> tuple[Tensor, Tensor]:
        with torch.inference_mode():
            logits = network(to_input(dataset.images[rows], compute.device)).float().cpu()
        log = logits.double().log_softmax(dim=1)
        return log.exp(), log

    return read


def _stored(run: Run) -> _Read:
    """Reads the same from stored predictions."""
    scheme = run.scheme

    def read(part: str, names: Sequence[str], _rows: Tensor) -> tuple[Tensor, Tensor]:
        p = torch.stack([run.probabilities(part, name, scheme) for name in names]).double()
        return p, p.clamp(min=_LEVEL_0).log()

    return read


def _chunks(ids: Sequence[str]) -> list[list[str]]:
    return [list(ids[start : start + _CHUNK]) for start in range(0, len(ids), _CHUNK)]


def read_sums(run: Run) -> pd.DataFrame:
    """The table from `measure_sums` that is stored in a run.

    Raises:
        RunError: none is stored.
    """
    if not is_measured(run):
        raise RunError(f"{run.name} holds no {TABLE}.csv: run notebook 06 where its data set is")
    return read_csv(run.path / f"{TABLE}.csv", "id")


def sums_of(table: pd.DataFrame, part: str) -> Sums:
    """The sums of ``val`` or ``test`` in a table from `measure_sums`."""
    rows = table[table["part"] == part]
    classes = rows["class"].nunique()

    def column(name: str) -> Tensor:
        return torch.tensor(rows[name].to_numpy()).view(-1, classes)

    counts = Counts(*(column(name) for name in Counts._fields))
    return Sums(counts, column("right"), column("mass"), column("ce")[:, 0])


def averages(sums: Sums) -> dict[str, float]:
    """Dice by argmax under each of `AVERAGES`: the mean over classes, then over batches."""
    sizes = {size for size, *_ in AVERAGES.values()}
    of_size = {size: batch_dice(sums.counts, size) for size in sizes}
    found = {}
    for way, (size, absent, every) in AVERAGES.items():
        per_class = of_size[size].nan_to_num(nan=absent)
        found[way] = float((per_class if every else per_class[:, :2]).nanmean(dim=1).mean())
    return found


def losses(sums: Sums) -> dict[str, float]:
    """The card's loss, 0.5 CE + 0.5 Dice loss, under each of `LOSSES`: the mean over images."""
    batch = torch.arange(len(sums)) // CARD_BATCH
    size = torch.bincount(batch)
    true = sums.counts.tp + sums.counts.fn
    right, mass, true = (
        torch.zeros(len(size), x.shape[1], dtype=torch.float64).index_add(0, batch, x.double())
        for x in (sums.right, sums.mass, true)
    )
    found = {}
    for way, (smoothing, absent) in LOSSES.items():
        dice = (2 * right + smoothing) / (mass + true + smoothing)
        if absent is not None:
            dice = torch.where(true > 0, dice, absent)
        of_dice = (1 - dice.nanmean(dim=1)) @ size.double() / len(sums)
        found[way] = float(0.5 * sums.ce.mean() + 0.5 * of_dice)
    return found
