"""Mask files: from their pixels to levels, and whether these can be a mask at all.

What is meant by a pixel must be certain: levels near 0 and 255, or black, red and green. Anything
else is refused with what was seen, see `MaskFile.check`.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from polyp_utils.common.exceptions import DataError
from polyp_utils.data.labels import THRESHOLD, colour_levels, is_coloured, undecided
from polyp_utils.data.pixels import Pixels

MAX_UNDECIDED = 0.01  # share of a mask's pixels
_FEW = 8  # levels: a mask of JPEG or with soft edges has more
_JPEG_SPREAD = 8  # levels from 0 and from 255


@dataclass(frozen=True)
class MaskFile:
    """The content of a mask file.

    Attributes:
        name: the file's name, for messages.
        levels: uint8 (H, W), see :mod:`polyp_utils.data.labels`.
        undecided: bool (H, W), see `labels.undecided` and `labels.colour_levels`.
        raw: the pixels as on disk in 8 bits, (H, W) or (H, W, 3).
    """

    name: Path | str
    levels: np.ndarray
    undecided: np.ndarray
    raw: np.ndarray

    @property
    def brightest(self) -> np.ndarray:
        """The brightest channel as on disk, uint8 (H, W)."""
        return self.raw if self.raw.ndim == 2 else self.raw.max(axis=-1)

    @property
    def level_count(self) -> int:
        """How many different levels or colours the file holds."""
        if self.raw.ndim == 2:
            return int(np.count_nonzero(np.bincount(self.raw.ravel())))
        red, green, blue = np.moveaxis(self.raw.astype(np.uint32), -1, 0)
        return len(np.unique(red << 16 | green << 8 | blue))

    @property
    def traces(self) -> np.ndarray:
        """Pixels without a pure value (0, 255, or a pure colour), bool (H, W)."""
        if self.raw.ndim == 2:
            return (self.raw != 0) & (self.raw != 255)
        return np.asarray(~np.isin(self.raw, (0, 255)).all(axis=-1))

    def check(self) -> None:
        """Rejects anything but a binary or a red-green mask.

        Raises:
            DataError: too many undecided pixels, another colour than red and green, levels that
                look like class labels, or none bright enough to be polyp.
        """
        share, bright = self.undecided.mean(), self.brightest > THRESHOLD
        lost = bright & (self.levels == 0)  # a small blue polyp, say
        if share > MAX_UNDECIDED or lost.sum() > MAX_UNDECIDED * bright.sum():
            raise DataError(self._undecided_message())
        if 0 < self.levels.max() <= THRESHOLD:
            raise DataError(
                f"{self.name} holds only levels 0 to {self.levels.max()}, so it would count as "
                "empty: if these are class labels, save polyp as 255 and everything else as 0"
            )
        if self.raw.ndim == 2 and (labels := label_levels(_counts(self.raw))):
            listed = ", ".join(f"{level} ({count} px)" for level, count in labels.items())
            raise DataError(
                f"{self.name} holds the levels {listed} alone, which look like class labels, 255 "
                "perhaps a rim to ignore: save polyp as 255 and everything else as 0"
            )

    def _undecided_message(self) -> str:
        count, size = int(self.undecided.sum()), self.undecided.size
        row, column = np.argwhere(self.undecided)[0]
        if self.raw.ndim == 3:
            low, high = self.raw.min(axis=-1).astype(int), self.raw.max(axis=-1).astype(int)
            coloured, white = high - low > THRESHOLD, low > THRESHOLD
            if coloured.sum() < white.sum():
                row, column = np.argwhere(coloured)[0]
                return (
                    f"{self.name} is a black and white mask with {coloured.sum()} coloured pixels "
                    f"(first {self.raw[row, column].tolist()} at row {row}, column {column}): "
                    "paint them black or white"
                )
        seen = self.raw[row, column].tolist()
        return (
            f"{self.name}: {count} of {size} pixels are neither near 0 nor near 255, nor red or "
            f"green (first: {seen} at row {row}, column {column}), too many for JPEG artefacts and "
            "soft edges. Save the mask as PNG, polyp 255 and background 0"
        )


def _counts(grey: np.ndarray) -> np.ndarray:
    return np.bincount(grey.ravel(), minlength=256)


def label_levels(counts: np.ndarray) -> dict[int, int]:
    """Level -> pixels, if the levels look like class labels; else empty.

    They do if they are few, and those between 0 and 255 are neither rare beside 255 nor the traces
    of JPEG, which lie near 0 and near 255 alike. Rare means fewer than 1 % for levels 1 and 2, 25 %
    for others (masks of CVC-ClinicDB have a thin rim of 11). Two levels are a binary mask.
    """
    levels = np.flatnonzero(counts)
    between = levels[(levels > 0) & (levels < 255)]
    if not 2 < len(levels) <= _FEW or not len(between):
        return {}
    near_black, near_white = between <= _JPEG_SPREAD, between >= 255 - _JPEG_SPREAD
    is_spread = near_black.any() and near_white.any() and (near_black | near_white).all()
    bright = counts[THRESHOLD + 1 :].sum()
    rare = 0.01 if (between <= 2).any() else 0.25
    if is_spread or near_white.all() or counts[between].sum() < rare * bright:
        return {}
    return {int(level): int(counts[level]) for level in levels}


def mask_file(pixels: Pixels) -> MaskFile:
    """The mask that the pixels of a file show: grey, or red and green on black.

    Raises:
        DataError: which pixels are polyp is not certain, by their range or transparency.
    """
    colours = without_alpha(pixels)
    if colours.ndim == 3 and is_coloured(colours):
        return MaskFile(pixels.path, *colour_levels(colours), colours)
    grey = np.array(Image.fromarray(colours).convert("L"))
    return MaskFile(pixels.path, grey, undecided(grey), grey.copy())


def mask_values(pixels: Pixels) -> np.ndarray:
    """The values in 8 bits; a mask of a deeper type may hold levels up to 255 as they are."""
    values = pixels.values
    is_float, top = np.issubdtype(values.dtype, np.floating), values.max()
    small = values.min() >= 0 and top <= 255 and (not is_float or top > 1)
    if values.dtype != np.uint8 and small and (values == np.round(values)).all():
        return np.asarray(values.astype(np.uint8))
    return pixels.levels()


def without_alpha(pixels: Pixels) -> np.ndarray:
    """The colours that count: as they are, or as they show on black where alpha is the mask.

    Raises:
        DataError: colours and transparency show different masks; or as in `Pixels.levels`.
    """
    colours, alpha = mask_values(pixels), pixels.alpha
    if alpha is None or (alpha.min() == alpha.max() and alpha.min() > 0):
        return colours
    opacity = alpha.astype(np.float64) / np.iinfo(alpha.dtype).max
    flat = colours if colours.ndim == 3 else colours[..., None]
    on_black = (flat * opacity[..., None]).round().astype(np.uint8).reshape(colours.shape)
    is_plain = (flat == flat[0, 0]).all()
    if is_plain and flat.max() > THRESHOLD:
        return on_black
    if not is_plain and ((on_black > THRESHOLD) == (colours > THRESHOLD)).all():
        return colours
    if is_plain and flat.max() == 0 and alpha.max() == 0:
        return colours
    colour = flat[0, 0].tolist()
    seen = f"has the colour {colour} everywhere" if is_plain else "shows one mask by its colours"
    raise DataError(
        f"{pixels.path} {seen} but another mask by its transparency (opacity {alpha.min()} to "
        f"{alpha.max()}): save the mask that is meant without transparency, polyp 255 and "
        "background 0"
    )
