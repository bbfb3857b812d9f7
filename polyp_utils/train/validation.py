"""Validation during training: losses and Dice on a part of the data, at network size."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from polyp_utils.common.device import Compute
from polyp_utils.common.processes import spread
from polyp_utils.data.labels import Scheme, is_polyp
from polyp_utils.data.parts import Data
from polyp_utils.model.losses import CombinedLoss
from polyp_utils.model.predict import to_probabilities
from polyp_utils.score.overlap import count, dice


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
    """Losses, Dice per class and polyp Dice at network size.

    Losses are computed per batch and averaged by images; Dice is the mean over images. Several
    processes share the batches, and each returns the same. ``beat`` is called once per batch.
    Where a logit is not finite, the losses are NaN.

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
        unsound = 0 * logits.sum()  # NaN if a logit is not finite, which a loss may hide
        losses = (torch.stack([ce, dice_loss]) + unsound).cpu() * len(images)
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
