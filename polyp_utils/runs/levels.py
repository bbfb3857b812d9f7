"""Class probabilities in 8 bits, as a run stores them: one level per class except the background.

The background gets the remainder, so they sum to 1 up to rounding (at most 1/510 per class).
"""

import torch
from torch import Tensor

_ROUNDING = 1e-3  # what a sum of bf16 probabilities may be off


def to_levels(probabilities: Tensor, name: str = "") -> Tensor:
    """Probabilities, float (C, H, W) in [0, 1], as uint8 (C - 1, H, W).

    Args:
        probabilities: of a frame.
        name: of the frame, for the message.

    Raises:
        ValueError: NaN, or not in [0, 1] but for rounding.
    """
    least, most = (float(end) for end in probabilities.aminmax())
    if not -_ROUNDING <= least <= most <= 1 + _ROUNDING:  # not of NaN either
        raise ValueError(
            f"prediction {name} holds {least:g} … {most:g}: probabilities must lie in [0, 1]"
        )
    return (probabilities[1:].float() * 255).round().to(torch.uint8)


def from_levels(levels: Tensor) -> Tensor:
    """Levels, uint8 (C - 1, H, W), as probabilities, float32 (C, H, W)."""
    rest = levels.float() / 255
    return torch.cat([(1 - rest.sum(dim=0, keepdim=True)).clamp(min=0), rest])
