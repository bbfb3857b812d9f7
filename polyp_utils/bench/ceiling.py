"""What the machine can do: matrix products, copies, and the network's convolutions alone.

A training step cannot be faster than its convolutions. Their time is measured layer by layer, for
the forward pass and both gradients, each in the fastest way known here (whether training uses it or
not), with nothing in between; their share of a step's time says how close the step is to what the
hardware and its library can do.
"""

import functools
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_weight

from polyp_utils.bench.layers import Layer, layers_of
from polyp_utils.common.device import Compute
from polyp_utils.model.unet import UNet, input_gradient

_USUAL = "channels last"
_MATRIX = 2048  # side of the matrices
_COPY_BYTES = 2**28


def synchronise(compute: Compute) -> None:
    """Waits until the device is idle."""
    if compute.device.type == "cuda":
        torch.cuda.synchronize(compute.device)
    elif compute.device.type == "mps":
        torch.mps.synchronize()


def seconds_per_call(work: Callable[[], object], compute: Compute) -> float:
    """Seconds per call; on a GPU, where a call only queues work, the mean of twenty."""
    calls = 1 if compute.device.type == "cpu" else 20
    synchronise(compute)
    start = time.perf_counter()
    for _ in range(calls):
        work()
    synchronise(compute)
    return (time.perf_counter() - start) / calls


def measured(work: Callable[[], object], compute: Compute, repeats: int = 5) -> np.ndarray:
    """Seconds per call, (repeats,), after a warm-up call."""
    work()
    return np.array([seconds_per_call(work, compute) for _ in range(repeats)])


def matrix_product(compute: Compute, repeats: int = 5) -> np.ndarray:
    """FLOP/s of a square matrix product in the compute's precision, (repeats,)."""
    a, b = (
        torch.randn(_MATRIX, _MATRIX, dtype=compute.dtype, device=compute.device) for _ in range(2)
    )
    return 2 * _MATRIX**3 / measured(lambda: a @ b, compute, repeats)


def memory_copy(compute: Compute, repeats: int = 5) -> np.ndarray:
    """Bytes per second read plus written by a copy of 256 MiB, (repeats,)."""
    source = torch.ones(_COPY_BYTES, dtype=torch.uint8, device=compute.device)
    target = torch.empty_like(source)
    return 2 * _COPY_BYTES / measured(lambda: target.copy_(source), compute, repeats)


def one_convolution(compute: Compute, repeats: int = 5) -> np.ndarray:
    """FLOP/s of the forward pass of a 3×3 convolution of 256 channels at 64², batch 8."""
    layer = Convolution("3×3", (8, 256, 64, 64), (256, 256, 3, 3), False, False)
    return layer.flops / measured(layer.passes(compute)["forward"][_USUAL], compute, repeats)


class Convolution(Layer):
    """A convolution whose passes can be timed."""

    def passes(self, compute: Compute) -> dict[str, dict[str, Callable[[], Tensor]]]:
        """Calls that compute each of `PASSES` (the input gradient if it is needed).

        Tensors are channels last, as in training. A transposed convolution without overlap is a
        matrix product per pixel, so it is computed as a 1×1 convolution.

        Returns:
            By pass, by way: the weight gradient of a 3×3 convolution also from contiguous copies
            and from matrix products.
        """
        shape = self.weight
        if self.transposed:
            c_in, c_out, *kernel = self.weight
            shape = (c_out * int(np.prod(kernel)), c_in, 1, 1)
        x, w = (
            torch.randn(size, dtype=compute.dtype, device=compute.device).to(
                memory_format=torch.channels_last
            )
            for size in (self.inputs, shape)
        )
        padding = shape[-1] // 2
        forward = partial(F.conv2d, x, w, padding=padding)
        grad = torch.randn_like(forward())
        of_weight: dict[str, Callable[[], Tensor]] = {
            _USUAL: lambda: conv2d_weight(x, shape, grad, padding=padding)
        }
        if shape[-1] == 3:
            of_weight["contiguous"] = lambda: conv2d_weight(
                x.contiguous(), shape, grad.contiguous(), padding=padding
            )
            of_weight["products"] = lambda: weight_gradient_by_products(x, grad)
        calls: dict[str, dict[str, Callable[[], Tensor]]] = {"forward": {_USUAL: forward}}
        if self.has_gradient:
            calls["input gradient"] = {_USUAL: partial(input_gradient, grad, x, w)}
        return {**calls, "weight gradient": of_weight}


def weight_gradient_by_products(x: Tensor, grad: Tensor) -> Tensor:
    """Weight gradient (O, C, 3, 3) of a 3×3 convolution with padding 1, as matrix products.

    One product per kernel row and image, over the image's pixels, with the row's three columns
    side by side.

    Args:
        x: input (B, C, H, W), fastest in channels last.
        grad: gradient of the output (B, O, H, W), likewise.
    """
    _, channels, height, width = x.shape
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))  # (B, H+2, W+2, C)
    columns = torch.cat([padded[:, :, j : j + width] for j in range(3)], dim=3)  # (B, H+2, W, 3C)
    grad_BOP = grad.permute(0, 2, 3, 1).flatten(1, 2).transpose(1, 2)  # P pixels
    rows = [(grad_BOP @ columns[:, i : i + height].flatten(1, 2)).sum(dim=0) for i in range(3)]
    return torch.stack(rows, dim=1).unflatten(2, (3, channels)).permute(0, 3, 1, 2)


def convolutions(width: int, image_size: int, batch: int, classes: int = 3) -> list[Convolution]:
    """All convolutions of the U-Net, in the order of the forward pass."""
    return [Convolution(*layer) for layer in layers_of(width, image_size, batch, classes)]


@functools.cache
def training_flops(width: int, image_size: int, batch: int, classes: int = 3) -> int:
    """FLOPs of a training step, forward and backward, as `torch.utils.flop_counter` counts."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        model = UNet(3, classes, width)
        model(torch.empty(batch, 3, image_size, image_size)).sum().backward()
    return int(counter.get_total_flops())
