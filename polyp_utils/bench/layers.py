"""Shapes and arithmetic of the U-Net's convolutions, without PyTorch, for the documents' tables."""

import itertools
import math
from typing import NamedTuple

PASSES = ("forward", "input gradient", "weight gradient")


class Layer(NamedTuple):
    """One convolution of a network at a given input.

    Attributes:
        name: name of the module.
        inputs: shape of its input (B, C, H, W).
        weight: shape of its weight.
        transposed: whether it is a 2×2 transposed convolution with stride 2.
        has_gradient: whether its input needs a gradient; the first layer's does not.
    """

    name: str
    inputs: tuple[int, ...]
    weight: tuple[int, ...]
    transposed: bool
    has_gradient: bool

    @property
    def flops(self) -> int:
        """FLOPs of one pass: two per multiply-add."""
        batch, _, height, width = self.inputs
        return 2 * batch * height * width * math.prod(self.weight)

    @property
    def outputs(self) -> int:
        """Number of its output values."""
        batch, _, height, width = self.inputs
        channels = 4 * self.weight[1] if self.transposed else self.weight[0]
        return batch * channels * height * width


def layers_of(width: int, image_size: int, batch: int, classes: int = 3) -> list[Layer]:
    """All convolutions of `polyp_utils.model.unet.UNet`, in the order of the forward pass."""
    layers: list[Layer] = []

    def add(name: str, c_in: int, c_out: int, depth: int, kernel: int = 3) -> None:
        side, transposed = image_size // 2**depth, kernel == 2
        channels = (c_in, c_out) if transposed else (c_out, c_in)
        shapes = (batch, c_in, side, side), (*channels, kernel, kernel)
        layers.append(Layer(name, *shapes, transposed, has_gradient=bool(layers)))

    widths = [width * 2**depth for depth in range(5)]
    for depth, (c_in, c_out) in enumerate(itertools.pairwise([3, *widths])):
        block = f"encoder.{depth}" if depth < 4 else "bottleneck"
        add(f"{block}.0", c_in, c_out, depth)
        add(f"{block}.3", c_out, c_out, depth)
    for stage, depth in enumerate(reversed(range(4))):
        add(f"up.{stage}", widths[depth + 1], widths[depth], depth + 1, kernel=2)
        add(f"decoder.{stage}.0", 2 * widths[depth], widths[depth], depth)
        add(f"decoder.{stage}.3", widths[depth], widths[depth], depth)
    add("head.0", width, width // 2, 0)
    add("output", width // 2, classes, 0, kernel=1)
    return layers
