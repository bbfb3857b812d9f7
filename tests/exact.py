"""Networks in float64, so that what should be equal is equal to ten digits on every CPU.

In float32, rounding would decide: Adam turns that of a gradient near 0 into a full step.
"""

import contextlib
from collections.abc import Iterator
from unittest import mock

from torch import Tensor

from polyp_utils.model.unet import UNet


@contextlib.contextmanager
def float64() -> Iterator[None]:
    """Networks made within this context compute in float64, from float32 images up to the loss."""
    make, forward = UNet.__init__, UNet.forward

    def make_double(self: UNet, *arguments: int, **settings: int) -> None:
        make(self, *arguments, **settings)
        self.double()

    def cast_and_forward(self: UNet, x: Tensor) -> Tensor:  # a frozen copy is float32 again
        return forward(self, x.to(self.output.weight.dtype))

    with mock.patch.multiple(UNet, __init__=make_double, forward=cast_and_forward):
        yield
