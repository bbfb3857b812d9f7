"""The run folder: settings, history, weights, predictions. All writes are atomic.

config.json          settings, fingerprints, versions, device, processes, commit
split.csv            ids per part, cut to the limit in the settings
history.csv          a row per epoch
model.safetensors    weights of the kept epoch, averaged if the settings say so
unaveraged.safetensors  beside averaged weights: those of the last step
last/state.pt        all that resuming needs (removed at the end)
predictions/<part>/  class probabilities at network size, 8-bit PNG; if published, <part>.zip
training.json        time, memory, kept epoch; its presence means "finished"

Reading a run never changes it.
"""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from PIL import Image

from polyp_utils.common.config import RECIPES, RELEASED, RunConfig
from polyp_utils.common.exceptions import RunError, TakenError, unknown
from polyp_utils.common.figures import file_format
from polyp_utils.common.files import atomic, refuse_links, write_csv, writing
from polyp_utils.common.names import unfit_title
from polyp_utils.common.paths import repo_root, results_root
from polyp_utils.data.labels import Scheme, get_scheme
from polyp_utils.data.split import Split, parse_split
from polyp_utils.data.splits import load_split
from polyp_utils.runs import archive
from polyp_utils.runs.stored import RESTORE, decode_levels, read_json, read_run_table, read_scores

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from torch import Tensor


@dataclass(frozen=True)
class Run:
    """A run folder."""

    path: Path

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.name

    @property
    def record(self) -> dict[str, Any]:
        """``config.json``: ``settings``, fingerprints, versions, device, commit."""
        return read_json(self.path / "config.json", ("settings",))

    @property
    def config(self) -> RunConfig:
        """The settings.

        Raises:
            RunError: they are missing, or none of this version's.
        """
        try:
            return RunConfig.from_record(self.record["settings"])
        except (TypeError, ValueError) as error:
            raise RunError(
                f"{self.path / 'config.json'} holds no settings of this version ({error}): use the "
                "version that made the run, or restore the file"
            ) from error

    @property
    def scheme(self) -> Scheme:
        """The label scheme."""
        return get_scheme(self.config.scheme)

    @property
    def split(self) -> Split:
        """The split as it was in training, cut to the ``limit`` in the settings."""
        if self.stored_split.is_file():
            try:
                return parse_split(self.config.split, self.stored_split.read_bytes().decode())
            except (ValueError, csv.Error) as error:
                raise RunError(f"{self.stored_split} is damaged ({error}): {RESTORE}") from error
        return split_of(self.config)

    @property
    def stored_split(self) -> Path:
        """``split.csv``: the ids of each part; older runs lack it."""
        return self.path / "split.csv"

    @property
    def history(self) -> pd.DataFrame:
        """``history.csv``: a row per epoch."""
        return read_run_table(self.path / "history.csv")

    @property
    def training(self) -> dict[str, Any]:
        """``training.json``: seconds, images/s, peak memory, kept epoch and its polyp Dice."""
        stored = read_json(self.path / "training.json")
        return {key.replace("best_", "kept_"): value for key, value in stored.items()}  # older runs

    @property
    def summary(self) -> dict[str, Any]:
        """``summary.json``: scores with intervals on the test part.

        Raises:
            RunError: the run is not evaluated, or by a version that wrote another table.
        """
        path = self._evaluated("summary.json")
        summary = read_json(path, ("scores",))
        if any("size" not in row for row in summary["scores"]):
            raise RunError(f"{path} was written by an earlier version: evaluate {self.name} again")
        return summary

    @property
    def per_image(self) -> pd.DataFrame:
        """``per_image.csv``: a row per test image, size and class.

        Raises:
            RunError: the run is not evaluated, or the table is not one of scores, or not whole.
        """
        summary = self.path / "summary.json"
        frames = read_json(summary).get("n") if summary.is_file() else None
        return read_scores(self._evaluated("per_image.csv"), frames)

    def _evaluated(self, name: str) -> Path:
        path = self.path / name
        if not path.is_file():
            raise RunError(f"{path} is missing: evaluate the run first (03_evaluate.ipynb)")
        return path

    @property
    def finished(self) -> bool:
        """Whether all epochs are trained and the predictions written."""
        return (self.path / "training.json").is_file()

    @property
    def weights(self) -> Path:
        """The kept checkpoint; it may be absent in a published run."""
        return self.path / "model.safetensors"

    @property
    def unaveraged(self) -> Path:
        """Weights of the last step, if the kept ones are averaged; not published."""
        return self.path / "unaveraged.safetensors"

    @property
    def is_card(self) -> bool:
        """Whether the settings are exactly the model card's recipe."""
        return self.config == RECIPES["card"]

    @property
    def published(self) -> bool:
        """Whether it lies in ``results/published``, to be changed only on explicit request."""
        return self.path.resolve().parent == repo_root() / "results/published"

    def probabilities(self, part: str, frame_id: str, scheme: Scheme) -> Tensor:
        """Stored class probabilities, float32 (C, H, W) at network size.

        Raises:
            RunError: the prediction is not in the folder or its archive, or cannot be read.
        """
        import torch  # not needed to read scores

        from polyp_utils.runs.levels import from_levels

        path, data = self.prediction_path(part, frame_id), self._stored(part, frame_id)
        levels = decode_levels(path, data, len(scheme.classes), self.config.image_size)
        return from_levels(torch.from_numpy(levels))

    def save_probabilities(self, part: str, frame_id: str, probabilities: Tensor) -> None:
        """Stores probabilities (C, H, W), C from 2 to 4, as a PNG of `levels` (L, LA or RGB)."""
        from polyp_utils.runs.levels import to_levels

        levels = to_levels(probabilities, f"{frame_id} of {self.name}").cpu().numpy()
        image = Image.fromarray(levels[0] if len(levels) == 1 else levels.transpose(1, 2, 0))
        with atomic(self.prediction_path(part, frame_id)) as temporary:
            image.save(temporary, "PNG", optimize=True)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Locks the folder for this process; the system unlocks it even if the process is killed.

        Raises:
            TakenError: another process holds the lock.
            RunError: the folder holds links that would lead out of it.
            OSError: the folder cannot be written.
        """
        refuse_links(self.path)
        lock = FileLock(make_folder(self.path) / ".lock", timeout=0)
        try:
            with writing(self.path):
                lock.acquire()
        except Timeout as error:
            raise TakenError(
                f"{self.path} is being trained by another process: wait for it, or give this run "
                "another name"
            ) from error
        try:
            yield
        finally:
            lock.release()

    def save_table(self, name: str, table: pd.DataFrame) -> None:
        """Stores a table as ``<name>.csv``."""
        write_csv(self.path / f"{name}.csv", table)

    def save_figure(self, name: str, figure: Figure) -> None:
        """Stores a figure as ``figures/<name>.png``, or ``.jpg`` if it shows frames."""
        refuse_links(self.path)
        suffix, options = file_format(figure)
        with atomic(self.path / "figures" / f"{name}.{suffix}") as temporary:
            figure.savefig(temporary, format=suffix, dpi=100, **options)

    def prediction_path(self, part: str, frame_id: str) -> Path:
        """Path of a frame's prediction, unless the part is packed."""
        return self.path / "predictions" / part / f"{frame_id}.png"

    def archive_path(self, part: str) -> Path:
        """Path of a part's packed predictions, in a published run."""
        return self.path / "predictions" / f"{part}.zip"

    def _stored(self, part: str, frame_id: str) -> bytes:
        path, packed = self.prediction_path(part, frame_id), self.archive_path(part)
        if path.is_file():
            return path.read_bytes()
        if packed.is_file():
            most = 2**16 + 4 * self.config.image_size**2  # a PNG that nothing could compress
            return archive.read(packed, f"{frame_id}.png", most)
        hint = ""
        if part == "val" and self.archive_path("test").is_file():
            hint = (
                ". A published run keeps only counts for its validation part; the command in its "
                "README.md trains the run again, with predictions"
            )
        raise RunError(f"{path} is missing: the run holds no prediction of {frame_id}{hint}")


