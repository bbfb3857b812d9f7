"""Per-image overlap scores from pixel counts.

**Absent classes.** One rule, here and in every table: a class absent from target and prediction
scores NaN and is left out of the mean; one absent from the target but predicted, or present but
not predicted, scores 0. `batch_dice` offers other conventions; `card_dice` is the model card's.

Shapes: B batch, C classes, H height, W width. Averaging is left to the caller.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

CARD_BATCH = 8


class Counts(NamedTuple):
    """Pixels per image and class, each int64 (B, C): true/false positives and negatives."""

    tp: Tensor
    fp: Tensor
    fn: Tensor
    tn: Tensor


def count(prediction: Tensor, target: Tensor, num_classes: int) -> Counts:
    """Pixel counts per image and class.

    Args:
        prediction: class indices (B, H, W), integer or bool.
        target: likewise.
        num_classes: C; 2 for binary masks, where class 1 is polyp.

    Raises:
        ValueError: the shapes differ, values are floats, or an index lies outside 0 … C − 1.
    """
    return counts_of(confusion_matrix(prediction, target, num_classes))


def counts_of(matrices: Tensor) -> Counts:
    """Counts (B, C) from confusion matrices (B, C, C)."""
    tp = matrices.diagonal(dim1=1, dim2=2)
    fp, fn = matrices.sum(dim=1) - tp, matrices.sum(dim=2) - tp
    return Counts(tp, fp, fn, tn=matrices.sum(dim=(1, 2))[:, None] - tp - fp - fn)


def confusion_matrix(prediction: Tensor, target: Tensor, num_classes: int) -> Tensor:
    """Pixels per image and pair of classes, int64 (B, C, C), on the CPU.

    Rows are the target's classes, columns the prediction's.

    Args and errors as in `count`.
    """
    if prediction.shape != target.shape or prediction.ndim != 3:
        raise ValueError(
            f"prediction {tuple(prediction.shape)} and target {tuple(target.shape)}: both must be "
            "class indices (B, H, W) of the same shape"
        )
    cell = target.long() * num_classes + prediction.long()
    for name, values in (("prediction", prediction), ("target", target)):
        if values.is_floating_point():
            raise ValueError(f"{name} is {values.dtype}; give class indices, integer or bool")
        if values.numel() and not 0 <= int(values.min()) <= int(values.max()) < num_classes:
            raise ValueError(
                f"{name} holds class {int(values.min())} … {int(values.max())}; with "
                f"{num_classes} classes, indices must lie in 0 … {num_classes - 1}"
            )
    batch = prediction.shape[0]
    cells = num_classes**2
    cell += torch.arange(batch, device=cell.device).view(-1, 1, 1) * cells
    matrices = torch.bincount(cell.flatten(), minlength=batch * cells)
    return matrices.view(batch, num_classes, -1).cpu()  # scores are float64, which MPS lacks


def dice(counts: Counts) -> Tensor:
    """2·TP / (2·TP + FP + FN), float64 (B, C) in [0, 1]; absent classes by the module's rule."""
    return _score(2 * counts.tp, 2 * counts.tp + counts.fp + counts.fn, counts)


def iou(counts: Counts) -> Tensor:
    """TP / (TP + FP + FN), float64 (B, C) in [0, 1]; absent classes by the module's rule."""
    return _score(counts.tp, counts.tp + counts.fp + counts.fn, counts)


def precision(counts: Counts) -> Tensor:
    """TP / (TP + FP), float64 (B, C) in [0, 1]; absent classes by the module's rule."""
    return _score(counts.tp, counts.tp + counts.fp, counts)


def recall(counts: Counts) -> Tensor:
    """TP / (TP + FN), float64 (B, C) in [0, 1]; absent classes by the module's rule."""
    return _score(counts.tp, counts.tp + counts.fn, counts)


def specificity(counts: Counts) -> Tensor:
    """TN / (TN + FP), float64 (B, C) in [0, 1]; NaN where the class fills the whole target."""
    negatives = counts.tn + counts.fp
    return torch.where(negatives == 0, torch.nan, counts.tn.double() / negatives.clamp(min=1))


def batch_dice(counts: Counts, size: int = CARD_BATCH, absent: float = math.nan) -> Tensor:
    """Dice pooled over the pixels of each ``size`` consecutive images.

    Args:
        counts: per image and class, (B, C).
        size: images per batch; 1: each alone; 0: all together.
        absent: score of a class absent from target and prediction throughout a batch.

    Returns:
        float64 (ceil(B / size), C).
    """
    images, classes = counts.tp.shape
    batch = torch.arange(images) // (size or max(images, 1))
    empty = torch.zeros(int(batch[-1]) + 1, classes, dtype=torch.int64)
    return dice(Counts(*(empty.index_add(0, batch, c) for c in counts))).nan_to_num(nan=absent)


def card_dice(counts: Counts) -> float:
    """The mean Dice that explains the card's: a class absent from a batch scores 1.

    Pixels pooled over batches of 8 images; mean over all classes, background included, then over
    batches.
    """
    return float(batch_dice(counts, CARD_BATCH, absent=1.0).mean())


def _score(numerator: Tensor, denominator: Tensor, counts: Counts) -> Tensor:
    absent = counts.tp + counts.fp + counts.fn == 0
    score = numerator.double() / denominator.clamp(min=1)
    return torch.where(absent, torch.nan, score)
