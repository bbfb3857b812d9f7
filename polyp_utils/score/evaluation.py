"""Scores predictions against a data set: a table per image, and its summary with intervals.

Everything is computed from probabilities, stored or given, so a published run or another system's
masks are scored without weights. The primary score is the per-image mean Dice of the merged polyp
mask at the original size; `polyp_utils.score.protocols` has the other protocols.
"""

import functools
import os
import warnings
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from polyp_utils.common.exceptions import RunError
from polyp_utils.common.files import remove_leftovers, write_json
from polyp_utils.data.dataset import PolypDataset
from polyp_utils.data.grouping import known_groups
from polyp_utils.data.labels import POLYP
from polyp_utils.model.predict import to_original
from polyp_utils.model.weights import read_header
from polyp_utils.runs.predictions import Predictions, of_run
from polyp_utils.runs.run import Run
from polyp_utils.score.card import card_scores
from polyp_utils.score.image import OVERLAP, score_image
from polyp_utils.score.intervals import Interval, mean_interval
from polyp_utils.score.misread import area_doubts, size_notes
from polyp_utils.score.overlap import Counts
from polyp_utils.score.protocols import NETWORK, ORIGINAL, protocol_table

_NO_SCORE = {"id", "size", "class", *Counts._fields}

PROTOCOL = (
    "one value per image, then the mean; class probabilities brought bilinearly to the original "
    "size, polyp where P(all polyp classes) > 0.5, classes by argmax; absent from truth and "
    "prediction: left out, absent from the truth but predicted: 0; 95 % BCa bootstrap over images, "
    "near-duplicates and frames of one sequence together"
)


@dataclass(frozen=True)
class Evaluation:
    """Scores of one system on a set of frames.

    Attributes:
        predictions: those that were scored.
        per_image: one row per image, size and class. ``id``, ``size`` (original or network),
            ``class``; pixels ``tp``, ``fp``, ``fn``, ``tn``; the scores of `overlap`. At the
            original size also those of `surface`; and for the merged polyp those of `saliency`,
            the counts of `detection` and the threshold means of `protocols`.
        confusion: pixels at the original size, int64 (C, C); rows are the true classes.
        groups: id -> group; frames of one group are resampled together.
        card: a run's scores by the card's convention, see `card_scores`; empty for other systems.
        notes: how another system's predictions were read, in words.
        doubts: what speaks against that, see `polyp_utils.score.misread`.
    """

    predictions: Predictions
    per_image: pd.DataFrame
    confusion: np.ndarray
    groups: dict[str, int]
    card: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the scheme's classes."""
        return self.predictions.scheme.classes

    @functools.cached_property
    def summary(self) -> pd.DataFrame:
        """Mean and 95 % interval per size, class and score; polyp Dice is the first row.

        Columns ``size``, ``class``, ``score`` and those of `Interval`.
        """
        rows = []
        for size in (ORIGINAL, NETWORK):
            of_size = self.per_image[self.per_image["size"] == size]
            for name in (POLYP, *self.classes):
                values = of_size[of_size["class"] == name]
                groups = values["id"].map(self.groups)
                for score in [str(c) for c in values if not _is_no_score(str(c))]:
                    if score in OVERLAP or values[score].notna().any():
                        interval = mean_interval(values[score], groups=groups)
                        row = {"size": size, "class": name, "score": score}
                        rows.append(row | interval._asdict())
        return pd.DataFrame(rows)

    @functools.cached_property
    def protocols(self) -> pd.DataFrame:
        """The same predictions scored under each named protocol, see `protocol_table`."""
        return protocol_table(self.per_image, self.groups)

    @property
    def polyp_dice(self) -> Interval:
        """Per-image mean of polyp Dice at the original size: the primary score."""
        return Interval.of(self.summary.iloc[0])

    @property
    def record(self) -> dict[str, Any]:
        """What ``summary.json`` holds of it."""
        return {
            "n": int(self.per_image["id"].nunique()),
            "protocol": PROTOCOL,
            "scores": [plain(row) for row in self.summary.to_dict("records")],
            "protocols": [plain(row) for row in self.protocols.to_dict("records")],
        }

    def save(self, run: Run, part: str = "test") -> None:
        """Writes ``per_image.csv`` and ``summary.json`` into a run folder, atomically."""
        remove_leftovers(run.path.glob(".*.tmp"))
        run.save_table("per_image", self.per_image)
        summary = {"part": part, **self.record, "card": plain(self.card)}
        write_json(run.path / "summary.json", summary)


def _is_no_score(column: str) -> bool:
    return column in _NO_SCORE or column.startswith(("found_", "missed_", "false_"))


