"""A run and its data set -> per-image scores and a summary with intervals.

Everything is made from the stored predictions (probabilities at network size), so a published
run can be scored anew without its weights. The headline is the Dice of the merged polyp mask at
the original size, one value per image, then the mean.
"""

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from polyp_utils.data.dataset import PolypDataset
from polyp_utils.data.labels import Scheme, get_scheme, is_polyp
from polyp_utils.data.splits import Split, load_split
from polyp_utils.files import write_json
from polyp_utils.inference import to_original
from polyp_utils.metrics import (
    Counts,
    card_dice,
    confusion_matrix,
    counts_of,
    dice,
    iou,
    precision,
    recall,
)
from polyp_utils.runs import Run, RunError
from polyp_utils.stats import mean_interval

POLYP = "polyp (merged)"  # all polyp classes of a scheme together: what the literature scores
ORIGINAL, NETWORK = "original", "network"  # sizes at which a prediction is scored
CARD_BATCH = 8
_SCORES = {"dice": dice, "iou": iou, "precision": precision, "recall": recall}

PROTOCOL = (
    "one value per image, then the mean; class probabilities brought bilinearly to the original "
    "size, polyp where P(all polyp classes) > 0.5, classes by argmax; absent from truth and "
    "prediction: left out, absent from the truth but predicted: 0; 95 % BCa bootstrap over images"
)

# What the model card reports; `card_scores` has the same keys.
CARD = {"best validation Dice": 0.9036, "test Dice": 0.9169, "test loss": 0.3322}


@dataclass(frozen=True)
class Evaluation:
    """Scores of one part of a split.

    Attributes:
        per_image: a row per image, size and class: ``id``, ``size`` (original or network),
            ``class``, ``dice``, ``iou``, ``precision``, ``recall``, ``card_dice``.
        confusion: pixels at the original size, int64 (C, C), rows are the truth's classes.
        card: the run's scores by the card's convention, see `card_scores`.
    """

    run: Run
    part: str
    classes: tuple[str, ...]
    per_image: pd.DataFrame
    confusion: np.ndarray
    card: dict[str, float]

    @functools.cached_property
    def summary(self) -> pd.DataFrame:
        """Mean and 95 % interval per size, class and score; the headline is the first row."""
        rows = []
        for size in (ORIGINAL, NETWORK):
            of_size = self.per_image[self.per_image["size"] == size]
            for name in (POLYP, *self.classes):
                values = of_size[of_size["class"] == name]
                for score in _SCORES:
                    interval = mean_interval(values[score])
                    row = {"size": size, "class": name, "score": score}
                    rows.append(row | interval._asdict())
        return pd.DataFrame(rows)

    @property
    def headline(self) -> pd.Series:
        """Polyp Dice at the original size: mean, low, high, n."""
        return self.summary.iloc[0]

    def save(self) -> None:
        """Writes ``per_image.csv`` and ``summary.json`` into the run folder, atomically."""
        self.run.save_table("per_image", self.per_image)
        scores = [
            {"protocol": f"{row.pop('size')} size, per image", **row}
            for row in self.summary.to_dict("records")
        ]
        summary = {
            "part": self.part,
            "n": int(self.per_image["id"].nunique()),
            "protocol": PROTOCOL,
            "scores": [{k: _plain(v) for k, v in row.items()} for row in scores],
            "card": {k: _plain(v) for k, v in self.card.items()},
        }
        write_json(self.run.path / "summary.json", summary)