def make_folder(path: Path, cure: str = "set POLYP_RESULTS to a writable folder") -> Path:
    """Makes a folder for results.

    Args:
        path: of the folder.
        cure: what to do if it cannot be made.

    Raises:
        RunError: the folder cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{path} cannot be written ({error.strerror}): {cure}") from error
    return path


def run_of(config: RunConfig) -> Run:
    """The run with these settings, existing or not, also under its recipe's former name."""
    run = Run(results_root() / config.run_name)
    if config.former_run_name and not (run.path / "config.json").is_file():
        former = Run(results_root() / config.former_run_name)
        if (former.path / "config.json").is_file():
            return former
    return run


def split_of(config: RunConfig, fingerprint: str = "") -> Split:
    """The split that settings name, cut to their ``limit``.

    Once a user's file is gone, it is taken from the folder of the run with these settings.

    Args:
        config: the settings.
        fingerprint: which it must have, if known.

    Raises:
        ValueError: as in `load_split`, or another fingerprint.
        FileNotFoundError: as in `load_split`.
    """
    try:
        split = load_split(config.split, config.dataset).limited(config.limit)
    except FileNotFoundError:
        run = run_of(config)
        if not run.stored_split.is_file() or run.config.split != config.split:
            raise
        split = run.split
    if fingerprint not in ("", split.fingerprint):
        raise ValueError(
            f"split {split.name} has fingerprint {split.fingerprint}, not {fingerprint}: it has "
            "changed; bring back the file that the weights were trained with"
        )
    return split


def list_runs() -> list[Run]:
    """Finished runs: those in the results folder, newest first, then the published ones.

    Among the published, the released run comes first, then the newest.
    """
    folders = (results_root(), results_root() / "published", repo_root() / "results/published")
    runs: list[Run] = []
    for folder in dict.fromkeys(folders):
        found = [Run(path.parent) for path in folder.glob("*/training.json")]
        found.sort(key=lambda run: str(run.training.get("finished")), reverse=True)
        runs += sorted(found, key=lambda run: run.published and run.name != RELEASED)
    return runs


def find_run(name: str = "") -> Run:
    """A finished run by name or path; without a name the newest, else the released one.

    Without a name, runs that do not score the test part (``score_test``) are the last resort.

    Raises:
        RunError: there is no finished run, or its name is `unfit_title`, or it is not finished.
        ValueError: no run of that name; the message suggests the nearest one.
    """
    for path in (Path(name), repo_root() / name):
        if name and (path / "training.json").is_file():
            return _fit_to_use(Run(path if path.name not in ("", "..") else path.resolve()))
    for path in (Path(name), results_root() / name):
        if name and (path / "config.json").is_file() and not (path / "training.json").is_file():
            raise RunError(f"{path} is not finished: its train command, given again, resumes it")
    runs = list_runs()
    if not runs:
        raise RunError(f"no finished run under {results_root()}: train one (02_train.ipynb)")
    if not name:
        scored = (run for run in runs if run.config.score_test)
        return _fit_to_use(next(scored, runs[0]))
    for run in runs:
        if run.name == name:
            return _fit_to_use(run)
    raise unknown("run", name, [run.name for run in runs])


def _fit_to_use(run: Run) -> Run:
    if why := unfit_title(run.name):
        raise RunError(f"{run.path} {why}: rename the folder")
    return run