def evaluate(
    predictions: Predictions, dataset: PolypDataset, all_scores: bool = True
) -> Evaluation:
    """Scores predictions against a data set.

    Args:
        predictions: from a run, a folder or arrays, see `polyp_utils.runs.predictions`.
        dataset: holds their frames; opened at the network's size.
        all_scores: also score outlines, maps and objects, which takes longer than overlap; without
            these scores, ``protocols`` cannot be computed.

    Doubts about another system's predictions are warned of, and kept.

    Raises:
        ValueError: a frame is not in the data set.
        RunError: a stored prediction is missing.
        DataError: a prediction cannot be used.
    """
    ids = list(predictions.ids)
    rows = dataset.rows(ids).tolist()
    sizes = {i: (int(h), int(w)) for i, (h, w) in zip(ids, dataset.sizes[rows], strict=True)}
    notes, doubts = size_notes(predictions.sizes, sizes)

    def one(frame_id: str, row: int) -> tuple[pd.DataFrame, Tensor]:
        probabilities = predictions.read(frame_id)
        truth = torch.from_numpy(dataset.original_mask(frame_id))
        tables = []
        for size, levels in ((ORIGINAL, truth), (NETWORK, dataset.masks[row])):
            enlarged = to_original(probabilities, (levels.shape[0], levels.shape[1]))
            table, matrix = score_image(
                enlarged, levels, predictions.scheme, all_scores and size == ORIGINAL
            )
            tables.append((table.assign(id=frame_id, size=size), matrix))
        return pd.concat([table for table, _ in tables]), tables[0][1]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        scored = list(pool.map(one, ids, rows))
    per_image = pd.concat([table for table, _ in scored], ignore_index=True)
    first = ["id", "size", "class"]
    per_image = per_image[[*first, *(c for c in per_image if c not in first)]]
    confusion = torch.cat([matrix for _, matrix in scored]).sum(dim=0).numpy()
    if predictions.sizes:
        doubts += area_doubts(per_image)
    for doubt in doubts:
        warnings.warn(f"{predictions.name}: {doubt}", stacklevel=2)
    return Evaluation(
        predictions,
        per_image,
        confusion,
        known_groups(dataset, ids),
        notes=(*predictions.notes, *notes),
        doubts=tuple(doubts),
    )


def evaluate_run(run: Run, part: str = "test", dataset: PolypDataset | None = None) -> Evaluation:
    """Scores a run's stored predictions of one part of its split, also by the card's convention.

    Args:
        run: finished or published.
        part: ``val`` or ``test``.
        dataset: the run's data set at its network size; opened if not given.

    Raises:
        RunError: a prediction is missing, the run's test part is not scored, or the data are not
            those that the run was trained on.
    """
    config = run.config
    if part == "test" and not config.score_test:
        raise RunError(
            f"{run.name} was trained with score_test False: its test part is left alone. Train "
            "with score_test True, or evaluate its validation part (03_evaluate.ipynb -p part val)"
        )
    dataset = dataset or PolypDataset(config.dataset, config.image_size)
    check_data(run, dataset)
    found = evaluate(of_run(run, part), dataset)
    return Evaluation(
        found.predictions, found.per_image, found.confusion, found.groups, card_scores(run, dataset)
    )


def check_data(run: Run, dataset: PolypDataset) -> None:
    """Checks that the data, the split and the settings are those that the run was trained with.

    Raises:
        RunError: a fingerprint differs, or a setting from that in the header of the weights; the
            message holds both.
    """
    config, split = run.config, run.split
    made_with = run.record.get("fingerprints", {})
    for what, name, then, now in (
        ("data set", config.dataset, made_with.get("data"), dataset.fingerprint),
        ("split", split.name, made_with.get("split_ids"), split.fingerprint),
    ):
        if then != now:
            raise RunError(
                f"{run.name} was made with {what} {name} of fingerprint {then}; here it is {now}: "
                "use the files, or the version of this package, that the run was made with"
            )
    header = read_header(run.weights).settings if run.weights.is_file() else {}
    for name in ("scheme", "image_size", "width"):
        if header.get(name, getattr(config, name)) != getattr(config, name):
            raise RunError(
                f"{run.path / 'config.json'} says {name} {getattr(config, name)}, but "
                f"{run.weights.name} was trained with {header[name]}: restore both from a copy"
            )


def plain(values: Mapping[Any, Any]) -> dict[str, Any]:
    """Values as JSON can hold them, which has no NaN and no numpy types."""
    plain = {k: v.item() if isinstance(v, np.generic) else v for k, v in values.items()}
    return {k: None if isinstance(v, float) and np.isnan(v) else v for k, v in plain.items()}
