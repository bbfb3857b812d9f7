"""Training: ``fit(config)`` makes a run folder, or goes on with it.

A step slices its batch out of uint8 tensors, on the device or in a memory map (see
:func:`polyp_utils.validation.load_parts`), so no loader is needed. Losses stay on the device and
are read every `READ_EVERY` steps: no synchronisation per step. Order follows from (seed, epoch) and
augmentation from (seed, epoch, frame), so a run that was killed ends like one that was not. Under
``torchrun`` several processes train one run (`polyp_utils.distributed`).
"""

import contextlib
import math
import os
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from polyp_utils import distributed
from polyp_utils.config import RunConfig
from polyp_utils.data.augment import PRESETS, augment, draw
from polyp_utils.data.dataset import PolypDataset
from polyp_utils.data.labels import Scheme, get_scheme
from polyp_utils.data.splits import load_split
from polyp_utils.device import (
    Compute,
    get_compute,
    has_compiler,
    keep_freed_memory,
    peak_memory_mib,
)
from polyp_utils.files import atomic, write_csv, write_json
from polyp_utils.inference import freeze, load_weights, predict
from polyp_utils.losses import CombinedLoss, inverse_sqrt_weights
from polyp_utils.model import UNet
from polyp_utils.progress import Progress
from polyp_utils.runs import Run, open_run, save_weights
from polyp_utils.validation import Data, load_parts, validate

READ_EVERY = 50  # steps between two looks at the losses
ESTIMATE_STEPS = (2, 6)  # the first steps are slow: the estimate is made between these two


class DivergedError(RuntimeError):
    """The loss is not finite; the message says since which step and what to try."""


def fit(config: RunConfig) -> Run:
    """Trains a run to its end, or says that it is finished.

    ``batch_size`` is that of the optimizer's step, whatever the number of processes.

    Raises:
        ValueError: settings or data that cannot work, before any step.
        RunError: the run folder holds something else.
        DivergedError: the loss is not finite.
        ProcessError: another of several processes cannot start.
    """
    with distributed.joined(), contextlib.ExitStack() as held:
        with distributed.agreed():
            scheme, compute, parts, fingerprints = _prepare(config)
            run = held.enter_context(open_run(config, fingerprints, compute.describe()))
        if distributed.from_first(lambda: run.finished):
            print(f"{run.name} is finished: nothing to train")
            if distributed.rank() == 0:  # if it was killed before that
                shutil.rmtree(run.path / "last", ignore_errors=True)
            return run
        trainer = Trainer(config, scheme, compute, run, _class_weights(config, parts["train"]))
        trainer.resume()
        trainer.train(parts["train"], parts["val"])
        trainer.finish({part: parts[part] for part in ("val", "test")})
    return run


def _prepare(config: RunConfig) -> tuple[Scheme, Compute, dict[str, Data], dict[str, str]]:
    """What the settings name, checked: scheme, device, parts of the data, their fingerprints."""
    scheme = get_scheme(config.scheme)
    split = load_split(config.split, config.dataset).limited(config.limit)
    compute = get_compute(config.device, config.precision)
    _micro_batches(config)
    if config.compile_mode != "none" and not has_compiler(compute.device):
        raise ValueError(
            f"compile_mode is {config.compile_mode!r} but this machine has no C++ compiler (on a "
            "GPU: no triton): install one, or take compile_mode 'none'"
        )
    if config.class_weights != "none" and scheme.logits == 1:
        raise ValueError(
            f"class_weights is {config.class_weights!r} but scheme {scheme.name} has one logit: "
            "take class_weights 'none', or a scheme with classes"
        )
    if config.batch_size > len(split.train):
        raise ValueError(
            f"batch_size is {config.batch_size} but the training part of {split.name} has "
            f"{len(split.train)} frames: take at most that"
        )
    dataset = PolypDataset(config.dataset, config.image_size)
    scheme.check(dataset.masks, dataset.info.title)
    parts = load_parts(dataset, split, compute.device)
    return scheme, compute, parts, {"data": dataset.fingerprint, "split_ids": split.fingerprint}


