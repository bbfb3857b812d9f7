"""U-Nets of the card's shape as other people write them, each with its own conventions.

Nothing here comes from the package: each is the reference for its own weights. The batch norms'
statistics come from noise like the network's input, so that no layer is dead.
"""

import itertools
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
WIDTH = 4


class DoubleConv(nn.Module):
    def __init__(self, a, b):
        super().__init__()
        self.double_conv = nn.Sequential(
            nn.Conv2d(a, b, 3, padding=1, bias=False),
            nn.BatchNorm2d(b),
            nn.ReLU(inplace=True),
            nn.Conv2d(b, b, 3, padding=1, bias=False),
            nn.BatchNorm2d(b),
            nn.ReLU(inplace=True),
        )

    def forward(self, x):
        return self.double_conv(x)


class UpsampledFirst(nn.Module):
    """Stages named one by one; the upsampled maps come first in the concatenation."""

    choices: ClassVar = {"skip": "last"}

    def __init__(self, w=WIDTH):
        super().__init__()
        self.inc = DoubleConv(3, w)
        self.down1, self.down2 = DoubleConv(w, 2 * w), DoubleConv(2 * w, 4 * w)
        self.down3, self.down4 = DoubleConv(4 * w, 8 * w), DoubleConv(8 * w, 16 * w)
        for i, c in enumerate((8 * w, 4 * w, 2 * w, w), start=1):
            setattr(self, f"up{i}", nn.ConvTranspose2d(2 * c, c, 2, stride=2))
            setattr(self, f"conv{i}", DoubleConv(2 * c, c))
        self.reduce = nn.Sequential(
            nn.Conv2d(w, w // 2, 3, padding=1, bias=False), nn.BatchNorm2d(w // 2), nn.ReLU()
        )
        self.outc = nn.Conv2d(w // 2, 3, 1)

    def forward(self, x):
        x1 = self.inc(x)
        x2 = self.down1(F.max_pool2d(x1, 2))
        x3 = self.down2(F.max_pool2d(x2, 2))
        x4 = self.down3(F.max_pool2d(x3, 2))
        x = self.down4(F.max_pool2d(x4, 2))
        x = self.conv1(torch.cat([self.up1(x), x4], dim=1))
        x = self.conv2(torch.cat([self.up2(x), x3], dim=1))
        x = self.conv3(torch.cat([self.up3(x), x2], dim=1))
        x = self.conv4(torch.cat([self.up4(x), x1], dim=1))
        return self.outc(self.reduce(x))

    def seen(self, frames):
        """Frames, RGB in [0, 1], as its training saw them."""
        return frames


class ImageNetNormalised(nn.Module):
    """Flat lists of layers, one per kind; the input is normalised by ImageNet's mean and std."""

    choices: ClassVar = {"mean": [*IMAGENET_MEAN], "std": [*IMAGENET_STD]}

    def __init__(self, w=WIDTH):
        super().__init__()
        down = [3, w, w, 2 * w, 2 * w, 4 * w, 4 * w, 8 * w, 8 * w, 16 * w, 16 * w]
        pairs = [*itertools.pairwise(down)]
        for c in (8 * w, 4 * w, 2 * w, w):
            pairs += [(2 * c, c), (c, c)]
        pairs.append((w, w // 2))
        self.norms = nn.ModuleList(nn.BatchNorm2d(b) for _, b in pairs)
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1, bias=False) for a, b in pairs)
        self.ups = nn.ModuleList(
            nn.ConvTranspose2d(2 * c, c, 2, 2) for c in (8 * w, 4 * w, 2 * w, w)
        )
        self.logits = nn.Conv2d(w // 2, 3, 1)

    def forward(self, x):
        layers, skips = zip(self.convs, self.norms, strict=True), []

        def step(x):
            conv, norm = next(layers)
            return F.relu(norm(conv(x)))

        for _ in range(4):
            skips.append(step(step(x)))
            x = F.max_pool2d(skips[-1], 2)
        x = step(step(x))
        for up in self.ups:
            x = step(step(torch.cat((skips.pop(), up(x)), 1)))
        return self.logits(step(x))

    def seen(self, frames):
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
        return (frames - mean) / std


class ConvNormAct(nn.Module):
    """A convolution with a bias, though a batch norm follows."""

    def __init__(self, a, b, size=3):
        super().__init__()
        self.conv = nn.Conv2d(a, b, size, padding=size // 2)
        self.bn = nn.BatchNorm2d(b)

    def forward(self, x):
        return torch.relu(self.bn(self.conv(x)))


class Level(nn.Module):
    """One level of a recursive U-Net: it holds the deeper levels."""

    def __init__(self, c_in, c, depth):
        super().__init__()
        self.a, self.b = ConvNormAct(c_in, c), ConvNormAct(c, c)
        if depth:
            self.pool = nn.MaxPool2d(2)
            self.deeper = Level(c, 2 * c, depth - 1)
            self.grow = nn.ConvTranspose2d(2 * c, c, 2, stride=2)
            self.c, self.d = ConvNormAct(2 * c, c), ConvNormAct(c, c)
        self.depth = depth

    def forward(self, x):
        x = self.b(self.a(x))
        if not self.depth:
            return x
        return self.d(self.c(torch.cat([x, self.grow(self.deeper(self.pool(x)))], dim=1)))


class Biased(nn.Module):
    """Nested level in level; convolutions have biases, and the reduction is 1×1; one logit."""

    choices: ClassVar = {"scheme": "binary"}

    def __init__(self, w=WIDTH):
        super().__init__()
        self.top = Level(3, w, 4)
        self.squeeze = ConvNormAct(w, w // 2, size=1)
        self.classify = nn.Conv2d(w // 2, 1, 1)

    def forward(self, x):
        return self.classify(self.squeeze(self.top(x)))

    def seen(self, frames):
        return frames


class Wrapped(nn.Module):
    """Trained on OpenCV's frames, BGR from 0 to 255, with Keras's eps; saved from wrappers."""

    choices: ClassVar = {
        "channels": "BGR",
        "range": 255,
        "mean": [103.5, 116.3, 123.7],
        "std": [57.4, 57.1, 58.4],
        "eps": 1e-3,
    }

    def __init__(self, w=WIDTH):
        super().__init__()
        widths = [w * 2**i for i in range(5)]
        self.enc = nn.ModuleDict(
            {f"s{i}": self.stage(a, b) for i, (a, b) in enumerate(itertools.pairwise([3, *widths]))}
        )
        self.dec = nn.ModuleDict({f"s{i}": self.stage(2 * widths[i], widths[i]) for i in range(4)})
        self.tconv = nn.ModuleDict(
            {f"s{i}": nn.ConvTranspose2d(2 * widths[i], widths[i], 2, 2) for i in range(4)}
        )
        self.neck = nn.Conv2d(w, w // 2, 3, padding=1, bias=False)
        self.neck_bn = nn.BatchNorm2d(w // 2, eps=1e-3)
        self.final = nn.Conv2d(w // 2, 3, 1)

    @staticmethod
    def stage(a, b):
        parts = {
            "conv1": nn.Conv2d(a, b, 3, padding=1, bias=False),
            "conv2": nn.Conv2d(b, b, 3, padding=1, bias=False),
            "bn1": nn.BatchNorm2d(b, eps=1e-3),
            "bn2": nn.BatchNorm2d(b, eps=1e-3),
        }
        return nn.ModuleDict(parts)

    @staticmethod
    def run(x, stage):
        x = F.relu(stage["bn1"](stage["conv1"](x)))
        return F.relu(stage["bn2"](stage["conv2"](x)))

    def forward(self, x):
        maps = []
        for i in range(5):
            x = self.run(F.max_pool2d(x, 2) if i else x, self.enc[f"s{i}"])
            maps.append(x)
        for i in (3, 2, 1, 0):
            x = self.run(torch.cat((maps[i], self.tconv[f"s{i}"](x)), 1), self.dec[f"s{i}"])
        return self.final(F.relu(self.neck_bn(self.neck(x))))

    def seen(self, frames):
        mean, std = (torch.tensor(self.choices[v]).view(1, 3, 1, 1) for v in ("mean", "std"))
        return (frames.flip(1) * 255 - mean) / std

    def checkpoint(self):
        """As training with `torch.compile` in DataParallel leaves it."""
        state = {f"module._orig_mod.{name}": t for name, t in self.state_dict().items()}
        return {"epoch": 19, "model_state_dict": state, "args": {"lr": 1e-4}}


KINDS = (UpsampledFirst, ImageNetNormalised, Biased, Wrapped)


def make(kind):
    """One with random weights and statistics of noise, in evaluation mode."""
    torch.manual_seed(0)
    network = kind()
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.bias, -0.3, 0.3)
    with torch.no_grad():
        network.train()(network.seen(torch.rand(4, 3, 32, 32)))
    return network.eval()
