"""What the machine can do: matrix products, copies, and the convolutions of this network alone.

A training step cannot be faster than its convolutions. Their time is measured layer by layer, for
the forward pass and both gradients, with nothing between them; its share in the time of a step
says how close the step is to what the hardware and its library can do.
"""

import functools
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from polyp_utils.bench.layers import Layer, layers_of
from polyp_utils.device import Compute
from polyp_utils.model import UNet

_MATRIX = 2048  # side of the matrices
_COPY_BYTES = 2**28


def synchronise(compute: Compute) -> None:
    """Waits for the device."""
    if compute.device.type == "cuda":
        torch.cuda.synchronize(compute.device)
    elif compute.device.type == "mps":
        torch.mps.synchronize()


def seconds_per_call(work: Callable[[], object], compute: Compute) -> float:
    """Time of a call; on a GPU, where a call only asks for work, the mean of twenty."""
    calls = 1 if compute.device.type == "cpu" else 20
    synchronise(compute)
    start = time.perf_counter()
    for _ in range(calls):
        work()
    synchronise(compute)
    return (time.perf_counter() - start) / calls


def measured(work: Callable[[], object], compute: Compute, repeats: int = 5) -> np.ndarray:
    """Seconds of a call, (repeats,), after one that warms up."""
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
    return layer.flops / measured(layer.passes(compute)["forward"], compute, repeats)


class Convolution(Layer):
    """A convolution whose passes can be timed."""

    def passes(self, compute: Compute) -> dict[str, Callable[[], object]]:
        """Calls that compute each of `PASSES` (the input's gradient if it needs one), in memory.

        Channels last. A transposed convolution that does not overlap is a matrix product per
        pixel, and is the 1×1 convolution that it is.
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
        forward = partial(torch.nn.functional.conv2d, x, w, padding=padding)
        grad = torch.randn_like(forward())

        def gradient(*mask: bool) -> Callable[[], object]:
            fixed = ([1, 1], padding, [1, 1], False, [0, 0], 1, [*mask, False])
            return partial(torch.ops.aten.convolution_backward, grad, x, w, None, *fixed)

        both = {"input gradient": gradient(True, False), "weight gradient": gradient(False, True)}
        if not self.has_gradient:
            del both["input gradient"]
        return {"forward": forward, **both}


def convolutions(width: int, image_size: int, batch: int, classes: int = 3) -> list[Convolution]:
    """All convolutions of the U-Net, in the order of the forward pass."""
    return [Convolution(*layer) for layer in layers_of(width, image_size, batch, classes)]


@functools.cache
def training_flops(width: int, image_size: int, batch: int, classes: int = 3) -> int:
    """Of one training step, forward and backward, as `torch.utils.flop_counter` counts them."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        model = UNet(3, classes, width)
        model(torch.empty(batch, 3, image_size, image_size)).sum().backward()
    return int(counter.get_total_flops())
