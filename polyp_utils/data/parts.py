"""The parts of a split as tensors, ready for a device."""

from dataclasses import dataclass

import torch
from torch import Tensor

from polyp_utils.common.device import free_memory
from polyp_utils.data.cache import Rows
from polyp_utils.data.dataset import PolypDataset
from polyp_utils.data.split import PARTS, Split
from polyp_utils.data.transforms import to_device, to_input


@dataclass(frozen=True)
class Data:
    """One part of a split: uint8 images (N, 3, S, S) and mask levels (N, S, S).

    Attributes:
        ids: frame ids, length N.
        images, masks: on the device, or rows of the data set's memory map.
        device: where batches are put.
    """

    ids: tuple[str, ...]
    images: Tensor | Rows
    masks: Tensor | Rows
    device: torch.device

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Network input (B, 3, S, S) and mask levels (B, S, S) at rows, int64 (B,) on the CPU."""
        if isinstance(self.images, Tensor):
            rows = to_device(rows, self.images.device)  # else CUDA synchronises
        return to_input(self.images[rows], self.device), to_device(self.masks[rows], self.device)


def load_parts(dataset: PolypDataset, split: Split, device: torch.device) -> dict[str, Data]:
    """The parts of a split, ready for a device.

    A data set that takes at most half of the device's free memory is copied there at once: the
    other half is for network and activations. If it is larger, and on the CPU, each batch is read
    from the memory map when needed.

    Raises:
        ValueError: an id that is not in the data set.
    """
    tensors = (dataset.images, dataset.masks)
    fits = sum(tensor.nbytes for tensor in tensors) <= free_memory(device) / 2
    parts = {}
    for part in PARTS:
        ids = split.part(part)
        rows = [Rows(tensor, dataset.rows(ids)) for tensor in tensors]
        images, masks = [r.to(device) for r in rows] if fits else rows
        parts[part] = Data(ids, images, masks, device)
    return parts