def evaluate(run: Run, part: str = "test", dataset: PolypDataset | None = None) -> Evaluation:
    """Scores a run's stored predictions for one part of its split.

    Args:
        run: a finished run, or a published one.
        part: ``val`` or ``test``.
        dataset: the run's data set at its network size, if it is open already.

    Raises:
        RunError: a prediction is missing, or the data are not those that the run was made with.
    """
    config = run.config
    scheme = get_scheme(config.scheme)
    dataset = dataset or PolypDataset(config.dataset, config.image_size)
    split = load_split(config.split, config.dataset).limited(config.limit)
    check_data(run, dataset, split)
    ids = split.part(part)
    tables, matrices = [], []
    for frame_id, row in zip(ids, dataset.rows(ids).tolist(), strict=True):
        probabilities = run.probabilities(part, frame_id, scheme)
        mask = dataset.original_mask(frame_id)
        truth = {ORIGINAL: torch.from_numpy(mask), NETWORK: dataset.masks[row]}
        for size, levels in truth.items():
            table, matrix = _score_image(
                to_original(probabilities, (levels.shape[0], levels.shape[1])), levels, scheme
            )
            tables.append(table.assign(id=frame_id, size=size))
            if size == ORIGINAL:
                matrices.append(matrix)
    columns = ["id", "size", "class", *_SCORES, "card_dice"]
    per_image = pd.concat(tables, ignore_index=True)[columns]
    confusion = torch.cat(matrices).sum(dim=0).numpy()
    return Evaluation(run, part, scheme.classes, per_image, confusion, card_scores(run, dataset))


def check_data(run: Run, dataset: PolypDataset, split: Split) -> None:
    """Refuses data or a split that are not those of the run.

    Raises:
        RunError: another fingerprint, with both.
    """
    made_with = run.record["fingerprints"]
    for what, name, then, now in (
        ("data set", run.config.dataset, made_with["data"], dataset.fingerprint),
        ("split", split.name, made_with["split_ids"], split.fingerprint),
    ):
        if then != now:
            raise RunError(
                f"{run.name} was made with {what} {name} of fingerprint {then}, here it has {now}: "
                "take the files, or the version of this package, that the run was made with"
            )


def polyp_and_classes(probabilities: Tensor, scheme: Scheme) -> tuple[Tensor, Tensor]:
    """Probabilities (C, H, W) -> polyp mask bool (H, W), class map int64 (H, W)."""
    polyp = scheme.polyp_probability(probabilities[None])[0] > 0.5
    return polyp, probabilities.argmax(dim=0)


def card_scores(run: Run, dataset: PolypDataset) -> dict[str, float]:
    """The run under the convention that explains the card's figures.

    Dice: argmax at network size, pixels summed over batches of 8, absent class = 1, mean over
    the scheme's classes, then over batches. Loss: as computed from logits at the end of training.
    """
    config = run.config
    scheme, split = get_scheme(config.scheme), load_split(config.split, config.dataset)
    scores = {}
    for part in ("val", "test"):
        ids = split.limited(config.limit).part(part)
        target = scheme.encode(dataset.masks[dataset.rows(ids)])
        predicted = [run.probabilities(part, i, scheme).argmax(dim=0) for i in ids]
        matrices = confusion_matrix(torch.stack(predicted), target, len(scheme.classes))
        batches = torch.stack([batch.sum(dim=0) for batch in matrices.split(CARD_BATCH)])
        scores[part] = float(card_dice(counts_of(batches)).mean())
    loss = run.training["best_at_network_size"]["test"]["loss"]
    return dict(zip(CARD, (scores["val"], scores["test"], loss), strict=True))


def _score_image(
    probabilities: Tensor, levels: Tensor, scheme: Scheme
) -> tuple[pd.DataFrame, Tensor]:
    """A row per class (merged polyp first), and the confusion matrix (1, C, C)."""
    polyp, classes = polyp_and_classes(probabilities, scheme)
    target = scheme.encode(levels[None])
    matrix = confusion_matrix(classes[None], target, len(scheme.classes))
    merged = counts_of(confusion_matrix(polyp[None], is_polyp(levels[None]), 2))
    counts = Counts(
        *(torch.cat([m[:, 1:], c], dim=1) for m, c in zip(merged, counts_of(matrix), strict=True))
    )
    scores = {name: score(counts)[0].numpy() for name, score in _SCORES.items()}
    scores["card_dice"] = card_dice(counts)[0].numpy()
    return pd.DataFrame({"class": [POLYP, *scheme.classes], **scores}), matrix


def _plain(value: Any) -> Any:
    """JSON has no NaN and no numpy types."""
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, float):
        return None if np.isnan(value) else value
    return value
