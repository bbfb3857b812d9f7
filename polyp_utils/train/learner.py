"""The optimizer steps of training, with nothing on disk.

A step slices its batch out of uint8 tensors, on the device or in a memory map (see
`polyp_utils.data.parts.load_parts`), so it needs no data loader, and it never waits for the device.
Order follows from (seed, epoch), augmentation from (seed, epoch, frame) and, except with schedule
``plateau``, the learning rate from the step: a killed run resumes without a stored state of these.
"""

import itertools
import math
import os
from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from polyp_utils.common import processes
from polyp_utils.common.config import RunConfig
from polyp_utils.common.device import Compute, keep_freed_memory
from polyp_utils.data.augment import PRESETS, augment, draw_parameters
from polyp_utils.data.labels import Scheme
from polyp_utils.data.parts import Data
from polyp_utils.model.losses import CombinedLoss
from polyp_utils.model.unet import UNet
from polyp_utils.train.validation import validate

COSINE_END = 1e-3  # of the peak learning rate


class Learner:
    """A network in training.

    Attributes:
        config, scheme, compute: as given.
        model: the network, channels last, on the device.
        average: the moving average of its weights and batch-norm statistics, or None.
        loss: the loss that is minimised.
        optimizer, scheduler: of the model's weights; the scheduler acts in `after_epoch`.
    """

    def __init__(
        self,
        config: RunConfig,
        scheme: Scheme,
        compute: Compute,
        class_weights: Tensor | None = None,
    ) -> None:
        keep_freed_memory()
        if config.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS demands it
        torch.use_deterministic_algorithms(config.deterministic)
        torch.manual_seed(config.seed)
        self.config, self.scheme, self.compute = config, scheme, compute
        model = UNet(3, scheme.logits, config.width)
        self.model = model.to(memory_format=torch.channels_last).to(compute.device)
        self.average: MovingAverage | None = None
        self.start_average()
        self._replica = self._forward = processes.replica(self.model)
        if config.compile_mode != "none":  # per shape: a short last batch adds one
            compiled = torch.compile(self._replica, mode=config.compile_mode, dynamic=False)
            self._forward = cast(nn.Module, compiled)
        self._micro_batches = micro_batches(config)
        parts = (config.ce_weight, config.dice_weight, config.dice_absent)
        self.loss = CombinedLoss(*parts, class_weights)
        self.optimizer = _optimizer(self.model, config, compute)
        self.scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
            self.optimizer,
            factor=config.lr_factor,
            patience=config.lr_patience,
            min_lr=config.min_lr,
        )

    def start_average(self) -> None:
        """Starts the moving average, if the settings ask for one, at the current weights."""
        if self.config.ema_decay:
            self.average = MovingAverage(self.model, self.config.ema_decay)

    @property
    def kept(self) -> UNet:
        """The network that is validated and kept: the average if there is one, else the model."""
        return cast(UNet, self.average.module) if self.average else self.model

    def epoch(self, data: Data, number: int) -> Iterator[Tensor]:
        """The losses of each `step` of an epoch; epochs count from 0."""
        steps, schedule = -(-len(data) // self.config.batch_size), _SCHEDULES[self.config.schedule]
        for step, batch in enumerate(self.batches(data, number)):
            if schedule:
                done = (number * steps + step) / (self.config.epochs * steps)
                for group in self.optimizer.param_groups:
                    group["lr"] = schedule(done, self.config.warmup) * self.config.lr
            yield self.step(*batch)

    def after_epoch(self, val_loss: float) -> None:
        """With schedule ``plateau``, lowers the learning rate once the loss has stalled."""
        if self.config.schedule == "plateau":
            self.scheduler.step(val_loss)

    def batches(self, data: Data, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """This process's share of each batch, in the epoch's order, augmented.

        Augmentation identifies a frame by its row in the part.
        """
        seed, preset = self.config.seed, PRESETS.get(self.config.augment)
        for batch in epoch_order(seed, epoch, len(data)).split(self.config.batch_size):
            rows = processes.own_share(batch, self._micro_batches)
            images, masks = data.batch(rows)
            if preset and len(rows):
                images, masks = augment(
                    images, masks, draw_parameters(preset, seed, epoch, rows.tolist())
                )
            yield images, masks

    def step(self, images: Tensor, masks: Tensor) -> Tensor:
        """One optimizer step on this process's share of a batch, micro-batch by micro-batch.

        Puts the model into training mode.

        Returns:
            Loss, CE and Dice loss, (3,), still on the device: their sum over the processes is the
            mean over the frames of the batch.
        """
        self.model.train()
        each = self._micro_batches // processes.size()
        pairs = list(zip(images.tensor_split(each), masks.tensor_split(each), strict=True))
        frames = processes.total(images.new_full((), len(images)))  # of the whole batch
        losses = []
        with processes.running_statistics(self.model, updates=min(each, len(images))):
            for pair in pairs[:-1]:
                with processes.accumulating(self._replica):
                    losses.append(self._backward(*pair, frames))
            losses.append(self._backward(*pairs[-1], frames))
        if self.config.clip_norm:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average:
            self.average.update_parameters(self.model)
        return torch.stack(losses).sum(dim=0)

    def _backward(self, images: Tensor, masks: Tensor, frames: Tensor) -> Tensor:
        """Adds a micro-batch's gradient; returns its share of loss, CE and Dice loss, (3,).

        An empty micro-batch (in a short last batch) adds nothing, but joins the exchange.
        """
        forward = self._forward if len(images) else self._replica  # no compiling for no frames
        with self.compute.autocast():
            logits = forward(images)
        if not len(images):
            logits.sum().backward()
            return torch.zeros(3, device=images.device)
        ce, dice_loss = self.loss.terms(logits, self.scheme.encode(masks))
        loss = self.loss.ce_weight * ce + self.loss.dice_weight * dice_loss
        share = len(images) / frames
        (share * processes.size() * loss).backward()  # the exchange takes the mean
        return share * torch.stack([loss.detach(), ce.detach(), dice_loss.detach()])

    def validate(self, data: Data, beat: Callable[[], object] = lambda: None) -> dict[str, float]:
        """Losses and Dice on a part, see `polyp_utils.train.validation.validate`."""
        size = self.config.batch_size
        return validate(self.kept, data, self.scheme, self.loss, self.compute, size, beat)

    def state_dict(self) -> dict[str, Any]:
        """The state after an epoch, complete enough to resume without any difference."""
        parts = {name: part.state_dict() for name, part in self._stateful.items()}
        return {"settings": self._identity, **parts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned.

        Raises:
            ValueError: the state is that of another run.
            LookupError, RuntimeError, TypeError: it is no such state.
        """
        there = state.get("settings", {})  # earlier versions did not write them
        if different := [k for k, value in self._identity.items() if there.get(k, value) != value]:
            raise ValueError(f"it is that of a run with another {', '.join(different)}")
        for name, part in self._stateful.items():
            part.load_state_dict(state[name])

    @property
    def _identity(self) -> dict[str, Any]:
        settings = self.config.to_dict()
        return {key: value for key, value in settings.items() if key not in ("device", "name")}

    @property
    def _stateful(self) -> dict[str, Any]:
        parts = {"model": self.model, "optimizer": self.optimizer, "scheduler": self.scheduler}
        return parts | ({"average": self.average} if self.average else {})


def micro_batches(config: RunConfig) -> int:
    """Number of micro-batches per batch: equal in size, and the same number for each process.

    Raises:
        ValueError: the batch cannot be divided like that.
    """
    ranks = processes.size()
    count = config.micro_batches or ranks
    if count % ranks:
        raise ValueError(
            f"micro_batches is {count} but there are {ranks} processes: use a multiple, or 0 "
            "for one per process"
        )
    if config.batch_size % count:
        raise ValueError(
            f"batch_size is {config.batch_size} but there are {ranks} processes, which share "
            "a batch equally: use a multiple, or another number of processes"
        )
    return count


def _optimizer(model: nn.Module, config: RunConfig, compute: Compute) -> torch.optim.Optimizer:
    fused = compute.device.type in ("cpu", "cuda")
    if config.optimizer == "adam":
        return torch.optim.Adam(model.parameters(), config.lr, fused=fused)
    kernels = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim == 1]  # biases, batch-norm scales
    decayed = {"params": kernels, "weight_decay": config.weight_decay}
    groups: list[dict[str, Any]] = [decayed, {"params": others, "weight_decay": 0.0}]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, config.lr, fused=fused)
    return torch.optim.SGD(groups, config.lr, momentum=0.9, nesterov=True, fused=fused)


class MovingAverage(AveragedModel):
    """Exponential moving average of weights and batch-norm statistics, updated every step.

    After t steps its decay is min(``decay``, (1 + t) / (10 + t)), so that the random first weights
    are soon forgotten. Batch-norm counters, which nothing reads, are left as they are.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model, use_buffers=True)
        self.decay = decay

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """One step; unlike the method it replaces, it never waits for the GPU."""
        t = int(self.n_averaged)  # on the CPU
        averaged, current = _numbers(self.module), _numbers(model)
        torch._foreach_lerp_(averaged, current, 1 - min(self.decay, (1 + t) / (10 + t)) if t else 1)
        self.n_averaged += 1


def _numbers(model: nn.Module) -> list[Tensor]:
    """Parameters and buffers of a floating-point type."""
    tensors = itertools.chain(model.parameters(), model.buffers())
    return [tensor for tensor in tensors if tensor.is_floating_point()]


def linear(done: float, warmup: float) -> float:
    """Learning rate as a fraction of its peak: linear warm-up from 0, then linear decay to 0.

    Args:
        done: fraction of all steps already taken, in [0, 1).
        warmup: fraction of all steps used for the warm-up, in [0, 1).
    """
    return (done / warmup) if done < warmup else (1 - done) / (1 - warmup)


def cosine(done: float, warmup: float) -> float:
    """Like `linear`, but with cosine decay (Loshchilov and Hutter 2017) to `COSINE_END`."""
    if done < warmup:
        return done / warmup
    fallen = (1 - math.cos(math.pi * (done - warmup) / (1 - warmup))) / 2
    return 1 - (1 - COSINE_END) * fallen


_SCHEDULES = {"plateau": None, "linear": linear, "cosine": cosine}


def epoch_order(seed: int, epoch: int, frames: int) -> Tensor:
    """Rows of the training part in the order of an epoch, int64 (frames,)."""
    return torch.from_numpy(np.random.default_rng([seed, epoch]).permutation(frames))
