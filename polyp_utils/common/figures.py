"""Figures as files: JPEG if they show frames, PNG if they are charts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

JPEG = {"quality": 85, "subsampling": 0}  # full-resolution colour: outlines are thin


def has_frames(figure: Figure) -> bool:
    """Whether a figure shows colour images; here these are always frames."""
    images = (image.get_array() for axes in figure.axes for image in axes.images)
    return any(pixels is not None and pixels.ndim == 3 for pixels in images)


def file_format(figure: Figure) -> tuple[str, dict[str, Any]]:
    """The suffix of a figure's file, ``jpg`` or ``png``, and the encoder's options."""
    return ("jpg", {"pil_kwargs": JPEG}) if has_frames(figure) else ("png", {})
