"""The U-Net of the model card (B batch, C channels, H height, W width)."""

import itertools
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

from polyp_utils.model.sound import check_numbers

STRIDE = 16  # four poolings


class ConvBlock(nn.Sequential):
    """(3×3 convolution, batch norm, ReLU) × 2; the convolutions need no bias before the norm."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(*conv_bn_relu(c_in, c_out), *conv_bn_relu(c_out, c_out))


def conv_bn_relu(c_in: int, c_out: int) -> tuple[nn.Module, ...]:
    """3×3 convolution (padding 1, no bias), batch norm, ReLU."""
    return Conv3x3(c_in, c_out), nn.BatchNorm2d(c_out), nn.ReLU(inplace=True)


class Conv3x3(nn.Conv2d):
    """3×3 convolution, padding 1, no bias; with a faster gradient where oneDNN's is slow.

    On a CPU with AVX2 but not AVX-512, oneDNN computes output and input gradient faster in channels
    last, but with 32 or more channels its weight gradient then takes up to three times as long as
    from contiguous tensors, copies included. (For bf16 and AVX-512 it has better kernels.)
    """

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(c_in, c_out, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) -> (B, c_out, H, W)."""
        on_avx2 = x.device.type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX2"
        slow = on_avx2 and self.in_channels >= 32 and not torch.is_autocast_enabled("cpu")
        if self.training and slow:
            return _Conv3x3.apply(x, self.weight)
        return super().forward(x)


class _Conv3x3(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, padding=1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor]:
        x, weight = ctx.saved_tensors
        of_x = input_gradient(grad, x, weight) if ctx.needs_input_grad[0] else None
        return of_x, conv2d_weight(x.contiguous(), weight.shape, grad.contiguous(), padding=1)


def input_gradient(grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Gradient of a convolution's input, (B, C, H, W).

    By the operation that autograd calls: `torch.nn.grad.conv2d_input` is not told the layout of x,
    and takes a sixth longer on a CPU, three times as long on a GPU.

    Args:
        grad: gradient of the output (B, O, H, W).
        x: the input (B, C, H, W); its values do not matter.
        weight: (O, C, K, K), K odd; padding is K // 2.
    """
    places = [1, 1], [weight.shape[-1] // 2] * 2, [1, 1], False, [0, 0], 1
    wanted = [True, False, False]  # of x, weight, bias
    return torch.ops.aten.convolution_backward(grad, x, weight, None, *places, wanted)[0]


class UpConv(nn.ConvTranspose2d):
    """2×2 transposed convolution with stride 2; computed in training as a 1×1 convolution.

    Its four taps never overlap, so it equals a 1×1 convolution to four times the channels, whose
    results are arranged as 2×2 pixels. On a CPU the gradients then take a third of the time.
    """

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(c_in, c_out, 2, stride=2)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """(B, c_in, H, W) -> (B, c_out, 2H, 2W)."""
        if not self.training or self.bias is None:
            return super().forward(x, output_size)
        batch, _, height, width = x.shape
        out = self.out_channels  # explicit: with an empty batch no dimension can be inferred
        weight = self.weight.permute(2, 3, 1, 0).flatten(0, 2)[..., None, None]
        y = F.conv2d(x, weight, self.bias.repeat(4)).permute(0, 2, 3, 1)  # (B, H, W, 2·2·c_out)
        y = y.reshape(batch, height, width, 2, 2 * out).transpose(2, 3)  # (B, H, 2, W, 2·c_out)
        return y.reshape(batch, 2 * height, 2 * width, out).permute(0, 3, 1, 2)


class UNet(nn.Module):
    """U-Net: 4 encoder stages, bottleneck, 4 decoder stages with skips, reduction head, 1×1 output.

    Parameters at width 64 with 3 classes, by stage, in forward order (31,056,163 in total)::

        encoder      38,848 + 221,696 + 885,760 + 3,540,992
        bottleneck   14,159,872
        up            2,097,664 + 524,544 + 131,200 + 32,832
        decoder       7,079,936 + 1,770,496 + 442,880 + 110,848
        head         18,496
        output       99

    What the card leaves open is decided here: a block's convolutions have no bias, upsampling is
    a 2×2 transposed convolution, the skip comes first in the concatenation, the reduction is 3×3.
    """

    def __init__(self, in_channels: int = 3, num_classes: int = 3, width: int = 64) -> None:
        """Builds the network; ``width`` is the channel count of the first stage (the card: 64)."""
        super().__init__()
        widths = [width * 2**i for i in range(5)]  # 64, 128, 256, 512, 1024
        pairs = list(itertools.pairwise(widths))
        self.encoder = nn.ModuleList(
            ConvBlock(a, b) for a, b in zip([in_channels, *widths[:3]], widths[:4], strict=True)
        )
        self.pool = nn.MaxPool2d(2)
        self.bottleneck = ConvBlock(widths[3], widths[4])
        self.up = nn.ModuleList(UpConv(b, a) for a, b in pairs[::-1])
        self.decoder = nn.ModuleList(ConvBlock(2 * a, a) for a, _ in pairs[::-1])
        self.head = nn.Sequential(*conv_bn_relu(width, width // 2))
        self.output = nn.Conv2d(width // 2, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Maps images (B, in_channels, H, W) in [0, 1] to logits (B, num_classes, H, W).

        Raises:
            ValueError: a height or width that is not a multiple of 16; the message names the
                nearest ones.
        """
        check_size(*x.shape[-2:])
        skips = []
        for block in self.encoder:
            x = block(x)  # (B, width·2^i, H/2^i, W/2^i)
            skips.append(x)
            x = self.pool(x)
        x = self.bottleneck(x)
        for up, block in zip(self.up, self.decoder, strict=True):
            x = block(torch.cat([skips.pop(), up(x)], dim=1))
        return self.output(self.head(x))

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """As in PyTorch.

        Raises:
            WeightsError: numbers that no network can use, such as NaN.
        """
        check_numbers("the state_dict", state_dict)
        return super().load_state_dict(state_dict, *args, **kwargs)


def check_size(height: int, width: int) -> None:
    """Rejects sizes that four poolings cannot halve evenly.

    Padding inside the network would add a false border, and prediction resizes frames anyway.
    """
    for name, size in (("height", height), ("width", width)):
        if size % STRIDE or size < STRIDE:
            below = max(STRIDE, size // STRIDE * STRIDE)
            near = f"{below} and {below + STRIDE}" if size > STRIDE else f"{STRIDE}"
            raise ValueError(f"{name} is {size}, not a multiple of {STRIDE}; nearest are {near}")


def stage_table(model: UNet, image_size: int) -> list[dict[str, str]]:
    """Output shape and parameter count of each stage for a square input, in forward order."""
    blocks = [(f"encoder {i + 1}", [block], i) for i, block in enumerate(model.encoder)]
    blocks.append(("bottleneck", [model.bottleneck], 4))
    pairs = zip(model.up, model.decoder, strict=True)
    blocks += [(f"up and decoder {i + 1}", list(pair), 3 - i) for i, pair in enumerate(pairs)]
    blocks += [("head", [model.head], 0), ("output", [model.output], 0)]
    width = 2 * model.output.in_channels
    channels = {"head": width // 2, "output": model.output.out_channels}
    return [
        {
            "stage": name,
            "output": f"{channels.get(name, width * 2**depth)} × {image_size // 2**depth}²",
            "parameters": f"{sum(p.numel() for m in modules for p in m.parameters()):,}",
        }
        for name, modules, depth in blocks
    ]
