"""Copies runs to `results/published`: what is evidence, kept light to clone."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pandas as pd

from polyp_utils.analyse.calibration import VAL_LEVELS, levels_table, validation_levels
from polyp_utils.common.exceptions import RunError
from polyp_utils.common.files import atomic, refuse_links, remove_leftovers, write_json, write_text
from polyp_utils.common.paths import repo_root
from polyp_utils.data.dataset import PolypDataset
from polyp_utils.data.naming import name_without_place
from polyp_utils.data.split import PARTS
from polyp_utils.model.weights import halve_weights
from polyp_utils.publish.run_card import write_run_card
from polyp_utils.publish.shown import hidden_figures, hide_frames
from polyp_utils.runs import archive
from polyp_utils.runs.run import Run
from polyp_utils.score.card import VAL_COUNTS, validation_table
from polyp_utils.score.evaluation import check_data

MAX_COMMITTED_BYTES = 20_000_000  # of weights, in git


def publish(run: Run, light: bool = False) -> Run:
    """Copies a finished run to ``results/published``, light enough to clone.

    - Weights of up to 20 MB, in float16; the run card is written anew, as it says where they are.
    - Predictions of the test part in one file; for the validation part, only the counts that the
      analyses need (``val_counts.csv`` and ``val_levels.csv``).
    - The name of a user's data set without the folders above it.
    - No frames of a set that may not be shown, see `polyp_utils.publish.shown`: neither figures nor
      outputs of executed notebooks. Publishing a published run again removes them from it.

    ``light``: only settings and tables, for a run that is part of a study and is not inspected by
    itself.

    Raises:
        RunError: the run is not finished, another one of that name is published, or its folder
            holds links: what they lead to need not be the run's.
        FileNotFoundError: its data set, which the counts need, is not here.
    """
    if not run.finished:
        raise RunError(f"{run.path} is not finished: train it to its end before publishing it")
    refuse_links(run.path)
    target = repo_root() / "results/published" / run.name
    if target.resolve() == run.path.resolve():
        _hide_frames(run)
        return run
    record = without_place(run.record)
    if (target / "config.json").is_file() and without_place(Run(target).record) != record:
        raise RunError(f"{target} holds another run of that name: rename one of them")
    counts = {} if light else _validation(run)
    names = [run.weights.name, run.unaveraged.name]
    names += ["predictions", "figures", "*.ipynb"] if light else PARTS  # predictions, unpacked
    left_out = shutil.ignore_patterns("last", ".*", *names)
    remove_leftovers(target.rglob(".*.tmp"))
    for folder, folders, files in os.walk(run.path):
        skipped = left_out(folder, [*folders, *files])
        folders[:] = sorted(set(folders) - skipped)
        for path in (Path(folder, name) for name in sorted(set(files) - skipped)):
            with atomic(target / path.relative_to(run.path)) as temporary:
                shutil.copyfile(path, temporary)
    if record != run.record:
        _forget_place(target, run.config.dataset, record)
    for name, table in counts.items():
        Run(target).save_table(name, table)
    if not light and (tested := run.path / "predictions/test").is_dir():
        archive.pack(tested, Run(target).archive_path("test"))
    _hide_frames(Run(target))
    there = run.weights.is_file() and not light
    if there and run.weights.stat().st_size <= 2 * MAX_COMMITTED_BYTES:
        halve_weights(run.weights, Run(target).weights, without_place)
    write_run_card(Run(target), dataset=run.config.dataset)
    return Run(target)


def _validation(run: Run) -> dict[str, pd.DataFrame]:
    """Tables that replace the predictions of the validation part, by name; {}: it has none."""
    if not (run.path / "predictions/val").is_dir():
        return {}
    config = run.config
    dataset = PolypDataset(config.dataset, config.image_size)
    check_data(run, dataset)
    levels = levels_table(validation_levels(run, dataset))
    return {VAL_COUNTS: validation_table(run, dataset), VAL_LEVELS: levels}


def _hide_frames(run: Run) -> None:
    name = run.config.dataset
    for path in hidden_figures(run.path, name):
        path.unlink()
    for path in run.path.glob("*.ipynb"):
        hide_frames(path, name)


def _forget_place(target: Path, dataset: str, record: dict[str, Any]) -> None:
    """Takes the folders above a user's data set out of a copied run."""
    write_json(target / "config.json", record)
    for path in target.glob("*.ipynb"):
        text = path.read_text(encoding="utf-8")
        write_text(path, text.replace(json.dumps(dataset)[1:-1], record["settings"]["dataset"]))


def without_place(record: dict[str, Any]) -> dict[str, Any]:
    """A record whose ``settings`` name data set and split without folders of this machine."""
    settings = dict(record.get("settings", {}))
    if "dataset" in settings:
        settings["dataset"] = name_without_place(settings["dataset"])
    if Path(settings.get("split", "")).is_absolute():  # the run holds its ids
        settings["split"] = Path(settings["split"]).name
    return {**record, "settings": settings} if settings else record
