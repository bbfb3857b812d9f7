"""Another system's folder of predictions, scored as a run is, compared, and kept.

A folder of results holds ``per_image.csv`` and ``summary.json``: as those of a run, with what was
scored (``task``), how it was read (``notes``) and what speaks against that (``doubts``).
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pandas as pd

import polyp_utils
from polyp_utils.common.exceptions import RunError
from polyp_utils.common.files import write_csv, write_json
from polyp_utils.common.paths import results_root
from polyp_utils.data.catalog import get_info
from polyp_utils.data.dataset import PolypDataset
from polyp_utils.data.splits import load_split
from polyp_utils.runs.predictions import Predictions, of_folder, of_run
from polyp_utils.runs.run import find_run, make_folder
from polyp_utils.score.comparison import compare_systems
from polyp_utils.score.evaluation import Evaluation, check_data, evaluate, plain
from polyp_utils.score.intervals import Interval
from polyp_utils.score.protocols import PROTOCOLS


@dataclass(frozen=True)
class Task:
    """What is scored, and how.

    Attributes:
        folder: of the predictions.
        dataset: name in the catalogue, or a folder.
        split: name or CSV file of a split; empty: all frames of the data set.
        part: of the split.
        values: what the values mean, as in `of_folder`; empty: found.
        against: run, or folder of predictions, that the system is compared with; empty: none.
        against_values: as ``values``, of that folder.
        image_size: network size in pixels, for the protocols that score there.
    """

    folder: str
    dataset: str
    split: str = ""
    part: str = "test"
    values: str = ""
    against: str = ""
    against_values: str = ""
    image_size: int = 256

    @property
    def results(self) -> Path:
        """Where results go if nothing else is asked for."""
        of_part = f"-{Path(self.split).stem}-{self.part}" if self.split else ""
        system = Path(self.folder).resolve().name
        return results_root() / f"score-{system}-{get_info(self.dataset).name}{of_part}"

    @property
    def subject(self) -> dict[str, str]:
        """What tells its results from others: a folder of them is not overwritten with others."""
        folder = str(Path(self.folder).resolve())
        return {"folder": folder, "dataset": self.dataset, "split": self.split, "part": self.part}


@dataclass(frozen=True)
class Scored:
    """A finished task.

    Attributes:
        task: what was asked for.
        evaluation: the system's scores.
        comparison: from `compare_systems`; None without ``against``.
        fingerprints: of the ``data`` and, with a split, of ``split_ids``.
    """

    task: Task
    evaluation: Evaluation
    comparison: pd.DataFrame | None
    fingerprints: dict[str, str]

    @property
    def table(self) -> pd.DataFrame:
        """Dice and IoU with intervals, as text, by protocol."""
        table = self.evaluation.protocols.copy()
        table["value"] = [Interval.of(row).named for _, row in table.iterrows()]
        wide = table.pivot(index="protocol", columns="score", values="value")
        return wide.reindex(list(PROTOCOLS)).fillna("–")

    @property
    def findings(self) -> list[str]:
        """What was compared, in sentences."""
        name, sentences = self.evaluation.predictions.name, []
        for row in () if self.comparison is None else self.comparison.to_dict("records"):
            gap = Interval.of(row, "difference")
            sentences.append(
                f"{name} minus {row['other']}: polyp Dice {gap:+.3f} on the {row['n']} frames that "
                f"both were scored on, p = {row['p']:.3g} (permutation test; a difference of "
                f"{row['detectable']:.3f} would be found with 80 % power)"
            )
        return sentences

    def save(self, folder: Path) -> None:
        """Writes ``per_image.csv`` and ``summary.json``, each atomically; see `check_free`."""
        check_free(folder, self.task)
        make_folder(folder)
        write_csv(folder / "per_image.csv", self.evaluation.per_image)
        rows = [] if self.comparison is None else self.comparison.to_dict("records")
        summary = {
            "task": asdict(self.task) | self.task.subject,
            "values": self.evaluation.predictions.values,
            "notes": self.evaluation.notes,
            "doubts": self.evaluation.doubts,
            "fingerprints": self.fingerprints,
            "versions": {"polyp_utils": polyp_utils.__version__},
            **self.evaluation.record,
            "part": self.task.part if self.task.split else "all frames",
            "against": [plain(row) for row in rows],
        }
        write_json(folder / "summary.json", summary)


def check_free(folder: Path, task: Task) -> None:
    """Checks that a folder may take the results: it is new, empty, or holds earlier ones of them.

    Raises:
        RunError: it holds something else.
    """
    summary = folder / "summary.json"
    if not summary.is_file():
        if folder.is_dir() and any(folder.iterdir()):
            raise RunError(f"{folder} holds other files: name an empty or new folder with --out")
        return
    try:
        there = json.loads(summary.read_text(encoding="utf-8"))["task"]
        other = {key: there[key] for key in task.subject if there[key] != task.subject[key]}
    except (ValueError, KeyError, TypeError):
        raise RunError(f"{folder} holds other results: name a new folder with --out") from None
    if other:
        listed = ", ".join(f"{key} {value}" for key, value in other.items())
        raise RunError(f"{folder} holds the scores of {listed}: name a new folder with --out")


def score_system(task: Task) -> Scored:
    """Scores a folder of predictions and, if asked, compares it on the same frames.

    Raises:
        ValueError: an unknown data set, split, part or run, a part without a split, or no common
            frame.
        DataError: predictions are missing, cannot be read, or what is polyp is not certain.
        RunError: the run that it is compared with has no predictions, or was made with other data.
    """
    dataset = PolypDataset(task.dataset, task.image_size)
    ids, prints, remark = dataset.ids, {"data": dataset.fingerprint}, ""
    if task.split:
        split = load_split(task.split, task.dataset)
        ids, prints = split.part(task.part), prints | {"split_ids": split.fingerprint}
        remark = split.remark
    elif task.part != "test":
        raise ValueError(f"part is {task.part} but no split is named: add --split")
    dataset.rows(ids)  # refuses a split of other data before any file is read
    system = of_folder(task.folder, ids, values=task.values, known=dataset.ids)
    other = _other(task, dataset, ids) if task.against else None
    system = replace(system, notes=(*system.notes, *filter(None, [remark])))
    evaluation = evaluate(system, dataset)
    comparison = None
    if other:
        against = evaluate(other, dataset, all_scores=False)
        comparison = compare_systems(evaluation, [against])
        notes, doubts = ([f"{other.name}: {x}" for x in y] for y in (against.notes, against.doubts))
        evaluation = replace(
            evaluation,
            notes=(*evaluation.notes, *notes),
            doubts=(*evaluation.doubts, *doubts),
        )
    return Scored(task, evaluation, comparison, prints)


def _other(task: Task, dataset: PolypDataset, ids: Sequence[str]) -> Predictions:
    path = Path(task.against)
    if path.is_dir() and not (path / "training.json").is_file():
        return of_folder(path, ids, values=task.against_values, known=dataset.ids)
    run = find_run(task.against)
    if run.record.get("fingerprints", {}).get("data") != dataset.fingerprint:
        raise RunError(
            f"{run.name} holds predictions of {run.config.dataset}, not of these frames: make them "
            f"by `predict PATH --weights {run.name} --out DIR`, then give --against DIR/masks"
        )
    check_data(run, dataset)
    stored = of_run(run, task.part if task.split else "test")
    shared = tuple(frame_id for frame_id in stored.ids if frame_id in set(ids))
    if not shared:
        raise ValueError(
            f"{run.name} has predictions of none of these {len(ids)} frames: it was trained with "
            f"split {run.config.split} and is compared on the same part of that"
        )
    return replace(stored, ids=shared)
