"""Training speed of the plain loop and of ours, in turns, on the same frames.

Both train the card's network (scheme trimap) on the same 64 frames: the plain loop from JPEG files,
ours as `polyp_utils.training` does. A rate is that of a few steps at a time; the two take turns, so
that a noisy machine disturbs both alike. Memory and the time to the first batch are those of a
process of its own.
"""

import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import torch
from PIL import Image

from polyp_utils.bench.ceiling import PASSES, convolutions, synchronise, training_flops
from polyp_utils.bench.plain import PlainLoop
from polyp_utils.config import RECIPES, RunConfig
from polyp_utils.data.cache import Rows
from polyp_utils.data.dataset import PolypDataset
from polyp_utils.data.labels import get_scheme
from polyp_utils.device import Compute, get_compute
from polyp_utils.runs import Run
from polyp_utils.training import Trainer
from polyp_utils.validation import Data, validate

FRAMES = 64
LOOPS = ("plain", "ours")
_VALIDATED = 8  # frames
_AT_LEAST = 2.0  # seconds of steps per turn


def jpegs(dataset: PolypDataset, folder: Path) -> list[tuple[Path, Path]]:
    """Writes the set's first frames at original size as JPEG pairs, quality 95."""
    pairs = []
    for frame_id in dataset.ids[:FRAMES]:
        image, mask = dataset.original(frame_id)
        paths = (folder / f"{frame_id}.jpg", folder / f"{frame_id}-mask.jpg")
        for path, pixels in zip(paths, (image, mask), strict=True):
            Image.fromarray(pixels).save(path, quality=95)
        pairs.append(paths)
    return pairs


class OurLoop:
    """`Trainer` without a run: steps forever."""

    def __init__(self, dataset: PolypDataset, config: RunConfig, compute: Compute) -> None:
        scheme = get_scheme(config.scheme)
        self.trainer = Trainer(config, scheme, compute, Run(Path(tempfile.gettempdir())))
        rows = torch.arange(min(FRAMES, len(dataset)))
        images, masks = (Rows(tensor, rows) for tensor in (dataset.images, dataset.masks))
        self.data = Data(dataset.ids[: len(rows)], images, masks, compute.device)
        if compute.device.type != "cpu":
            resident = (images.to(compute.device), masks.to(compute.device))
            self.data = Data(self.data.ids, *resident, compute.device)

    def steps(self) -> Iterator[torch.Tensor]:
        """Losses of each step, still on the device."""
        for epoch in itertools.count():
            self.trainer.model.train()
            for batch in self.trainer.batches(self.data, epoch):
                yield self.trainer.step(*batch)

    def validate(self) -> None:
        """Over a few frames, with all scores."""
        t, few = self.trainer, torch.arange(_VALIDATED)
        masks, images = (self.data.masks[few], self.data.images[few])
        data = Data(self.data.ids[:_VALIDATED], images, masks, t.compute.device)
        validate(t.model, data, t.scheme, t.loss, t.compute, t.config.batch_size)


def settings(width: int, image_size: int, batch_size: int) -> RunConfig:
    """The card's recipe at another width, size or batch."""
    changed = {"width": width, "image_size": image_size, "batch_size": batch_size}
    return RunConfig(**{**RECIPES["seed"].to_dict(), **changed})


def training_rates(
    dataset: PolypDataset, config: RunConfig, compute: Compute, rounds: int = 3
) -> pd.DataFrame:
    """Images per second in training and validation, a row per loop and turn.

    Args:
        dataset: open at the network's size.
        config: of `settings`.
        compute: of ours; the plain loop computes on the same device in float32.
        rounds: turns of each.

    Returns:
        Rows ``loop``, ``round``, ``what`` (training or validation) and ``rate``.
    """
    with tempfile.TemporaryDirectory() as folder:
        pairs = jpegs(dataset, Path(folder))
        size = (config.width, config.image_size, config.batch_size)
        plain = PlainLoop(pairs, *size, compute.device)
        few = PlainLoop(pairs[:_VALIDATED], *size, compute.device)
        few.model = plain.model
        ours = OurLoop(dataset, config, compute)
        steps: dict[str, Iterator[object]] = {"plain": plain.steps(), "ours": ours.steps()}
        validations: dict[str, Callable[[], object]] = {
            "plain": few.validate,
            "ours": ours.validate,
        }
        rows = []
        for turn in range(rounds + 1):
            for loop in LOOPS:
                rate = _rate(steps[loop], config.batch_size, compute, turn)
                start = time.perf_counter()
                validations[loop]()
                found = {"training": rate, "validation": _VALIDATED / (time.perf_counter() - start)}
                if turn:  # the first warms up
                    rows += [
                        {"loop": loop, "round": turn, "what": what, "rate": value}
                        for what, value in found.items()
                    ]
        return pd.DataFrame(rows)


def step_seconds(dataset: PolypDataset, config: RunConfig, compute: Compute) -> float:
    """Time of one of our training steps."""
    steps = OurLoop(dataset, config, compute).steps()
    _rate(steps, config.batch_size, compute, turn=0)
    return config.batch_size / _rate(steps, config.batch_size, compute, turn=1)


def _rate(steps: Iterator[object], batch_size: int, compute: Compute, turn: int) -> float:
    synchronise(compute)
    start, count = time.perf_counter(), 0
    while not count or (turn and time.perf_counter() - start < _AT_LEAST):
        next(steps)
        count += 1
        synchronise(compute)
    return count * batch_size / (time.perf_counter() - start)


def convolution_seconds(config: RunConfig, compute: Compute, repeats: int = 3) -> pd.DataFrame:
    """Time of each convolution of a training step, alone: rows ``layer``, ``flops``, each pass."""
    rows = []
    for layer in convolutions(config.width, config.image_size, config.batch_size):
        seconds = layer.seconds(compute, repeats)
        rows.append({"layer": layer.name, "flops": layer.flops, **seconds})
    return pd.DataFrame(rows, columns=["layer", "flops", *PASSES])


def step_flops(config: RunConfig) -> int:
    """Of one training step."""
    return training_flops(config.width, config.image_size, config.batch_size)


def of_process(loop: str, dataset: str, config: RunConfig, device: str) -> dict[str, float]:
    """Time to the first batch (s) and peak memory (MiB) of a loop in a process of its own."""
    words = [loop, dataset, config.width, config.image_size, config.batch_size, device]
    command = [sys.executable, "-m", "polyp_utils.bench.training", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _alone(loop: str, name: str, width: int, size: int, batch: int, device: str) -> None:
    """Runs in a process of its own: the data are cached, the imports done."""
    from polyp_utils.device import peak_memory_mib

    compute, config = get_compute(device), settings(width, size, batch)
    with tempfile.TemporaryDirectory() as folder:
        pairs = jpegs(PolypDataset(name, size), Path(folder)) if loop == "plain" else []
        start = time.perf_counter()
        if loop == "plain":
            plain = PlainLoop(pairs, width, size, batch, compute.device)
            next(iter(plain.loader))
            steps: Iterator[object] = plain.steps()
        else:
            ours = OurLoop(PolypDataset(name, size), config, compute)
            next(iter(ours.trainer.batches(ours.data, 0)))
            steps = ours.steps()
        first = time.perf_counter() - start
        for _ in range(2):
            next(steps)
        synchronise(compute)
    print(json.dumps({"first batch": first, "peak memory": peak_memory_mib(compute)}))


if __name__ == "__main__":
    loop, name, width, size, batch, device = sys.argv[1:]
    _alone(loop, name, int(width), int(size), int(batch), device)
