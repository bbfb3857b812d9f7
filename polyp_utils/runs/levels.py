"""Class probabilities in 8 bits, as a run stores them: one level per class except the background.

The background gets the remainder, so they sum to 1 up to rounding (at most 1/510 per class).
"""

import io
from pathlib import Path
from typing import IO

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

_MODES = ("L", "LA", "RGB")  # of the PNG for 2, 3 and 4 classes


def to_levels(probabilities: Tensor) -> Tensor:
    """Probabilities, float (C, H, W) in [0, 1], as uint8 (C - 1, H, W)."""
    return (probabilities[1:].float() * 255).round().to(torch.uint8)


def from_levels(levels: Tensor) -> Tensor:
    """Levels, uint8 (C - 1, H, W), as probabilities, float32 (C, H, W)."""
    rest = levels.float() / 255
    return torch.cat([(1 - rest.sum(dim=0, keepdim=True)).clamp(min=0), rest])


def to_png(levels: Tensor, file: IO[bytes] | Path) -> None:
    """Writes levels, uint8 (C - 1, H, W), C from 2 to 4, as a PNG."""
    pixels = levels.cpu().numpy()
    image = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
    image.save(file, "PNG", optimize=True)


def from_png(stored: bytes, side: int, classes: int) -> Tensor:
    """Levels, uint8 (C - 1, S, S), of a PNG; nothing of another size or mode is decoded.

    Raises:
        ValueError: another file.
    """
    mode, content = _MODES[classes - 2], io.BytesIO(stored)
    try:
        with Image.open(content, formats=["PNG"]) as image:
            found = f"{image.width}×{image.height} px of mode {image.mode}"
            if (image.mode, *image.size) != (mode, side, side):
                raise ValueError(f"{found}, not {side}×{side} px of mode {mode}")
            image.verify()  # its checksums
        with Image.open(content, formats=["PNG"]) as image:
            pixels = torch.from_numpy(np.array(image))
    except UnidentifiedImageError:
        raise ValueError("damaged: it is no PNG") from None
    except Exception as error:  # Pillow raises a dozen kinds
        raise ValueError(f"damaged ({error})") from error
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)
