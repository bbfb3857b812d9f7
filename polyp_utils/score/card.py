"""A run scored by the convention that explains the model card's figures."""

import math

import numpy as np
import pandas as pd
import torch

from polyp_utils.common.files import read_csv
from polyp_utils.data.dataset import PolypDataset
from polyp_utils.runs.run import Run
from polyp_utils.score.literature import CARD
from polyp_utils.score.overlap import Counts, card_dice, count

VAL_COUNTS = "val_counts"  # the table of `validation_table` in a published run


def card_scores(run: Run, dataset: PolypDataset) -> dict[str, float]:
    """Scores the run by the convention that explains the card's figures.

    Dice: argmax at network size, pixels pooled over batches of 8, an absent class scores 1; mean
    over the scheme's classes, then over batches. Loss: as computed from logits at the end of
    training. Test scores are NaN if the run was not scored on its test part.
    """
    scores = {part: card_dice(class_counts(run, part, dataset)) for part in run.config.held_out}
    at_the_end = run.training["kept_at_network_size"].get("test", {})
    found = (scores["val"], scores.get("test", math.nan), at_the_end.get("loss", math.nan))
    return dict(zip(CARD, found, strict=True))


def class_counts(run: Run, part: str, dataset: PolypDataset) -> Counts:
    """Pixel counts per image and class (N, C), argmax at network size, in the order of the split.

    For the validation part they come from ``val_counts.csv`` if the run has it, as a run published
    without its validation predictions does.
    """
    scheme = run.scheme
    path = run.path / f"{VAL_COUNTS}.csv"
    if part == "val" and path.is_file():
        table = read_csv(path, "id")
        columns = (torch.tensor(table[name].to_numpy()) for name in Counts._fields)
        return Counts(*(column.view(-1, len(scheme.classes)) for column in columns))
    ids = run.split.part(part)
    target = scheme.encode(dataset.masks[dataset.rows(ids)])
    predicted = [run.probabilities(part, i, scheme).argmax(dim=0) for i in ids]
    return count(torch.stack(predicted), target, len(scheme.classes))


def validation_table(run: Run, dataset: PolypDataset) -> pd.DataFrame:
    """`class_counts` of the validation part as a table, one row per image and class."""
    classes, ids = run.scheme.classes, run.split.val
    index = {"id": np.repeat(ids, len(classes)), "class": [*classes] * len(ids)}
    counts = class_counts(run, "val", dataset)._asdict()
    return pd.DataFrame(index | {name: values.flatten().numpy() for name, values in counts.items()})
