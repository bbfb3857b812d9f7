"""What is written of a frame: its class map, its outlines, its probabilities, its thumbnail.

All files appear whole or not at all. Frames and maps are of the frame's size, (H, W).
"""

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from polyp_utils.common.files import atomic
from polyp_utils.data.labels import Scheme

# Of the classes in their order, background first (transparent); told apart by eyes of all kinds.
COLOURS = ((0, 0, 0), (255, 32, 255), (255, 190, 0), (0, 190, 255))
THUMBNAIL = 256  # pixels of its longer side
_QUALITY = 88


def save_class_map(path: Path, classes: np.ndarray, scheme: Scheme) -> None:
    """Writes class indices, uint8 (H, W), as a palette PNG.

    Its palette has `COLOURS`, background transparent; the text ``classes`` in it, a JSON object,
    has the name of each index.

    Raises:
        ValueError: a scheme of more classes than there are `COLOURS`.
    """
    if len(scheme.classes) > len(COLOURS):
        raise ValueError(f"scheme {scheme.name} has more classes than COLOURS: add colours there")
    image = Image.fromarray(classes, "P")
    image.putpalette([level for colour in COLOURS for level in colour])
    text = PngInfo()
    text.add_text("classes", json.dumps(dict(enumerate(scheme.classes))))
    with atomic(path) as temporary:
        image.save(temporary, "PNG", transparency=0, pnginfo=text, compress_level=1)


def save_probabilities(path: Path, polyp: np.ndarray) -> None:
    """Writes P(polyp), float (H, W) in [0, 1], as a grey PNG: 255 is 1."""
    with atomic(path) as temporary:
        Image.fromarray((polyp * 255).round().astype(np.uint8)).save(temporary, "PNG")


def save_jpeg(path: Path, frame: np.ndarray) -> None:
    """Writes a frame, RGB uint8 (H, W, 3), as JPEG with colours at full resolution."""
    with atomic(path) as temporary:
        Image.fromarray(frame).save(temporary, "JPEG", quality=_QUALITY, subsampling=0)


def outlined(frame: np.ndarray, masks: Sequence[np.ndarray]) -> np.ndarray:
    """A copy of a frame, RGB uint8 (H, W, 3), with the outline of each bool mask (H, W).

    The masks are of kinds of polyp; an outline has the colour of its kind, `COLOURS` from the
    second on, on a thin dark one, so that it shows on any ground.
    """
    drawn = frame.copy()
    width = max(2, round(max(frame.shape[:2]) / 400))
    for mask, colour in zip(masks, COLOURS[1:], strict=False):
        shapes, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(drawn, shapes, -1, (0, 0, 0), width + 1)
        cv2.drawContours(drawn, shapes, -1, colour, width)
    return drawn


def thumbnail(frame: np.ndarray, masks: Sequence[np.ndarray]) -> np.ndarray:
    """As `outlined`, at most `THUMBNAIL` pixels wide and high."""
    small = at_most(frame, THUMBNAIL)
    size = (small.shape[1], small.shape[0])
    parts = (mask.astype(np.uint8) for mask in masks)
    return outlined(small, [cv2.resize(p, size, interpolation=cv2.INTER_NEAREST) for p in parts])


def at_most(frame: np.ndarray, side: int) -> np.ndarray:
    """A frame, uint8 (H, W, 3), scaled down to at most so many pixels wide and high."""
    height, width = frame.shape[:2]
    scale = min(1.0, side / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
