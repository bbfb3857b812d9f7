"""What a run costs: a law with three terms, fitted to measured steps.

A step takes a fixed time (a few hundred operations are launched), the time of its arithmetic
(convolutions), and the time of its traffic (batch norm, ReLU, pooling and copies go over every
activation). Memory is a fixed part, the parameters with their gradients and Adam's moments, and
the activations that the backward pass needs.
"""

import functools
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from scipy.optimize import nnls

from polyp_utils.bench.ceiling import convolutions, training_flops
from polyp_utils.model.unet import UNet


@dataclass(frozen=True)
class CostModel:
    """Fitted law of a machine.

    Attributes:
        step: seconds, seconds per FLOP, seconds per activation (a channel's value at a pixel).
        memory: MiB, MiB per parameter, MiB per activation.
        error: largest relative error of a measured step and of a measured memory.
    """

    step: tuple[float, float, float]
    memory: tuple[float, float, float]
    error: tuple[float, float]

    def step_seconds(self, width: int, image_size: int, batch: int) -> float:
        """Time of one training step."""
        return float(np.dot(self.step, work(width, image_size, batch)))

    def memory_mib(self, width: int, image_size: int, batch: int) -> float:
        """Peak memory of training."""
        return float(np.dot(self.memory, _space(width, image_size, batch)))

    def hours(self, width: int, image_size: int, batch: int, frames: int, epochs: int) -> float:
        """Of a run over ``frames`` training frames, validation aside."""
        steps = -(-frames // batch) * epochs
        return steps * self.step_seconds(width, image_size, batch) / 3600


def work(width: int, image_size: int, batch: int) -> list[float]:
    """What the terms of a step's time are multiplied with: 1, FLOP, activations."""
    return [1.0, training_flops(width, image_size, batch), activations(width, image_size, batch)]


def _space(width: int, image_size: int, batch: int) -> list[float]:
    return [1.0, parameters(width), activations(width, image_size, batch)]


@functools.cache
def parameters(width: int, classes: int = 3) -> int:
    """Of the U-Net."""
    with torch.device("meta"):
        return sum(p.numel() for p in UNet(3, classes, width).parameters())


@functools.cache
def activations(width: int, image_size: int, batch: int) -> int:
    """Values that the convolutions of a forward pass put out."""
    return sum(layer.outputs for layer in convolutions(width, image_size, batch))


def fit_cost(table: pd.DataFrame) -> CostModel:
    """Fits the law; terms are never negative, and each point counts by its relative error.

    Args:
        table: rows ``what`` (step, in seconds, or memory, in MiB), ``width``, ``image_size``,
            ``batch`` and ``value``.

    Raises:
        ValueError: fewer than three points of either.
    """
    found: dict[str, tuple[float, float, float]] = {}
    errors = []
    for what, terms in (("step", work), ("memory", _space)):
        points = table[table["what"] == what]
        if len(points) < 3:
            raise ValueError(f"{len(points)} points of {what}: three are needed to fit three terms")
        columns = (points[c].astype(int) for c in ("width", "image_size", "batch"))
        x = np.array([terms(*point) for point in zip(*columns, strict=True)])
        y = points["value"].to_numpy(float)
        scale = x.max(axis=0)
        coefficients, _ = nnls(x / scale / y[:, None], np.ones(len(y)))
        fixed, first, second = (float(c) for c in coefficients / scale)
        found[what] = (fixed, first, second)
        errors.append(float(np.abs(x @ found[what] / y - 1).max()))
    return CostModel(found["step"], found["memory"], (errors[0], errors[1]))
