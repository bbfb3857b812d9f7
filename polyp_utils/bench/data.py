"""How long a data set takes to open and read on this machine."""

import os
import tempfile
import time
from typing import NamedTuple
from unittest import mock

import torch

from polyp_utils.data.dataset import PolypDataset


class Measure(NamedTuple):
    """One measured value with its unit."""

    name: str
    value: float
    unit: str


def data_start(dataset: str = "kvasir-seg", image_size: int = 256) -> list[Measure]:
    """How long a data set takes to open, and to read all its pixels, without imports.

    Cold: all files are decoded and written to a temporary cache. Warm: that cache is opened; then
    all pixels are read from it. The system may hold the files in memory from before, and does hold
    the cache it has just written: none of this times a disk.

    Args:
        dataset: name in the catalogue, or a folder.
        image_size: side in pixels.

    Returns:
        Rows ``frames``, ``cold start``, ``warm start``, ``reading`` and ``size`` (of the pixels).
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.dict(os.environ, POLYP_CACHE=folder),
    ):
        cold, _ = _timed(dataset, image_size)
        warm, data = _timed(dataset, image_size)
        start = time.perf_counter()
        for rows in torch.arange(len(data)).split(64):
            data.images[rows], data.masks[rows]
        reading = time.perf_counter() - start
        size = (data.images.nbytes + data.masks.nbytes) / 2**20
        return [
            Measure("frames", len(data), ""),
            Measure("cold start", cold, "s"),
            Measure("warm start", warm, "s"),
            Measure("reading", reading, "s"),
            Measure("size", size, "MiB"),
        ]


def _timed(dataset: str, image_size: int) -> tuple[float, PolypDataset]:
    start = time.perf_counter()
    data = PolypDataset(dataset, image_size)
    return time.perf_counter() - start, data
