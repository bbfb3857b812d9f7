"""Training speed of the plain loop, of ours, and of the convolutions alone, in turns.

Each has its own process, because how freed memory is kept is set per process
(`polyp_utils.common.device.keep_freed_memory`) and is part of the comparison. They take turns, one
working at a time, so that a noisy machine disturbs all alike.
"""

import multiprocessing
import tempfile
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from polyp_utils.bench import loops
from polyp_utils.common.config import RECIPES, RunConfig

TRAINING = ("plain", "ours")
UNITS = {"training": "images/s", "validation": "images/s", "first_batch": "s", "peak_memory": "MiB"}


def settings(width: int, image_size: int, batch_size: int) -> RunConfig:
    """The card's recipe at the given width, image size and batch size."""
    return replace(RECIPES["card"], width=width, image_size=image_size, batch_size=batch_size)


def measure_training(
    dataset: str,
    config: RunConfig,
    device: str = "auto",
    rounds: int = 3,
    seconds: float = 2.0,
    who: Iterable[str] = (*TRAINING, "convolutions"),
) -> pd.DataFrame:
    """Runs the loops in turns, each in its own process, after one warm-up step.

    Args:
        dataset: the data set whose frames are used.
        config: from `settings`.
        device: as in `get_compute`; the plain loop computes on it in float32.
        rounds: measured turns of each.
        seconds: of training per turn, at least one step.
        who: the loops that take turns; ours must be one of them.

    Returns:
        Columns ``loop``, ``what``, ``value``. For ``plain`` and ``ours``: the measures in `UNITS`,
        the first two once per turn. For ``convolutions``: seconds of each layer and pass, once per
        turn; with them ``profile``, seconds of one of our steps by kind of operation.
    """
    rows: list[tuple[str, str, float]] = []
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        workers = {
            loop: stack.enter_context(ProcessPoolExecutor(1, mp_context=spawn)) for loop in who
        }

        def ask(loop: str, *question: Any) -> Any:
            return workers[loop].submit(loops.ask, *question).result()

        wait([worker.submit(loops.start) for worker in workers.values()])  # imports in parallel
        for loop, worker in workers.items():
            worker.submit(loops.make, loop, dataset, config, device, Path(folder)).result()
            ask(loop, "turn", 0)
        for _ in range(rounds):
            for loop in workers:
                rows += [(loop, *item) for item in ask(loop, "turn", seconds).items()]
        for loop in workers.keys() & set(TRAINING):
            rows += [(loop, what, ask(loop, what)) for what in ("first_batch", "peak_memory")]
        if "convolutions" in workers:
            rows += [("profile", *item) for item in ask("ours", "profile").items()]
    return pd.DataFrame(rows, columns=["loop", "what", "value"])
