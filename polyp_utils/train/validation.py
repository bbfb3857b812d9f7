"""How good a model is on a part of the data, at network size: what training looks at."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from polyp_utils.common.device import Compute, free_memory
from polyp_utils.common.processes import spread
from polyp_utils.data.cache import Rows
from polyp_utils.data.dataset import PolypDataset
from polyp_utils.data.labels import Scheme, is_polyp
from polyp_utils.data.splits import PARTS, Split
from polyp_utils.data.transforms import to_device, to_input
from polyp_utils.model.losses import CombinedLoss
from polyp_utils.model.predict import to_probabilities
from polyp_utils.score.overlap import count, dice


@dataclass(frozen=True)
class Data:
    """One part of a split: uint8 images (N, 3, S, S) and mask levels (N, S, S).

    Attributes:
        ids: of the frames, length N.
        images, masks: on the device, or rows of the data set's memory map.
        device: where batches are wanted.
    """

    ids: tuple[str, ...]
    images: Tensor | Rows
    masks: Tensor | Rows
    device: torch.device

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Input floats (B, 3, S, S) and mask levels (B, S, S) of rows int64 (B,) on the CPU."""
        if isinstance(self.images, Tensor):
            rows = to_device(rows, self.images.device)  # else CUDA is waited for
        return to_input(self.images[rows], self.device), to_device(self.masks[rows], self.device)


def load_parts(dataset: PolypDataset, split: Split, device: torch.device) -> dict[str, Data]:
    """The parts of a split, ready for a device.

    A data set that takes at most half of the device's free memory goes there at once: the other
    half is for network and activations. Of a larger one, and on the CPU, each batch is read from
    the memory map when its turn comes.

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


@torch.inference_mode()
def validate(
    model: nn.Module,
    data: Data,
    scheme: Scheme,
    loss: CombinedLoss,
    compute: Compute,
    batch_size: int,
    beat: Callable[[], object] = lambda: None,
) -> dict[str, float]:
    """Losses, Dice per class and polyp Dice: per image at network size, then the mean.

    Several processes share the work, batch by batch; each returns the same. ``beat`` is called at
    each batch.

    Returns:
        ``loss``, ``ce``, ``dice_loss``, ``dice_<class>`` and ``polyp_dice``.
    """
    model.eval()

    def one(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        beat()
        images, masks = data.batch(rows)
        with compute.autocast():
            logits = model(images)
        target = scheme.encode(masks)
        ce, dice_loss = loss.terms(logits, target)
        probabilities = to_probabilities(logits)
        counts = count(probabilities.argmax(dim=1), target, len(scheme.classes))
        polyp = scheme.polyp_probability(probabilities) > 0.5
        polyp_dice = dice(count(polyp, is_polyp(masks), 2))[:, 1]
        losses = torch.stack([ce, dice_loss]).cpu() * len(images)
        return losses, dice(counts).cpu(), polyp_dice.cpu()

    batches = torch.arange(len(data)).split(batch_size)
    losses, class_dice, polyp_dice = zip(*spread(one, batches), strict=True)
    ce, dice_loss = (torch.stack(losses).sum(0) / len(data)).tolist()
    means = torch.cat(class_dice).nanmean(dim=0).tolist()
    return {
        "loss": loss.ce_weight * ce + loss.dice_weight * dice_loss,
        "ce": ce,
        "dice_loss": dice_loss,
        **{f"dice_{name}": v for name, v in zip(scheme.classes, means, strict=True)},
        "polyp_dice": float(torch.cat(polyp_dice).nanmean()),
    }
