"""The plain loop that people write, the baseline of every claim about speed.

float32, contiguous, a `DataLoader` whose workers decode and resize JPEGs every epoch, the loss read
at each step, as in the well-known U-Net repositories (milesial/Pytorch-UNet and its kin). Network,
loss and optimizer are ours; the rest is written as one would after reading their code.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from polyp_utils.data.labels import get_scheme
from polyp_utils.model.losses import CombinedLoss
from polyp_utils.model.unet import UNet

WORKERS = 2


class JpegFolder(Dataset[tuple[Tensor, Tensor]]):
    """Frames float32 (3, S, S) and mask levels uint8 (S, S), decoded at each access."""

    def __init__(self, pairs: Sequence[tuple[Path, Path]], image_size: int) -> None:
        self.pairs, self.size = pairs, (image_size, image_size)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image_path, mask_path = self.pairs[index]
        image = Image.open(image_path).convert("RGB").resize(self.size, Image.Resampling.BILINEAR)
        mask = Image.open(mask_path).convert("L").resize(self.size, Image.Resampling.NEAREST)
        pixels = torch.from_numpy(np.asarray(image, dtype=np.float32) / 255).permute(2, 0, 1)
        return pixels.contiguous(), torch.from_numpy(np.asarray(mask).copy())


class PlainLoop:
    """A network in training; `steps` runs endlessly, one optimizer step at a time."""

    def __init__(
        self,
        pairs: Sequence[tuple[Path, Path]],
        width: int,
        image_size: int,
        batch_size: int,
        device: torch.device,
        lr: float = 1e-4,
        seed: int = 0,
        order: Sampler[int] | None = None,
    ) -> None:
        """``order``: the order of the frames; None: shuffled."""
        torch.manual_seed(seed)
        self.device = device
        self.scheme = get_scheme("trimap")
        self.model = UNet(3, self.scheme.logits, width).to(device)
        self.loss = CombinedLoss()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=lr)
        data = JpegFolder(pairs, image_size)
        shuffle = order is None
        self.loader = DataLoader(data, batch_size, shuffle, order, num_workers=WORKERS)

    def steps(self) -> Iterator[float]:
        """The loss of each step."""
        while True:
            for images, masks in self.loader:
                self.model.train()  # validation may have come in between
                logits = self.model(images.to(self.device))
                loss = self.loss(logits, self.scheme.encode(masks.to(self.device)))
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
                yield loss.item()

    @torch.no_grad()
    def validate(self) -> float:
        """Mean loss over the data."""
        self.model.eval()
        losses = []
        for images, masks in self.loader:
            logits = self.model(images.to(self.device))
            losses.append(self.loss(logits, self.scheme.encode(masks.to(self.device))).item())
        return float(np.mean(losses))
