"""How fast the same network predicts under each runtime, see `polyp_utils.bench.runtimes`.

The runtimes take turns, each in its own process: the thread pool of one would slow down another,
and how memory is kept is part of a runtime.
"""

import itertools
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, wait
from contextlib import ExitStack
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from polyp_utils.bench.ceiling import synchronise
from polyp_utils.bench.runtimes import (
    CARD,
    FORWARDS,
    Forward,
    file_of,
    load_forward,
    prepare_runtimes,
)
from polyp_utils.common.device import get_compute
from polyp_utils.data.labels import Scheme, get_scheme
from polyp_utils.data.transforms import resize_image, to_input
from polyp_utils.model.predict import to_polyp_mask
from polyp_utils.model.unet import UNet
from polyp_utils.model.weights import read_metadata

Job = Callable[..., list[Any]]  # takes a runtime's name, seconds, and what is measured
_FRAME = (1024, 1280)  # height, width in pixels: few frames of Kvasir-SEG are larger


def speed(
    places: Iterable[tuple[int, int]] = ((64, 256), (32, 256), (16, 256)),
    runtimes: Iterable[str] = tuple(FORWARDS),
    batches: Iterable[int] = (1, 8),
    rounds: int = 10,
    seconds: float = 1.0,
    device: str = "cpu",
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Times U-Nets with random weights: from input floats to probabilities, and whole frames.

    A whole frame goes from its 1280×1024 pixels to its mask, see `whole_frame`. int8 is calibrated
    on noise, as speed does not depend on it.

    Args:
        places: pairs of network width and side of the square images in pixels.
        runtimes: keys of `FORWARDS`; those whose package is missing are skipped, with a message.
        batches: images per call.
        rounds: turns per runtime.
        seconds: length of a turn, at least one call.
        device: cpu or cuda, where images and probabilities are; only PyTorch supports cuda.

    Returns:
        A table with columns ``width``, ``image_size``, ``runtime``, ``batch``; ``rates``, a list of
        images per second in each round; ``p50_ms``, ``p95_ms`` per call, over all ``calls``; ``mb``
        (10⁶ bytes), the size of the loaded file. A table with columns ``width``, ``image_size``,
        ``runtime``; ``predict_ms`` and ``mask_ms``, lists of each round's median over frames.
    """
    batches, rows, frames = tuple(batches), [], []
    jobs = {batch: partial(_calls, batch) for batch in batches} | {0: _frames}
    spawn = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        workers = {
            name: stack.enter_context(ProcessPoolExecutor(1, mp_context=spawn)) for name in runtimes
        }
        wait([worker.submit(get_compute, device) for worker in workers.values()])  # imports
        for width, image_size in places:
            weights = _random_weights(Path(folder), width, image_size)
            asked = (weights, image_size, device)
            _warm_up(workers, jobs.values(), *asked)
            for (name, batch), turns in _turns(workers, jobs, rounds, seconds, *asked).items():
                row = {"width": width, "image_size": image_size, "runtime": name}
                if not batch:
                    medians = 1e3 * np.array([np.median(turn, axis=0) for turn in turns])
                    predict, mask = medians.T.tolist()
                    frames.append({**row, "predict_ms": predict, "mask_ms": mask})
                    continue
                p50, p95 = np.percentile(np.concatenate(turns), [50, 95])
                rows.append(
                    {
                        **row,
                        "batch": batch,
                        "rates": [batch / np.mean(turn) for turn in turns],
                        "p50_ms": 1e3 * p50,
                        "p95_ms": 1e3 * p95,
                        "calls": sum(map(len, turns)),
                        "mb": file_of(name, weights).stat().st_size / 1e6,
                    }
                )
    return pd.DataFrame(rows), pd.DataFrame(frames)


def _random_weights(folder: Path, width: int, image_size: int) -> Path:
    """An untrained network, with noise to calibrate it on."""
    scheme = get_scheme("trimap")
    settings = {"scheme": scheme.name, "image_size": image_size, "width": width}
    noise = torch.randint(0, 256, (2, 3, image_size, image_size), dtype=torch.uint8)
    network = UNet(3, scheme.logits, width)
    return prepare_runtimes(folder / f"w{width}-{image_size}px", network, settings, noise)


def _warm_up(workers: dict[str, ProcessPoolExecutor], jobs: Iterable[Job], *asked: Any) -> None:
    """Lets each runtime load its weights and compute; removes those that are not installed."""
    for name, worker in list(workers.items()):
        try:
            for job in jobs:
                worker.submit(job, name, 0, *asked).result()
        except ImportError as error:
            print(f"{name} is skipped: {error}")
            del workers[name]


def _turns(
    workers: dict[str, ProcessPoolExecutor],
    jobs: dict[int, Job],
    rounds: int,
    seconds: float,
    *asked: Any,
) -> dict[tuple[str, int], list[list[Any]]]:
    """Seconds of each call in each turn, by runtime and job key."""
    calls: dict[tuple[str, int], list[list[Any]]] = {}
    for _, key, name in itertools.product(range(rounds), jobs, workers):
        turn = workers[name].submit(jobs[key], name, seconds, *asked)
        calls.setdefault((name, key), []).append(turn.result())
    return calls


@lru_cache(maxsize=1)  # in the runtime's process, one width after another
def _forward(runtime: str, weights: Path, device: str) -> Forward:
    return load_forward(runtime, weights, device)


def _calls(
    batch: int, runtime: str, seconds: float, weights: Path, image_size: int, device: str
) -> list[float]:
    """Seconds of each call in a turn of ``seconds``; runs in the runtime's process."""
    forward, compute = _forward(runtime, weights, device), get_compute(device)
    images = torch.rand(batch, 3, image_size, image_size, device=compute.device)
    times: list[float] = []
    while not times or sum(times) < seconds:
        start = time.perf_counter()
        forward(images)
        synchronise(compute)
        times.append(time.perf_counter() - start)
    return times


def _frames(
    runtime: str, seconds: float, weights: Path, image_size: int, device: str
) -> list[tuple[float, float]]:
    """Like `_calls` for whole frames: seconds to the probabilities, and from them to the mask.

    PyTorch resizes with one thread if another runtime computes, as in `threads_for`.
    """
    forward, compute = _forward(runtime, weights, device), get_compute(device)
    frame = np.random.default_rng(0).integers(0, 256, (*_FRAME, 3), dtype=np.uint8)
    scheme = get_scheme(read_metadata(weights)["settings"]["scheme"])
    times: list[tuple[float, float]] = []
    before = torch.get_num_threads()
    torch.set_num_threads(before if runtime == CARD or "PyTorch" in runtime else 1)
    while not times or sum(map(sum, times)) < seconds:
        times.append(whole_frame(forward, frame, scheme, image_size, compute.device)[1:])
    torch.set_num_threads(before)
    return times


def whole_frame(
    forward: Forward, frame: np.ndarray, scheme: Scheme, image_size: int, device: torch.device
) -> tuple[Tensor, float, float]:
    """Predicts the polyp mask of a frame, uint8 (H, W, 3), as `Model.polyp_mask` does.

    Returns:
        The mask, bool (H, W); seconds for resizing, network and probabilities; seconds for
        resizing back to the frame's size and the threshold.
    """
    start = time.perf_counter()
    image_CHW = torch.from_numpy(frame.copy()).permute(2, 0, 1)
    square = resize_image(image_CHW, (image_size, image_size))[None]
    (probabilities,) = forward(to_input(square, device)).cpu()
    middle = time.perf_counter()
    mask = to_polyp_mask(probabilities, scheme, (frame.shape[0], frame.shape[1]))
    return mask, middle - start, time.perf_counter() - middle
