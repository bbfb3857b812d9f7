"""Frames through a network, loaded ahead of it by threads, in their order."""

import itertools
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from polyp_utils.deploy.load import Model
from polyp_utils.model.predict import MIRRORS, predict_copies

BATCH = 4  # frames at a time
_WINDOW = 4  # frames in flight per worker
_A = TypeVar("_A")
_B = TypeVar("_B")


class Loaded(NamedTuple):
    """A frame on its way to the network.

    Attributes:
        name: of its results; empty if it is for the film of a video only.
        source: the file that it is from.
        time: seconds from the beginning of the video; NaN of an image.
        frame: RGB, uint8 (H, W, 3); without one, ``reason`` says why.
        square: the frame at the network's size, uint8 (3, S, S).
        seconds: that it took so far.
    """

    name: str
    source: Path
    time: float = float("nan")
    frame: np.ndarray | None = None
    square: Tensor | None = None
    reason: str = ""
    seconds: float = 0.0


def predictions(
    frames: Iterable[Callable[[], Loaded]], model: Model, pool: ThreadPoolExecutor
) -> Iterator[tuple[Loaded, Tensor | None]]:
    """Frames in their order, each with its copies' probabilities, float32 (K, C, S, S).

    None for a frame that could not be read. Frames are loaded in the pool, ahead of the network.

    Raises:
        WeightsError: the network's output for a frame is not finite.
    """
    for batch in _batches(in_order(pool, _call, frames), BATCH):
        seen = [loaded for loaded in batch if loaded.square is not None]
        start = time.perf_counter()
        found = iter(_copies(model, seen))
        share = (time.perf_counter() - start) / max(1, len(seen))
        for loaded in batch:
            if loaded.square is None:
                yield loaded, None
            else:
                yield loaded._replace(seconds=loaded.seconds + share), next(found)


def in_order(
    pool: ThreadPoolExecutor, work: Callable[[_A], _B], items: Iterable[_A]
) -> Iterator[_B]:
    """Results of ``work`` in the order of the items, a window of them in flight."""
    window: deque[Future[_B]] = deque()
    limit = _WINDOW * (os.cpu_count() or 1)
    try:
        for item in items:
            window.append(pool.submit(work, item))
            if len(window) >= limit:
                yield window.popleft().result()
        while window:
            yield window.popleft().result()
    finally:
        for future in window:
            future.cancel()


def _call(load: Callable[[], Loaded]) -> Loaded:
    return load()


def _batches(items: Iterable[_A], size: int) -> Iterator[list[_A]]:
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def _copies(model: Model, frames: list[Loaded]) -> list[Tensor]:
    """Probabilities of each frame's copies, float32 (K, C, S, S); none of no frame."""
    squares = [loaded.square for loaded in frames if loaded.square is not None]
    if not squares:
        return []
    turns = MIRRORS if model.mirrored else MIRRORS[:1]
    names = [f"{loaded.name or loaded.source} by {model.path}" for loaded in frames]
    images = torch.stack(squares)
    return list(predict_copies(model.network, images, model.compute, BATCH, turns, names))
