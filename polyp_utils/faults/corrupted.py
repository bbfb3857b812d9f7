"""Tries corrupted inputs: does each come to what it must, without a traceback or a lost file?"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import tempfile
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import polyp_utils
from polyp_utils.common.exceptions import ExtraError, UserError
from polyp_utils.common.files import read_csv, write_csv
from polyp_utils.data.dataset import PolypDataset
from polyp_utils.data.labels import THRESHOLD
from polyp_utils.data.split import PARTS
from polyp_utils.data.splits import load_split
from polyp_utils.faults import corrupt_files, corrupt_masks, corrupt_predictions, corrupt_runs
from polyp_utils.faults.corruption import (
    ANY,
    CLEAN,
    CORRUPTIONS,
    EVALUATION,
    OTHER,
    PIXELS,
    REFUSED,
    SCORES,
    SPLIT,
    TABLE,
    WEIGHTS,
    Expected,
)
from polyp_utils.faults.world import SIDE, World, make_world
from polyp_utils.runs.run import Run
from polyp_utils.score.protocols import ORIGINAL, polyp_scores

TRIALS = 1000
AS_NAMED, WRONG, TRACEBACK, LOST, MESSAGE = "as named", "wrong", "traceback", "lost file", "message"


class Corrupted:
    """The clean world, and what each task makes of it.

    Args:
        folder: an empty one for worlds, caches and results; ``POLYP_CACHE`` and ``POLYP_RESULTS``
            point into it until `close`.
    """

    def __init__(self, folder: Path) -> None:
        self._environment = dict(os.environ)
        os.environ["POLYP_CACHE"] = str(folder / "cache")
        self.folder = folder
        with _silent():
            self.clean = make_world(folder / "clean")
            self.dataset = PolypDataset(str(self.clean.data), SIDE)
            self.results = {task: getattr(self, task)(self.clean) for task in _TASKS}

    def close(self) -> None:
        """Gives the environment back."""
        os.environ.clear()
        os.environ.update(self._environment)

    def pixels(self, world: World) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Id -> image and thresholded mask at their original size, by way of the loader."""
        data = PolypDataset(str(world.data), SIDE)
        return {
            name: (data.original_image(name), data.original_mask(name) > THRESHOLD)
            for name in data.ids
        }

    def scores(self, world: World) -> dict[str, float]:
        """Id -> Dice of the folder of predictions."""
        from polyp_utils.runs.predictions import of_folder
        from polyp_utils.score.evaluation import evaluate

        found = of_folder(world.path / "predictions", self.dataset.ids)
        return _dice(evaluate(found, self.dataset, all_scores=False).per_image)

    def split(self, world: World) -> dict[str, list[str]]:
        """Part -> sorted ids."""
        found = load_split(str(world.path / "split.csv"), str(self.clean.data))
        PolypDataset.rows(self.dataset, [i for part in PARTS for i in found.part(part)])
        return {part: sorted(found.part(part)) for part in PARTS}

    def weights(self, world: World) -> np.ndarray:
        """The polyp mask of the first frame."""
        from polyp_utils.deploy.load import load_model

        model = load_model(world.run_path / "model.safetensors", device="cpu", runtime="torch")
        return model.polyp_mask(next(iter(world.images.values())))

    def evaluation(self, world: World) -> dict[str, float]:
        """Id -> Dice of the run's stored predictions."""
        from polyp_utils.score.evaluation import evaluate_run

        return _dice(evaluate_run(Run(world.run_path)).per_image)

    def table(self, world: World) -> dict[str, float]:
        """Id -> Dice as the run's table says, and the mean of its summary."""
        run = Run(world.run_path)
        return _dice(run.per_image) | {"mean": run.summary["scores"][0]["mean"]}

    def suffer(self, seed: int) -> dict[str, Any]:
        """Tries the corruption of a seed; a row for the table: `AS_NAMED` or what went wrong."""
        name = list(CORRUPTIONS)[seed % len(CORRUPTIONS)]
        task, corrupt = CORRUPTIONS[name]
        world = self.clean.copy(self.folder / f"world-{seed}")
        expected = corrupt(world, np.random.default_rng(seed))
        before = world.state()
        found: Any = None
        ours = True
        with _silent():
            try:
                found, outcome = getattr(self, task)(world), ""
            except (ValueError, OSError, UserError, ExtraError) as error:
                outcome, ours = str(error), _is_ours(error)
            except Exception as error:  # what the command line would show as a traceback
                found = error
                outcome = f"{type(error).__name__}: {error}"
        lost = before.items() - world.state().items()
        row = {"seed": seed, "asked": task, "corruption": name, "expected": expected.outcome}
        row["outcome"] = LOST if lost else self._judged(task, expected, found, outcome, ours)
        row["message"] = outcome.replace(str(self.folder), "…")
        shutil.rmtree(world.path)
        return row

    def _judged(self, task: str, expected: Expected, found: Any, message: str, ours: bool) -> str:
        if isinstance(found, Exception):
            return TRACEBACK
        if message:
            is_plain = "\n" not in message and not message.startswith("[Errno")
            if not (is_plain and ours) or expected.names not in message:
                return MESSAGE
            return AS_NAMED if expected.outcome in (REFUSED, ANY) else WRONG
        if expected.outcome == ANY:
            return AS_NAMED
        wanted = {CLEAN: self.results[task], OTHER: expected.value}.get(expected.outcome)
        return AS_NAMED if wanted is not None and _equal(found, wanted) else WRONG


def try_corruptions(path: Path, count: int = TRIALS) -> pd.DataFrame:
    """Tries corruptions of seeds 0 … ``count`` - 1, but for those that the table at ``path`` holds.

    Returns:
        The table, which is written at the end and after every hundred.
    """
    done: list[dict[str, Any]] = []
    if path.is_file():
        rows = read_csv(path, "message").to_dict("records")
        done = [{str(key): value for key, value in row.items()} for row in rows]
    todo = sorted(set(range(count)) - {row["seed"] for row in done})
    print(f"corruptions: {count - len(todo)} are tried, {len(todo)} to do", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        corrupted = Corrupted(Path(folder).resolve()) if todo else None
        for number, seed in enumerate(todo, 1):
            assert corrupted is not None
            done.append(corrupted.suffer(seed))
            if done[-1]["outcome"] != AS_NAMED:
                print(f"corruption {seed}: {done[-1]}", flush=True)
            if number % 100 == 0 or number == len(todo):
                write_csv(path, done)
        if corrupted:
            corrupted.close()
    return pd.DataFrame(done)


_SUBJECTS = (corrupt_files, corrupt_masks, corrupt_predictions, corrupt_runs)  # fill CORRUPTIONS
_TASKS = (PIXELS, SCORES, SPLIT, WEIGHTS, EVALUATION, TABLE)


def _is_ours(error: Exception) -> bool:
    """Whether this package raised an error, with a message of its own, and no library."""
    frames = traceback.extract_tb(error.__traceback__)
    return Path(frames[-1].filename).is_relative_to(Path(polyp_utils.__file__).parent)


def _dice(per_image: Any) -> dict[str, float]:
    scores = polyp_scores(per_image, size=ORIGINAL)
    return {str(name): float(value) for name, value in scores.items()}


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, tuple):
        return all(_equal(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other)
    return bool(one == other or (isinstance(one, float) and np.isclose(one, other, atol=1e-9)))


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield
