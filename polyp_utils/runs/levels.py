"""Class probabilities in 8 bits, as a run stores them: one level per class except the background.

The background gets the remainder, so they sum to 1 up to rounding (at most 1/510 per class).
"""

import torch
from torch import Tensor


def to_levels(probabilities: Tensor) -> Tensor:
    """Probabilities, float (C, H, W) in [0, 1], as uint8 (C - 1, H, W)."""
    return (probabilities[1:].float() * 255).round().to(torch.uint8)


def from_levels(levels: Tensor) -> Tensor:
    """Levels, uint8 (C - 1, H, W), as probabilities, float32 (C, H, W)."""
    rest = levels.float() / 255
    return torch.cat([(1 - rest.sum(dim=0, keepdim=True)).clamp(min=0), rest])
