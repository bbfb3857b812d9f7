"""The training loop: epochs of a `Learner`, each followed by validation and a checkpoint.

A run that was killed resumes from its last checkpoint and ends like one that was not. Losses stay
on the device and are read every `READ_EVERY` steps, so that no step waits for them. Under
``torchrun`` several processes train one run (`polyp_utils.common.processes`).
"""

import math
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polyp_utils.common import processes
from polyp_utils.common.device import peak_memory_mib
from polyp_utils.common.exceptions import DivergedError, RunError, WeightsError
from polyp_utils.common.files import atomic, remove_leftovers, write_csv, write_json
from polyp_utils.common.progress import Progress, duration
from polyp_utils.data.labels import Scheme
from polyp_utils.data.parts import Data
from polyp_utils.model.pickled import read_pickle
from polyp_utils.model.predict import freeze, predict
from polyp_utils.model.sound import check_numbers, format_of
from polyp_utils.model.weights import load_weights, save_weights
from polyp_utils.runs.run import Run
from polyp_utils.train.learner import Learner

READ_EVERY = 50  # steps between two reads of the losses
ESTIMATE_STEPS = (2, 6)  # training time is estimated between these: the first steps are slow


class Trainer:
    """A run in training: its learner, its history and its checkpoints."""

    def __init__(self, learner: Learner, run: Run) -> None:
        self.learner, self.run, self.config = learner, run, learner.config
        self.history: list[dict[str, float]] = []

    def train(self, train: Data, val: Data) -> None:
        """Trains the remaining epochs; each ends with validation and a checkpoint."""
        first, last = len(self.history), self.config.epochs
        steps = -(-len(train) // self.config.batch_size)
        with Progress(self.config.run_name, total=last * steps, done=first * steps) as progress:
            for epoch in range(first, last):
                start = time.perf_counter()
                losses = self._train_epoch(train, epoch, progress)
                trained = time.perf_counter() - start
                beat = partial(progress.beat, f"epoch {epoch + 1}/{last}  validation")
                scores = self.learner.validate(val, beat)
                row = {
                    "epoch": epoch + 1,
                    "lr": self.learner.optimizer.param_groups[0]["lr"],
                    **{f"train_{key}": value for key, value in losses.items()},
                    **{f"val_{key}": value for key, value in scores.items()},
                    "train_seconds": trained,
                    "images_per_second": len(train) / trained,
                    "seconds": time.perf_counter() - start,
                    "peak_memory_mib": peak_memory_mib(self.learner.compute),
                }
                if not math.isfinite(row["val_loss"]):  # the last step may have spoilt the weights
                    raise self._diverged(row["val_loss"], f"in the validation of epoch {epoch + 1}")
                self.learner.after_epoch(row["val_loss"])
                self.history.append(row)
                self._save()
                progress.line(
                    f"epoch {epoch + 1}/{last}  train loss {row['train_loss']:.4f}  "
                    f"val loss {row['val_loss']:.4f}  val polyp Dice {row['val_polyp_dice']:.4f}  "
                    f"lr {row['lr']:.1e}  {row['seconds']:.0f} s"
                )

    def _train_epoch(self, data: Data, epoch: int, progress: Progress) -> dict[str, float]:
        """One pass over the training part; returns the mean losses, weighted by images."""
        unread: list[Tensor] = []
        read: list[Tensor] = []
        of_epoch = f"epoch {epoch + 1}/{self.config.epochs}"
        sizes = [len(rows) for rows in torch.arange(len(data)).split(self.config.batch_size)]
        start = time.perf_counter()
        for step, losses in enumerate(self.learner.epoch(data, epoch)):
            unread.append(losses)
            if len(unread) == READ_EVERY:
                read.append(self._read(unread, epoch, step))
            if not self.history and step + 1 in ESTIMATE_STEPS:
                self._read(unread[:], epoch, step)  # synchronises
                before, start = start, time.perf_counter()
                if step + 1 == ESTIMATE_STEPS[1]:
                    images = sum(sizes[slice(*ESTIMATE_STEPS)])
                    progress.line(self._estimate((start - before) / images, len(data)))
            progress.advance(f"{of_epoch}  step {step + 1}/{len(sizes)}")
        if unread:
            read.append(self._read(unread, epoch, len(sizes) - 1))
        weights = torch.tensor(sizes, dtype=torch.float64)
        means = (torch.cat(read).double() * weights[:, None]).sum(0) / weights.sum()
        return dict(zip(("loss", "ce", "dice_loss"), means.tolist(), strict=True))

    def _read(self, unread: list[Tensor], epoch: int, step: int) -> Tensor:
        """Moves losses to the host, (n, 3), and empties the list; they must be finite."""
        losses = processes.total(torch.stack(unread)).cpu()
        bad = (~losses.isfinite()).any(dim=1).nonzero()
        if len(bad):
            first = step - len(unread) + 1 + int(bad[0])
            value = losses[int(bad[0]), 0].item()
            raise self._diverged(value, f"from step {first + 1} of epoch {epoch + 1} on")
        unread.clear()
        return losses

    def _diverged(self, value: float, where: str) -> BaseException:
        lr = self.learner.optimizer.param_groups[0]["lr"]
        return processes.once(
            DivergedError(
                f"the loss is {value} {where}; {len(self.history)} finished epochs are saved in "
                f"{self.run.path}. Try a smaller lr (now {lr:.1e}) or precision fp32"
            )
        )

    def _estimate(self, seconds_per_image: float, images: int) -> str:
        """Time and memory that training takes here, without validation, and a quicker option."""
        seconds = seconds_per_image * images * self.config.epochs
        compute = self.learner.compute
        text = (
            f"about {duration(seconds)} for {self.config.epochs} epochs on {compute.describe()}, "
            f"{peak_memory_mib(compute) / 1024:.1f} GiB of memory"
        )
        work = (self.config.width * self.config.image_size) ** 2 / (16 * 128) ** 2
        if seconds > 1800 and work > 1:
            text += f"; quicker: recipe card-small (width 16, 128 px: {work:.0f} times less work)"
        return text

    def _save(self) -> None:
        """Saves the epoch; the state comes last, so that a run killed before repeats the epoch."""
        if processes.rank():
            return
        row = self.history[-1]
        ended, kept_last = len(self.history) == self.config.epochs, self.config.keep == "last"
        if self._kept() == len(self.history) - 1 and (ended or not kept_last):
            metadata = metadata_of(self.run, self.learner.scheme) | row
            save_weights(self.run.weights, self.learner.kept, metadata)
            if self.learner.average:
                save_weights(self.run.unaveraged, self.learner.model, metadata)
        write_csv(self.run.path / "history.csv", self.history)
        with atomic(self.run.path / "last/state.pt") as temporary, temporary.open("wb") as file:
            torch.save(self.learner.state_dict() | {"history": self.history}, file)

    def _kept(self) -> int:
        """Index of the epoch to keep, of those finished, by the setting ``keep``; from 0."""
        if self.config.keep == "last":
            return len(self.history) - 1
        scores = np.nan_to_num([row["val_polyp_dice"] for row in self.history], nan=-1)
        return int(scores.argmax())

    def resume(self) -> bool:
        """Resumes from the last finished epoch; False if there is none.

        Raises:
            RunError: its state is damaged, or that of another run.
        """
        state = processes.from_first(self._last_state)
        if state is None:
            return False
        try:
            self.history = state.pop("history")
            self.learner.load_state_dict(state)
        except (ValueError, LookupError, RuntimeError, TypeError, AttributeError) as error:
            raise processes.once(self._unusable(error)) from error
        print(f"{self.run.name}: resuming after epoch {len(self.history)}")
        return True

    def _last_state(self) -> dict[str, Any] | None:
        remove_leftovers(self.run.path.rglob(".*.tmp"))
        path = self.run.path / "last/state.pt"
        if not path.is_file():
            return None
        try:
            format_of(path)
            state = read_pickle(path)
            check_numbers(path, dict(_tensors(state)))
        except WeightsError as error:
            raise self._unusable(error) from error
        return state

    def _unusable(self, error: Exception) -> RunError:
        state = self.run.path / "last/state.pt"
        return RunError(
            f"{self.run.name} cannot resume from {state} ({error}): put the right file back, or "
            "remove it, and the same command trains the run from its beginning"
        )

    def finish(self, parts: dict[str, Data]) -> None:
        """Stores predictions and losses of the kept weights and marks the run as finished."""
        learner = self.learner
        if processes.rank() == 0:
            load_weights(learner.kept, self.run.weights)
        processes.copy_from_first(learner.kept)
        at_network_size = predict_parts(learner, self.run, parts)
        if processes.rank():
            return
        history = {key: np.array([row[key] for row in self.history]) for key in self.history[0]}
        kept = self.history[self._kept()]
        mark_finished(
            self.run,
            kept_epoch=int(kept["epoch"]),
            kept_val_polyp_dice=float(kept["val_polyp_dice"]),
            seconds=float(history["seconds"].sum()),
            images_per_second=float(np.median(history["images_per_second"])),
            peak_memory_mib=float(history["peak_memory_mib"].max()),
            device=learner.compute.describe(),
            kept_at_network_size=at_network_size,
        )
        shutil.rmtree(self.run.path / "last", ignore_errors=True)


def _tensors(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors in nested dicts and lists, by the way to them."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, dict | list):
        inside = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in inside:
            yield from _tensors(inner, f"{name}.{key}" if name else str(key))


def predict_parts(
    learner: Learner, run: Run, parts: dict[str, Data]
) -> dict[str, dict[str, float]]:
    """Stores the kept network's predictions for each part; returns its losses and Dice there.

    The losses need logits: they cannot be computed later from 8-bit predictions.
    """
    frozen = freeze(learner.kept, learner.compute)
    at_network_size = {}
    with Progress("predictions", total=sum(map(len, parts.values())), unit="frame") as progress:
        for part, data in parts.items():
            what = f"predictions for {part}"
            at_network_size[part] = learner.validate(data, partial(progress.beat, what))
            names = [f"{frame_id} by {run.name}" for frame_id in data.ids]
            predictions = predict(
                frozen, data.images, learner.compute, learner.config.batch_size, names=names
            )
            for frame_id, probabilities in zip(data.ids, predictions, strict=True):
                if processes.rank() == 0:
                    run.save_probabilities(part, frame_id, probabilities)
                progress.advance(what)
    return at_network_size


def mark_finished(run: Run, **facts: Any) -> None:
    """Writes ``training.json``, the last file of a run."""
    finished = datetime.now(UTC).isoformat(timespec="seconds")
    write_json(run.path / "training.json", {"finished": finished, **facts})


def metadata_of(run: Run, scheme: Scheme) -> dict[str, Any]:
    """The metadata in the header of a weights file, apart from the scores of their epoch."""
    record = run.record
    made = {"note": record["note"]} if "note" in record else {"commit": record["commit"]}
    return {
        "run": run.name,
        **made,
        "settings": run.config.to_dict(),
        "split_ids": record["fingerprints"]["split_ids"],
        "classes": scheme.classes,
        "use": "for research only; not a medical device",
    }
