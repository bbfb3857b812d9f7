"""The card's loss: 0.5 × cross-entropy + 0.5 × soft Dice, and its binary sibling.

Shapes: B batch, C classes, H height, W width. Logits of any float type are first converted to
float32 (float64 stays as it is), so bf16 networks and logits of ±1e4 are safe.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPSILON = 1e-6


def soft_dice(probabilities: Tensor, target: Tensor) -> Tensor:
    """Soft Dice per class, 2·Σpt / (Σp + Σt), summed over the pixels of the batch.

    Args:
        probabilities: (B, C, H, W) in [0, 1].
        target: (B, C, H, W), 0 or 1 (one-hot).

    Returns:
        (C,) in [0, 1]; about 0 for a class absent from the target that has any probability.
    """
    dims = (0, 2, 3)
    overlap = (probabilities * target).sum(dims)
    total = probabilities.sum(dims) + target.sum(dims)
    return (2 * overlap + EPSILON) / (total + EPSILON)


class MulticlassDiceLoss(nn.Module):
    """1 − mean over classes of the soft Dice of softmax probabilities.

    With ``absent="include"`` (what the card's text says), a class absent from the batch's target
    has a Dice of about 0 as long as it has any probability: it adds 1/C to the loss, which pushes
    its probability down. With ``absent="exclude"`` it is left out of the mean, so its false
    positives cost nothing here, only in the cross-entropy; if no class remains (one logit, no polyp
    in the batch), the loss is 0. A single logit is the binary case: sigmoid instead of softmax, one
    class, polyp.
    """

    def __init__(self, absent: str = "include") -> None:
        super().__init__()
        if absent not in ("include", "exclude"):
            raise ValueError(f"absent is {absent!r}; use 'include' or 'exclude'")
        self.absent = absent

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss in [0, 1] of logits (B, C, H, W) against class indices int64 (B, H, W)."""
        logits = _check(logits, target)
        if logits.shape[1] == 1:
            probabilities, one_hot = logits.sigmoid(), target.unsqueeze(1)
        else:
            probabilities = logits.softmax(dim=1)
            one_hot = F.one_hot(target, logits.shape[1]).permute(0, 3, 1, 2)
        dice = soft_dice(probabilities, one_hot.to(logits.dtype))
        if self.absent == "include":
            return 1 - dice.mean()
        present = one_hot.sum(dim=(0, 2, 3)) > 0
        return torch.where(present, 1 - dice, 0).sum() / present.sum().clamp(min=1)


class CombinedLoss(nn.Module):
    """``ce_weight`` × cross-entropy + ``dice_weight`` × Dice loss; the card's weights are 0.5.

    With one logit the cross-entropy is the binary one. Either is the mean over the pixels of the
    batch. ``class_weights`` float (C,), if given, weight the pixels in the multi-class
    cross-entropy by their true class; their mean over the pixels of the training part should be 1
    to keep the loss on its scale (`inverse_sqrt_weights`).
    """

    def __init__(
        self,
        ce_weight: float = 0.5,
        dice_weight: float = 0.5,
        absent: str = "include",
        class_weights: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.ce_weight, self.dice_weight = ce_weight, dice_weight
        self.dice = MulticlassDiceLoss(absent)
        self.class_weights = class_weights

    def terms(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropy and Dice loss, unweighted; arguments as in `forward`."""
        logits_ = _check(logits, target)
        if logits_.shape[1] == 1:
            probability_target = target.unsqueeze(1).to(logits_.dtype)
            ce = F.binary_cross_entropy_with_logits(logits_, probability_target)
        else:
            # PyTorch's own reduction is not deterministic on CUDA
            ce = F.cross_entropy(logits_, target, self.class_weights, reduction="none").mean()
        return ce, self.dice(logits_, target)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Scalar loss of logits (B, C, H, W) against class indices int64 (B, H, W).

        Raises:
            ValueError: shapes that do not match, or a target that is not int64.
        """
        ce, dice = self.terms(logits, target)
        return self.ce_weight * ce + self.dice_weight * dice


def inverse_sqrt_weights(pixels: Tensor) -> Tensor:
    """Class weights ∝ 1/√frequency with mean 1 over the pixels, float32 (C,).

    The square root is the usual compromise: with 1/frequency a class with 1 % of the pixels would
    dominate the rest, with equal weights it would be ignored. A class without pixels gets weight 0.

    Args:
        pixels: pixel count per class, (C,).
    """
    share = pixels.double() / pixels.sum()
    weights = torch.where(share > 0, share.clamp(min=1e-12).rsqrt(), 0)
    return (weights / (weights * share).sum()).float()


def _check(logits: Tensor, target: Tensor) -> Tensor:
    """Logits in float32 or float64, after a check of shapes and target type."""
    if logits.ndim != 4 or target.shape != logits[:, 0].shape or target.dtype != torch.int64:
        raise ValueError(
            f"logits {tuple(logits.shape)} and target {target.dtype} {tuple(target.shape)}: give "
            "logits (B, C, H, W) and class indices int64 (B, H, W)"
        )
    return logits if logits.dtype == torch.float64 else logits.float()
