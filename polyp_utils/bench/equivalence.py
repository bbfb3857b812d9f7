"""Whether ours learns what the plain loop learns.

Both start from the same weights and see the same frames in the same order, with the card's
settings; the plain loop in float32 from JPEG files, ours as it trains here. The remaining
differences are rounding, how frames are resized, and that the plain loop's frames and masks are
JPEGs of quality 95. Both are scored by the same code in float32.
"""

import itertools
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
from torch.utils.data import Sampler

from polyp_utils.bench.loops import jpegs, our_steps
from polyp_utils.bench.plain import PlainLoop
from polyp_utils.common.config import RunConfig
from polyp_utils.common.device import explaining, get_compute
from polyp_utils.common.files import write_csv
from polyp_utils.data.dataset import PolypDataset
from polyp_utils.data.labels import get_scheme
from polyp_utils.data.parts import load_parts
from polyp_utils.runs.run import split_of
from polyp_utils.train.learner import Learner, epoch_order
from polyp_utils.train.validation import validate

COLUMNS = ["seed", "loop", "what", "at", "value"]


class _OurOrder(Sampler[int]):
    """Yields the frames of each epoch in the order of our training."""

    def __init__(self, seed: int, frames: int) -> None:
        self.seed, self.frames, self.epoch = seed, frames, 0

    def __len__(self) -> int:
        return self.frames

    def __iter__(self) -> Iterator[int]:
        yield from epoch_order(self.seed, self.epoch, self.frames).tolist()
        self.epoch += 1


@explaining()
def compare_loops(
    config: RunConfig, path: Path, seeds: Iterable[int] = (0, 1, 2), steps: int = 50
) -> pd.DataFrame:
    """Trains each loop for ``config.epochs`` on the training part; writes the table after each.

    Args:
        config: data, split, width, image size, batch size, epochs and device; the plain loop
            computes in float32.
        path: the CSV file.
        seeds: seeds of the initial weights and the order of the frames.
        steps: number of first steps whose losses are kept.

    Returns:
        Columns `COLUMNS`: per seed and loop (``plain``, ``ours``; for the first steps also ``ours,
        fp32``) the ``loss`` at step ``at``, and ``polyp_dice`` on the validation part (mean over
        images, at network size) after epoch ``at``.

    Raises:
        ValueError: fewer than two seeds.
    """
    seeds = tuple(seeds)
    if len(seeds) < 2:
        raise ValueError(f"seeds are {seeds}: an interval needs at least two")
    dataset = PolypDataset(config.dataset, config.image_size)
    split = split_of(config)
    compute, precise = (get_compute(config.device, p) for p in ("auto", "fp32"))
    parts = load_parts(dataset, split, compute.device)
    per_epoch = -(-len(split.train) // config.batch_size)
    rows: list[tuple[int, str, str, int, float]] = []
    size = (config.width, config.image_size, config.batch_size)
    with tempfile.TemporaryDirectory() as folder:
        pairs = jpegs(dataset, split.train, Path(folder))

        def started(loop: str, seed: int) -> tuple[PlainLoop | Learner, Iterator[float]]:
            if loop == "plain":
                order = _OurOrder(seed, len(pairs))
                plain = PlainLoop(pairs, *size, compute.device, config.lr, seed, order)
                return plain, plain.steps()
            chosen = compute if loop == "ours" else precise
            ours = Learner(replace(config, seed=seed), get_scheme(config.scheme), chosen)
            return ours, (float(loss[0]) for loss in our_steps(ours, parts["train"]))

        for seed, loop in itertools.product(seeds, ("plain", "ours", "ours, fp32")):
            running, losses = started(loop, seed)
            length = config.epochs * per_epoch
            length = min(steps, length) if loop == "ours, fp32" else length
            for step, loss in enumerate(itertools.islice(losses, length), 1):
                if step <= steps:
                    rows.append((seed, loop, "loss", step, loss))
                if loop != "ours, fp32" and step % per_epoch == 0:
                    what = (running.model, parts["val"], running.scheme, running.loss)
                    score = validate(*what, precise, config.batch_size)["polyp_dice"]
                    epoch = step // per_epoch
                    rows.append((seed, loop, "polyp_dice", epoch, score))
                    print(f"seed {seed}, {loop}, epoch {epoch}: Dice {score:.4f}", flush=True)
            table = pd.DataFrame(rows, columns=COLUMNS)
            write_csv(path, table)
    return table
