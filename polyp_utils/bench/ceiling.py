"""What the machine can do: matrix products, copies, and the convolutions of this network alone.

A training step cannot be faster than its convolutions. Their time is measured layer by layer, for
the forward pass and both gradients, with nothing between them; its share in the time of a step
says how close the step is to what the hardware and its library can do.
"""

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from polyp_utils.device import Compute
from polyp_utils.model import UNet

PASSES = ("forward", "input gradient", "weight gradient")
_MATRIX = 2048  # side of the matrices
_COPY_BYTES = 2**28


def synchronise(compute: Compute) -> None:
    """Waits for the device."""
    if compute.device.type == "cuda":
        torch.cuda.synchronize(compute.device)


def median_seconds(work: Callable[[], object], compute: Compute, repeats: int = 3) -> float:
    """Median time of a call, after one that warms up."""
    taken = []
    for _ in range(repeats + 1):
        synchronise(compute)
        start = time.perf_counter()
        work()
        synchronise(compute)
        taken.append(time.perf_counter() - start)
    return float(np.median(taken[1:]))


def matrix_product(compute: Compute, repeats: int = 5) -> float:
    """FLOP/s of a square matrix product in the compute's precision."""
    a, b = (
        torch.randn(_MATRIX, _MATRIX, dtype=compute.dtype, device=compute.device) for _ in range(2)
    )
    return 2 * _MATRIX**3 / median_seconds(lambda: a @ b, compute, repeats)


def memory_copy(compute: Compute, repeats: int = 5) -> float:
    """Bytes per second read plus written by a copy of 256 MiB."""
    source = torch.ones(_COPY_BYTES, dtype=torch.uint8, device=compute.device)
    target = torch.empty_like(source)
    return 2 * _COPY_BYTES / median_seconds(lambda: target.copy_(source), compute, repeats)


@dataclass(frozen=True)
class Convolution:
    """One convolution of a network at a given input.

    Attributes:
        name: of the module.
        inputs: shape of its input (B, C, H, W).
        weight: shape of its weight.
        transposed: whether it is a 2×2 transposed convolution with stride 2.
        has_gradient: whether its input needs one; the first layer's does not.
    """

    name: str
    inputs: tuple[int, ...]
    weight: tuple[int, ...]
    transposed: bool
    has_gradient: bool

    @property
    def flops(self) -> int:
        """Of one pass: two per multiplication and addition."""
        batch, _, height, width = self.inputs
        return 2 * batch * height * width * int(np.prod(self.weight))

    @property
    def outputs(self) -> int:
        """Values that it puts out."""
        batch, _, height, width = self.inputs
        channels = 4 * self.weight[1] if self.transposed else self.weight[0]
        return batch * channels * height * width

    def seconds(self, compute: Compute, repeats: int = 3) -> dict[str, float]:
        """Median time of each of `PASSES`; channels last.

        A transposed convolution that does not overlap is a matrix product per pixel, and is
        measured as the 1×1 convolution that it is.
        """
        weight_shape = self.weight
        if self.transposed:
            c_in, c_out, *kernel = self.weight
            weight_shape = (c_out * int(np.prod(kernel)), c_in, 1, 1)
        x, w = (
            torch.randn(shape, dtype=compute.dtype, device=compute.device).to(
                memory_format=torch.channels_last
            )
            for shape in (self.inputs, weight_shape)
        )
        padding = [weight_shape[-1] // 2] * 2
        fixed = ([1, 1], padding, [1, 1], False, [0, 0], 1)
        y = torch.nn.functional.conv2d(x, w, padding=padding)
        grad = torch.randn_like(y)

        def backward(*mask: bool) -> Callable[[], object]:
            wanted = torch.ops.aten.convolution_backward
            return lambda: wanted(grad, x, w, None, *fixed, [*mask, False])

        found = {
            "forward": median_seconds(
                lambda: torch.nn.functional.conv2d(x, w, padding=padding), compute, repeats
            ),
            "weight gradient": median_seconds(backward(False, True), compute, repeats),
        }
        if self.has_gradient:
            found["input gradient"] = median_seconds(backward(True, False), compute, repeats)
        return found


def convolutions(width: int, image_size: int, batch: int, classes: int = 3) -> list[Convolution]:
    """All convolutions of the U-Net, in the order of the forward pass."""
    found: list[Convolution] = []

    def note(name: str, module: nn.Conv2d | nn.ConvTranspose2d) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            transposed = isinstance(module, nn.ConvTranspose2d)
            shapes = tuple(inputs[0].shape), tuple(module.weight.shape)
            found.append(Convolution(name, *shapes, transposed, bool(found)))

        return hook

    with torch.device("meta"):
        model = UNet(3, classes, width)
        for name, module in model.named_modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
                module.register_forward_pre_hook(note(name, module))
        model(torch.empty(batch, 3, image_size, image_size))
    return found


@functools.cache
def training_flops(width: int, image_size: int, batch: int, classes: int = 3) -> int:
    """Of one training step, forward and backward, as `torch.utils.flop_counter` counts them."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        model = UNet(3, classes, width)
        model(torch.empty(batch, 3, image_size, image_size)).sum().backward()
    return int(counter.get_total_flops())
