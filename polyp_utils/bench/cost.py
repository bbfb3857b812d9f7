"""What a run costs: a law with three terms, fitted to measured steps.

The time of a step has a fixed part (launching a few hundred operations), arithmetic (convolutions),
and memory traffic (batch norm, ReLU, pooling and copies touch every activation). Its memory has a
fixed part, the parameters with their gradients and Adam's moments, and the activations that the
backward pass needs.
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
    """The law fitted for one machine.

    Attributes:
        step: seconds, seconds per FLOP, seconds per activation (a channel's value at a pixel).
        memory: MiB, MiB per parameter, MiB per activation.
        error: largest relative error over the measured steps, and over the measured memory.
    """

    step: tuple[float, float, float]
    memory: tuple[float, float, float]
    error: tuple[float, float]

    def step_seconds(self, width: int, image_size: int, batch: int) -> float:
        """Seconds per training step."""
        return float(np.dot(self.step, work(width, image_size, batch)))

    def memory_mib(self, width: int, image_size: int, batch: int) -> float:
        """Peak memory of training, in MiB."""
        return float(np.dot(self.memory, _space(width, image_size, batch)))

    def hours(self, width: int, image_size: int, batch: int, frames: int, epochs: int) -> float:
        """Hours for a run over ``frames`` training frames, without validation."""
        steps = -(-frames // batch) * epochs
        return steps * self.step_seconds(width, image_size, batch) / 3600


def work(width: int, image_size: int, batch: int) -> list[float]:
    """The quantities in the law of a step's time: 1, FLOPs, activations."""
    return [1.0, training_flops(width, image_size, batch), activations(width, image_size, batch)]


def _space(width: int, image_size: int, batch: int) -> list[float]:
    return [1.0, parameters(width), activations(width, image_size, batch)]


@functools.cache
def parameters(width: int, classes: int = 3) -> int:
    """Number of parameters of the U-Net."""
    with torch.device("meta"):
        return sum(p.numel() for p in UNet(3, classes, width).parameters())


@functools.cache
def activations(width: int, image_size: int, batch: int) -> int:
    """Number of output values of all convolutions in a forward pass."""
    return sum(layer.outputs for layer in convolutions(width, image_size, batch))


def fit_cost(table: pd.DataFrame) -> CostModel:
    """Fits the law by least squares of relative errors; no term is negative.

    Args:
        table: rows ``what`` (step, in seconds, or memory, in MiB), ``width``, ``image_size``,
            ``batch`` and ``value``.

    Raises:
        ValueError: fewer than three points for either.
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
