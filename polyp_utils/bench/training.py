"""Training speed of the plain loop, of ours, and of the convolutions alone, in turns.

Each has a process of its own, because how memory is kept belongs to a process
(`polyp_utils.common.device.keep_freed_memory`) and is part of what is compared; only one works at
a time, and they take turns, so that a noisy machine disturbs all alike.
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
    """The card's recipe at another width, size or batch."""
    return replace(RECIPES["card"], width=width, image_size=image_size, batch_size=batch_size)


def measure_training(
    dataset: str,
    config: RunConfig,
    device: str = "auto",
    rounds: int = 3,
    seconds: float = 2.0,
    who: Iterable[str] = (*TRAINING, "convolutions"),
) -> pd.DataFrame:
    """Runs the loops in turns, each in its process; a step of each warms up.

    Args:
        dataset: whose frames are used.
        config: of `settings`.
        device: as in `get_compute`; the plain loop computes there in float32.
        rounds: turns of each that are measured.
        seconds: of training in a turn, at least one step.
        who: takes turns; ours must.

    Returns:
        Rows ``loop``, ``what``, ``value``: of ``plain`` and ``ours`` what `UNITS` names
        (``first_batch`` from the opened data on), the first two in each turn; of ``convolutions``
        the seconds of each layer and pass in each turn, and then of ``profile`` those of one of
        our steps by kind of operation.
    """
    rows: list[tuple[str, str, float]] = []
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        workers = {
            loop: stack.enter_context(ProcessPoolExecutor(1, mp_context=spawn)) for loop in who
        }

        def ask(loop: str, *question: Any) -> Any:
            return workers[loop].submit(loops.ask, *question).result()

        wait([worker.submit(loops.start) for worker in workers.values()])  # together: it is slow
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