def _micro_batches(config: RunConfig) -> int:
    """Into how many parts a batch is cut: as many for each process, as large for each.

    Raises:
        ValueError: that cannot be.
    """
    processes = distributed.size()
    count = config.micro_batches or processes
    if count % processes:
        raise ValueError(
            f"micro_batches is {count} but there are {processes} processes: take a multiple, or 0 "
            "for one per process"
        )
    if config.batch_size % count:
        raise ValueError(
            f"batch_size is {config.batch_size} but there are {processes} processes, which share "
            "a batch equally: take a multiple, or another number of processes"
        )
    return count


def _class_weights(config: RunConfig, train: Data) -> Tensor | None:
    """Of the cross-entropy, from the pixels of the training part."""
    if config.class_weights == "none":
        return None
    scheme = get_scheme(config.scheme)
    pixels = [
        torch.bincount(scheme.encode(train.masks[rows]).flatten(), minlength=len(scheme.classes))
        for rows in torch.arange(len(train)).split(64)
    ]
    weights = inverse_sqrt_weights(torch.stack(pixels).sum(dim=0).cpu())  # float64 lacks on MPS
    return weights.to(train.device)


class Trainer:
    """State of a run in progress: model, optimizer, scheduler, history."""

    def __init__(
        self,
        config: RunConfig,
        scheme: Scheme,
        compute: Compute,
        run: Run,
        class_weights: Tensor | None = None,
    ) -> None:
        keep_freed_memory()
        if config.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # or cuBLAS refuses
        torch.use_deterministic_algorithms(config.deterministic)
        torch.manual_seed(config.seed)
        self.config, self.scheme, self.compute, self.run = config, scheme, compute, run
        model = UNet(3, scheme.logits, config.width)
        self.model = model.to(memory_format=torch.channels_last).to(compute.device)
        self.replica = distributed.replica(self.model)
        if config.compile_mode != "none":  # by shape: a short last batch is one more
            compiled = torch.compile(self.replica, mode=config.compile_mode, dynamic=False)
            self.replica = cast(nn.Module, compiled)
        self.micro_batches = _micro_batches(config)
        parts = (config.ce_weight, config.dice_weight, config.dice_absent)
        self.loss = CombinedLoss(*parts, class_weights)
        fused = compute.device.type in ("cpu", "cuda")
        self.optimizer = torch.optim.Adam(self.model.parameters(), config.lr, fused=fused)
        self.scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
            self.optimizer,
            factor=config.lr_factor,
            patience=config.lr_patience,
            min_lr=config.min_lr,
        )
        self.history: list[dict[str, float]] = []

    def train(self, train: Data, val: Data) -> None:
        """Trains the epochs that are left; each ends with validation and a safe state on disk."""
        first, last = len(self.history), self.config.epochs
        steps = -(-len(train) // self.config.batch_size)
        with Progress(self.config.run_name, total=last * steps, done=first * steps) as progress:
            for epoch in range(first, last):
                start = time.perf_counter()
                losses = self._train_epoch(train, epoch, progress)
                trained = time.perf_counter() - start
                row = {
                    "epoch": epoch + 1,
                    "lr": self.optimizer.param_groups[0]["lr"],
                    **{f"train_{key}": value for key, value in losses.items()},
                    **{f"val_{key}": value for key, value in self._validate(val).items()},
                    "train_seconds": trained,
                    "images_per_second": len(train) / trained,
                    "seconds": time.perf_counter() - start,
                    "peak_memory_mib": peak_memory_mib(self.compute),
                }
                if not math.isfinite(row["val_loss"]):  # the last step may have spoilt the weights
                    raise self._diverged(row["val_loss"], f"in the validation of epoch {epoch + 1}")
                self.scheduler.step(row["val_loss"])
                self.history.append(row)
                self._save()
                progress.line(
                    f"epoch {epoch + 1}/{last}  train loss {row['train_loss']:.4f}  "
                    f"val loss {row['val_loss']:.4f}  val polyp Dice {row['val_polyp_dice']:.4f}  "
                    f"lr {row['lr']:.1e}  {row['seconds']:.0f} s"
                )

    def _train_epoch(self, data: Data, epoch: int, progress: Progress) -> dict[str, float]:
        """One pass over the training part; mean losses, weighted by images."""
        self.model.train()
        unread: list[Tensor] = []
        read: list[Tensor] = []
        sizes = [len(rows) for rows in torch.arange(len(data)).split(self.config.batch_size)]
        start = time.perf_counter()
        for step, batch in enumerate(self.batches(data, epoch)):
            unread.append(self.step(*batch))
            if len(unread) == READ_EVERY:
                read.append(self._read(unread, epoch, step))
            if not self.history and step + 1 in ESTIMATE_STEPS:
                self._read(unread[:], epoch, step)  # synchronises
                before, start = start, time.perf_counter()
                if step + 1 == ESTIMATE_STEPS[1]:
                    images = sum(sizes[slice(*ESTIMATE_STEPS)])
                    progress.line(self._estimate((start - before) / images, len(data)))
            progress.advance()
        if unread:
            read.append(self._read(unread, epoch, len(sizes) - 1))
        weights = torch.tensor(sizes, dtype=torch.float64)
        means = (torch.cat(read).double() * weights[:, None]).sum(0) / weights.sum()
        return dict(zip(("loss", "ce", "dice_loss"), means.tolist(), strict=True))

    def step(self, images: Tensor, masks: Tensor) -> Tensor:
        """One optimizer step on this process's frames of a batch, one micro-batch after the other.

        Returns:
            Loss, CE and Dice part, (3,), still on the device: the sum over the processes is the
            mean over the frames of the batch.
        """
        each = self.micro_batches // distributed.size()
        pairs = list(zip(images.tensor_split(each), masks.tensor_split(each), strict=True))
        frames = distributed.total(images.new_full((), len(images)))  # of the whole batch
        losses = []
        with distributed.running_statistics(self.model, updates=min(each, len(images))):
            for pair in pairs[:-1]:
                with distributed.accumulating(self.replica):
                    losses.append(self._backward(*pair, frames))
            losses.append(self._backward(*pairs[-1], frames))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return torch.stack(losses).sum(dim=0)

    def _backward(self, images: Tensor, masks: Tensor, frames: Tensor) -> Tensor:
        """Adds a micro-batch's share of the gradient; its share of loss, CE and Dice part, (3,).

        Without a frame (in a short last batch) it adds nothing, but takes part in the exchange.
        """
        with self.compute.autocast():
            logits = self.replica(images)
        if not len(images):
            logits.sum().backward()
            return torch.zeros(3, device=images.device)
        ce, dice_loss = self.loss.terms(logits, self.scheme.encode(masks))
        loss = self.loss.ce_weight * ce + self.loss.dice_weight * dice_loss
        share = len(images) / frames
        (share * distributed.size() * loss).backward()  # of the processes the mean is taken
        return share * torch.stack([loss.detach(), ce.detach(), dice_loss.detach()])

    def _read(self, unread: list[Tensor], epoch: int, step: int) -> Tensor:
        """Brings losses to the host, (n, 3), and empties the list."""
        losses = distributed.total(torch.stack(unread)).cpu()
        bad = (~losses.isfinite()).any(dim=1).nonzero()
        if len(bad):
            first = step - len(unread) + 1 + int(bad[0])
            value = losses[int(bad[0]), 0].item()
            raise self._diverged(value, f"since step {first + 1} of epoch {epoch + 1}")
        unread.clear()
        return losses

    def _diverged(self, value: float, where: str) -> BaseException:
        lr = self.optimizer.param_groups[0]["lr"]
        return distributed.once(
            DivergedError(
                f"the loss is {value} {where}; {len(self.history)} finished epochs are safe in "
                f"{self.run.path}. Try a smaller lr (now {lr:.1e}) or precision fp32"
            )
        )

    def _validate(self, data: Data) -> dict[str, float]:
        return validate(
            self.model, data, self.scheme, self.loss, self.compute, self.config.batch_size
        )

    def batches(self, data: Data, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """This process's share of each batch, in the epoch's order, augmented.

        Frames are known by their row in the part.
        """
        seed, preset = self.config.seed, PRESETS.get(self.config.augment)
        for batch in epoch_order(seed, epoch, len(data)).split(self.config.batch_size):
            rows = distributed.own_share(batch, self.micro_batches)
            images, masks = data.batch(rows)
            if preset and len(rows):
                images, masks = augment(images, masks, draw(preset, seed, epoch, rows.tolist()))
            yield images, masks

    def _estimate(self, seconds_per_image: float, images: int) -> str:
        """What training will cost here, validation aside, and what would be quicker."""
        hours = seconds_per_image * images * self.config.epochs / 3600
        text = (
            f"about {_duration(hours)} for {self.config.epochs} epochs on "
            f"{self.compute.describe()}, {peak_memory_mib(self.compute) / 1024:.1f} GiB of memory"
        )
        work = (self.config.width * self.config.image_size) ** 2 / (16 * 128) ** 2
        if hours > 0.5 and work > 1:
            text += f"; quicker: recipe seed-small (width 16, 128 px: {work:.0f} times less work)"
        return text

    def _save(self) -> None:
        """Makes the epoch safe: the state last, so that a kill before it repeats the epoch."""
        if distributed.rank():
            return
        row = self.history[-1]
        *before, score = np.nan_to_num([r["val_polyp_dice"] for r in self.history], nan=-1)
        if score > max(before, default=-2):
            settings, classes = self.config.to_dict(), self.scheme.classes
            metadata = {"settings": settings, "classes": classes, **row}
            save_weights(self.run.weights, self.model, metadata)
        write_csv(self.run.path / "history.csv", pd.DataFrame(self.history))
        with atomic(self.run.path / "last/state.pt") as temporary:
            torch.save(
                {
                    "model": self.model.state_dict(),
                    "optimizer": self.optimizer.state_dict(),
                    "scheduler": self.scheduler.state_dict(),
                    "history": self.history,
                },
                temporary,
            )

    def resume(self) -> None:
        """Goes on from the last finished epoch, if there is one."""
        state = distributed.from_first(self._last_state)
        if state is None:
            return
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.history = state["history"]
        print(f"{self.run.name}: going on after epoch {len(self.history)}")

    def _last_state(self) -> dict[str, Any] | None:
        for leftover in self.run.path.rglob(".*.tmp"):  # of a process that was killed
            leftover.unlink()
        path = self.run.path / "last/state.pt"
        return torch.load(path, map_location="cpu", weights_only=True) if path.is_file() else None

    def finish(self, parts: dict[str, Data]) -> None:
        """Stores the best checkpoint's predictions and losses and marks the run as finished.

        Losses need logits: they cannot be had from 8-bit predictions later.
        """
        if distributed.rank() == 0:
            load_weights(self.model, self.run.weights)
        distributed.copy_from_first(self.model)
        frozen = freeze(self.model, self.compute)
        at_network_size = {}
        for part, data in parts.items():
            at_network_size[part] = self._validate(data)
            predictions = predict(frozen, data.images, self.compute, self.config.batch_size)
            for frame_id, probabilities in zip(data.ids, predictions, strict=True):
                if distributed.rank() == 0:
                    self.run.save_probabilities(part, frame_id, probabilities)
        if distributed.rank():
            return
        history = pd.DataFrame(self.history)
        best = history.iloc[int(history["val_polyp_dice"].fillna(-1).argmax())]
        write_json(
            self.run.path / "training.json",
            {
                "finished": datetime.now(UTC).isoformat(timespec="seconds"),
                "best_epoch": int(best["epoch"]),
                "best_val_polyp_dice": float(best["val_polyp_dice"]),
                "seconds": float(history["seconds"].sum()),
                "images_per_second": float(history["images_per_second"].median()),
                "peak_memory_mib": float(history["peak_memory_mib"].max()),
                "device": self.compute.describe(),
                "best_at_network_size": at_network_size,
            },
        )
        shutil.rmtree(self.run.path / "last", ignore_errors=True)


def epoch_order(seed: int, epoch: int, frames: int) -> Tensor:
    """The rows of the training part, int64 (frames,), in the order of an epoch."""
    return torch.from_numpy(np.random.default_rng([seed, epoch]).permutation(frames))


def _duration(hours: float) -> str:
    for unit, size in (("h", 1.0), ("min", 60.0)):
        if hours * size >= 1:
            return f"{hours * size:.1f} {unit}"
    return f"{hours * 3600:.0f} s"
