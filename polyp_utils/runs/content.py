"""What one prediction of another system holds, whatever it means: grey values, colours, indices.

Files are read as frames and masks are (`polyp_utils.data.pixels`), NumPy arrays by themselves.
What the values mean is decided over all predictions together, see `polyp_utils.runs.values`.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from polyp_utils.common.exceptions import DataError
from polyp_utils.data.labels import colour_levels, is_coloured
from polyp_utils.data.limits import MAX_PIXELS
from polyp_utils.data.masks import MAX_UNDECIDED, without_alpha
from polyp_utils.data.pixels import Pixels, read_pixels

MAX_COLOURS = 16  # more are a picture
COLOURED, REAL = "coloured", "real numbers"  # kinds of values
EIGHT_BIT, DEEPER = "8-bit", "deeper than 8 bits"
Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Content:
    """The values of one prediction.

    Attributes:
        where: its file or id, for messages.
        values: (H, W), uint8 or a deeper type, or coloured: uint8 (H, W, 3). Black and white are 0
            and 255.
        indices: uint8 (H, W), into the palette of a file that has one.
        classes: what the file says of its indices, see `Pixels`.
        lossy: whether its format changes values.
    """

    where: Path | str
    values: np.ndarray
    indices: np.ndarray | None = None
    classes: str = ""
    lossy: bool = False

    @property
    def coloured(self) -> bool:
        """Whether the values are colours."""
        return self.values.ndim == 3

    @property
    def packed(self) -> np.ndarray:
        """Colours as numbers 0xRRGGBB, int32 (H, W); of grey uint8 values too."""
        rgb = self.values if self.coloured else np.repeat(self.values[..., None], 3, axis=-1)
        red, green, blue = np.moveaxis(rgb.astype(np.int32), -1, 0)
        return red << 16 | green << 8 | blue


def read_content(path: Path) -> Content:
    """The content of an image or a ``.npy`` file.

    Raises:
        DataError: it cannot be read, or which of its channels count is not certain.
    """
    if path.suffix.lower() == ".npy":
        return content_of(_read_array(path), path)
    pixels = read_pixels(path)
    if pixels.orientation != 1:
        raise DataError(
            f"{path} has EXIF orientation {pixels.orientation}, and whether its frame was turned "
            "so is not certain: turn its pixels as the frame's are, and save it without EXIF"
        )
    values = pixels.values
    _check_finite(values, path)
    coloured = values.ndim == 3 and bool((values != values[..., :1]).any())
    if pixels.indices is None or not coloured:  # a palette's transparency tells nothing more
        values = without_alpha(pixels) if pixels.alpha is not None else values
    if pixels.lossy and coloured and not is_coloured(values):
        values = np.rint(values.mean(axis=-1)).astype(np.uint8)
    elif pixels.lossy and coloured:
        values = _nearest_levels(pixels)
    elif values.ndim == 3 and not (values != values[..., :1]).any():
        values = values[..., 0]
    if values.ndim == 3 and values.dtype != np.uint8:
        raise DataError(f"{path} has colours of {values.dtype}: save it as grey, or with 8 bits")
    return Content(path, values, pixels.indices, pixels.classes, pixels.lossy)


def content_of(array: np.ndarray, where: Path | str) -> Content:
    """The content of an array (h, w) of bool, whole or real numbers.

    Raises:
        DataError: another shape or type, or values that are not finite.
    """
    is_bool = np.issubdtype(array.dtype, np.bool_)
    if array.ndim != 2 or not array.size or not (is_bool or np.issubdtype(array.dtype, np.number)):
        raise DataError(
            f"prediction {where} is {array.dtype} {array.shape}: give bool, whole numbers or "
            "probabilities of one channel, (h, w)"
        )
    _check_finite(array, f"prediction {where}")
    return Content(where, array.astype(np.uint8) * 255 if is_bool else array)


def _check_finite(values: np.ndarray, where: Path | str) -> None:
    bad = ~np.isfinite(values) if not np.iscomplexobj(values) else np.ones(values.shape, bool)
    if bad.any():
        count = f"{bad.sum()} of {bad.size} values that are not finite, real numbers"
        raise DataError(f"{where} holds {count}: leave it out, or write P(polyp) again")


def _read_array(path: Path) -> np.ndarray:
    try:
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        if mapped.size <= MAX_PIXELS:
            return np.array(mapped)
    except Exception as error:  # numpy raises several kinds
        raise DataError(f"{path} is no NumPy array of numbers ({error}): save it anew") from error
    raise DataError(f"{path} has shape {mapped.shape}, more than {MAX_PIXELS:,} values: scale down")


def _nearest_levels(pixels: Pixels) -> np.ndarray:
    """Levels of a JPEG in black, red and green, as masks of data sets are read."""
    levels, unclear = colour_levels(pixels.values)
    if unclear.mean() > MAX_UNDECIDED:
        raise DataError(
            f"{pixels.path} is a coloured JPEG, in which colours mix: save it as PNG, polyp 255 "
            "and everything else 0"
        )
    return levels


@dataclass(frozen=True)
class Look:
    """What deciding needs to know of one prediction.

    Attributes:
        where: its file or id.
        size: height and width.
        kind: ``coloured``, ``real numbers``, ``8-bit``, or ``deeper than 8 bits``.
        low: the least value; of colours 0.
        high: the largest; of colours 255.
        counts: pixels per value, (256,), if all values are whole and in 0–255; else None.
        colours: colour -> pixels, of a coloured one; at most `MAX_COLOURS` + 1.
        indices: palette index -> its colour.
        classes: as in `Content`.
        lossy: as in `Content`.
    """

    where: Path | str
    size: tuple[int, int]
    kind: str
    low: float
    high: float
    counts: np.ndarray | None
    colours: Counter[Colour]
    indices: dict[int, Colour]
    classes: str
    lossy: bool


def look_at(content: Content) -> Look:
    """The facts of one prediction."""
    values = content.values
    colours: Counter[Colour] = Counter()
    indices: dict[int, Colour] = {}
    if content.indices is not None:
        used, first = np.unique(content.indices, return_index=True)
        shown = content.packed.ravel()[first]
        indices = {int(i): _unpacked(c) for i, c in zip(used, shown, strict=True)}
    if content.coloured:
        found, counts = np.unique(content.packed, return_counts=True)
        for colour, count in list(zip(found, counts, strict=True))[: MAX_COLOURS + 1]:
            colours[_unpacked(colour)] = int(count)
        facts: tuple[str, float, float, np.ndarray | None] = (COLOURED, 0, 255, None)
    else:
        low, high = values.min(), values.max()
        is_real = np.issubdtype(values.dtype, np.floating)
        kind = REAL if is_real else EIGHT_BIT if values.dtype == np.uint8 else DEEPER
        whole = low >= 0 and high <= 255 and (not is_real or (values == np.rint(values)).all())
        levels = np.bincount(values.astype(np.uint8).ravel(), minlength=256) if whole else None
        facts = (kind, float(low), float(high), levels)
    size = (values.shape[0], values.shape[1])
    said = (content.classes, content.lossy)
    return Look(content.where, size, *facts, colours, indices, *said)


def _unpacked(colour: int) -> Colour:
    return int(colour) >> 16, int(colour) >> 8 & 255, int(colour) & 255
