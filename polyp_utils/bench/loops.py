"""The loops that take turns, and what a worker process does with one of them.

Both loops train the card's network (scheme trimap) on the same frames: the plain loop from JPEG
files, ours as `polyp_utils.train.learner` does. The convolutions alone are their ceiling.
"""

import itertools
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from polyp_utils.bench.ceiling import convolutions, measured, seconds_per_call, synchronise
from polyp_utils.bench.plain import PlainLoop
from polyp_utils.bench.profile import seconds_by_kind
from polyp_utils.common.config import RunConfig
from polyp_utils.common.device import (
    Compute,
    explaining,
    get_compute,
    keep_freed_memory,
    peak_memory_mib,
)
from polyp_utils.data.dataset import PolypDataset
from polyp_utils.data.labels import get_scheme
from polyp_utils.data.parts import Data, load_parts
from polyp_utils.data.split import Split
from polyp_utils.train.learner import Learner

FRAMES = 128  # for training: an epoch outlasts the turns
VALIDATED = 16  # other frames, for validation


def jpegs(dataset: PolypDataset, ids: Sequence[str], folder: Path) -> list[tuple[Path, Path]]:
    """Writes frames and masks at original size as JPEG files, quality 95."""
    pairs = []
    for frame_id in ids:
        image, mask = dataset.original(frame_id)
        paths = (folder / f"{frame_id}.jpg", folder / f"{frame_id}-mask.jpg")
        for path, pixels in zip(paths, (image, mask), strict=True):
            Image.fromarray(pixels).save(path, quality=95)
        pairs.append(paths)
    return pairs


def our_steps(learner: Learner, data: Data) -> Iterator[Tensor]:
    """Our loop, endlessly: losses of each step, still on the device."""
    for epoch in itertools.count():
        yield from learner.epoch(data, epoch)


class Training:
    """The plain loop or ours, a few steps at a time.

    Attributes:
        first_batch: seconds from the opened data set (the written JPEG files) to the first batch.
    """

    def __init__(
        self, loop: str, name: str, config: RunConfig, compute: Compute, folder: Path
    ) -> None:
        self.config, self.compute = config, compute
        dataset = PolypDataset(name, config.image_size)
        ids, others = dataset.ids[:FRAMES], dataset.ids[FRAMES : FRAMES + VALIDATED]
        if loop == "plain":
            pairs, unseen = (jpegs(dataset, part, folder) for part in (ids, others))
            size = (config.width, config.image_size, config.batch_size)
            start = time.perf_counter()
            plain = PlainLoop(pairs, *size, compute.device)
            next(iter(plain.loader))
            self.first_batch = time.perf_counter() - start
            few = PlainLoop(unseen, *size, compute.device)
            few.model = plain.model
            self.steps: Iterator[object] = plain.steps()
            self.validate: Callable[[], object] = few.validate
        else:
            start = time.perf_counter()
            parts = load_parts(dataset, Split("bench", ids, others, ()), compute.device)
            learner = Learner(config, get_scheme(config.scheme), compute)
            next(learner.batches(parts["train"], 0))
            self.first_batch = time.perf_counter() - start
            self.steps = our_steps(learner, parts["train"])
            self.validate = partial(learner.validate, parts["val"])

    def profile(self) -> dict[str, float]:
        """Seconds of one step by kind of operation."""
        return seconds_by_kind(lambda: next(self.steps), self.compute.device)

    def peak_memory(self) -> float:
        """Peak memory so far, in MiB; for the plain loop without its workers."""
        return peak_memory_mib(self.compute)

    def turn(self, seconds: float) -> dict[str, float]:
        """Images per second of training for a few steps, and of validation on a few frames.

        The plain loop restarts its workers for each validation, as it does in each epoch. With 0
        seconds it only warms up, by one step.
        """
        if not seconds:
            next(self.steps)
            return {}
        synchronise(self.compute)
        start, images = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            next(self.steps)
            images += self.config.batch_size
        synchronise(self.compute)  # once: in training, too, a step does not wait for the GPU
        taken = time.perf_counter() - start
        start = time.perf_counter()
        self.validate()
        synchronise(self.compute)
        rate = VALIDATED / (time.perf_counter() - start)
        return {"training": images / taken, "validation": rate}


class Convolutions:
    """The network's convolutions, one after another, with nothing in between."""

    def __init__(self, config: RunConfig, compute: Compute) -> None:
        keep_freed_memory()
        self.compute = compute
        layers = convolutions(config.width, config.image_size, config.batch_size)
        self.calls = {
            f"{layer.name}, {name}, {way}": call
            for layer in layers
            for name, ways in layer.passes(compute).items()
            for way, call in self._fastest(ways).items()
        }

    def _fastest(self, ways: dict[str, Callable[[], Tensor]]) -> dict[str, Callable[[], Tensor]]:
        """The fastest way, each timed after a warm-up call."""
        if len(ways) == 1:
            return ways
        seconds = {way: measured(call, self.compute, 1)[0] for way, call in ways.items()}
        way = min(seconds, key=seconds.__getitem__)
        return {way: ways[way]}

    def turn(self, seconds: float) -> dict[str, float]:
        """Seconds of each convolution, run once whatever ``seconds``; by layer, pass and way."""
        return {name: seconds_per_call(call, self.compute) for name, call in self.calls.items()}


_here: Training | Convolutions  # the loop of this process


def start() -> None:
    """Does nothing: a process that has run it has imported PyTorch and this module."""


@explaining()
def make(loop: str, dataset: str, config: RunConfig, device: str, folder: Path) -> None:
    """Makes a loop in this process; ``folder`` is where the plain one finds its JPEG files."""
    global _here
    multiprocessing.set_start_method(None, force=True)  # the system default, for the plain loader
    compute = get_compute(device)
    if loop == "convolutions":
        _here = Convolutions(config, compute)
    else:
        _here = Training(loop, dataset, config, compute, folder)


@explaining()
def ask(name: str, *arguments: Any) -> Any:
    """An attribute of the loop of this process, called if it is a method."""
    found = getattr(_here, name)
    return found(*arguments) if callable(found) else found
