"""Where frames come from: the files of a folder, or phantoms, at their original size."""

import functools
import hashlib
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import skimage  # loads its submodules on first use
from PIL import Image

from polyp_utils.common.exceptions import DataError
from polyp_utils.data import phantom
from polyp_utils.data.catalog import DatasetInfo, locate
from polyp_utils.data.label_map import levels_of_indices
from polyp_utils.data.labels import THRESHOLD, colour_levels, is_coloured, undecided
from polyp_utils.data.layout import find_pairs, match_pairs

MAX_UNDECIDED = 0.01  # share of a mask's pixels


class Source(Protocol):
    """Where frames come from, at their original size."""

    ids: tuple[str, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...]

    def read_image(self, frame_id: str) -> np.ndarray:
        """RGB uint8 (H, W, 3)."""

    def read_mask(self, frame_id: str) -> np.ndarray:
        """Levels uint8 (H, W), of the image's size; see :mod:`polyp_utils.data.labels`."""

    def read_mask_file(self, frame_id: str) -> "MaskFile":
        """The mask as on disk, unchecked."""

    def file_hash(self, frame_id: str) -> str:
        """SHA-256 of the image's bytes, 16 hex digits."""

    def stamp(self) -> str:
        """Cheap text that changes when the data may have changed."""

    def fingerprint(self) -> str:
        """Hash of the content, the same on every machine."""


class FolderSource:
    """The pairs of a folder, see `find_pairs`, or of two patterns, see `match_pairs`.

    Attributes:
        problems: see `Pairs`; always empty if ``strict``.
        notes, labels: see `Pairs`.

    Raises:
        DataError: files that cannot be paired, or (if ``strict``) the first of the problems.
    """

    def __init__(
        self, place: Path | tuple[str, str], ignore: Iterable[str] = (), strict: bool = True
    ) -> None:
        found = find_pairs(place, ignore) if isinstance(place, Path) else match_pairs(*place)
        if strict and found.problems:
            more = len(found.problems) - 1
            others = f". {more} more such errors: the audit lists them" if more else ""
            raise DataError(found.problems[0] + others)
        self.pairs, self.problems = found.pairs, found.problems
        self.notes, self.labels = found.notes, found.labels
        self.ids = tuple(self.pairs)

    def read_image(self, frame_id: str) -> np.ndarray:
        """Decodes an image.

        Raises:
            DataError: unreadable file.
        """
        return np.array(read_file(self.pairs[frame_id][0]).convert("RGB"))

    def read_mask(self, frame_id: str) -> np.ndarray:
        """Decodes a mask; the stray white pixel at (0, 0) of some masks is removed.

        Raises:
            DataError: unreadable file, another size than the image's, or a mask that
                `MaskFile.check` rejects.
        """
        image_path, path = self.pairs[frame_id]
        mask = self.read_mask_file(frame_id)
        size = image_size(image_path)
        if size != mask.levels.shape:
            raise DataError(
                f"{path} is {mask.levels.shape[1]}×{mask.levels.shape[0]} px but its image "
                f"{size[1]}×{size[0]}: they must have the same size"
            )
        mask.check()
        levels = mask.levels
        if levels[0, 0] > THRESHOLD and not (levels[0, 1] > THRESHOLD or levels[1, 0] > THRESHOLD):
            levels[0, 0] = 0
        return levels

    def read_mask_file(self, frame_id: str) -> "MaskFile":
        """The mask as on disk; errors as in `read_levels` and `read_indices`."""
        path = self.pairs[frame_id][1]
        return read_levels(path) if self.labels is None else read_indices(path, self.labels)

    def file_hash(self, frame_id: str) -> str:
        """SHA-256 of the image file, 16 hex digits."""
        return hashlib.sha256(self.pairs[frame_id][0].read_bytes()).hexdigest()[:16]

    def stamp(self) -> str:
        """Path, size and modification time of every file, and what class indices mean."""
        stats = ((path, path.stat()) for pair in self.pairs.values() for path in pair)
        lines = [f"{path} {stat.st_size} {stat.st_mtime_ns}" for path, stat in stats]
        return "\n".join([*lines, *self._meanings])

    @property
    def _meanings(self) -> list[str]:
        return [f"{index} {name}" for index, name in sorted((self.labels or {}).items())]

    def fingerprint(self) -> str:
        """SHA-256 over names and bytes of all files and labels, 16 hex digits."""
        digest = hashlib.sha256("".join(self._meanings).encode())
        for pair in self.pairs.values():
            for path in pair:
                digest.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()[:16]


class PhantomSource:
    """Phantoms ``phantom-0000`` … with exact masks; see :mod:`polyp_utils.data.phantom`."""

    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __init__(self, count: int) -> None:
        self.ids = tuple(f"phantom-{index:04d}" for index in range(count))
        self._stamp = f"phantom drawing {phantom.VERSION}, {count} frames"
        self._draw = functools.lru_cache(maxsize=8)(phantom.draw_phantom)

    def read_image(self, frame_id: str) -> np.ndarray:
        """Draws a frame."""
        return self._draw(int(frame_id.removeprefix("phantom-")))[0]

    def read_mask(self, frame_id: str) -> np.ndarray:
        """Draws its mask."""
        return self._draw(int(frame_id.removeprefix("phantom-")))[1]

    def read_mask_file(self, frame_id: str) -> "MaskFile":
        """The drawn mask."""
        mask = self.read_mask(frame_id)
        return MaskFile(frame_id, mask, undecided(mask), mask)

    def file_hash(self, frame_id: str) -> str:
        """SHA-256 of the drawn pixels, 16 hex digits."""
        return hashlib.sha256(self.read_image(frame_id).tobytes()).hexdigest()[:16]

    def stamp(self) -> str:
        """Version of the drawing, and the count."""
        return self._stamp

    def fingerprint(self) -> str:
        """SHA-256 of the stamp, 16 hex digits: the frames follow from the code."""
        return hashlib.sha256(self.stamp().encode()).hexdigest()[:16]


def open_source(info: DatasetInfo, strict: bool = True) -> Source:
    """The source of a catalogue entry: phantoms, or a folder that is fetched if absent.

    What is left aside is said by a warning, once per process.

    Args:
        info: the entry.
        strict: reject a folder with problems, see `FolderSource`; else its notes are not said.
    """
    if info.name == "phantom":
        return PhantomSource(info.count)
    source = FolderSource(info.patterns or locate(info), info.ignore, strict)
    for note in source.notes if strict else ():
        warnings.warn(f"{info.title}: {note}", stacklevel=1)  # one place, so that it comes once
    if info.count and len(source.ids) != info.count:
        warnings.warn(
            f"{info.title} has {len(source.ids)} pairs on disk, {info.count} are published",
            stacklevel=3,
        )
    return source


@dataclass(frozen=True)
class MaskFile:
    """The content of a mask file.

    Attributes:
        name: the file's name, for messages.
        levels: uint8 (H, W), see :mod:`polyp_utils.data.labels`.
        undecided: bool (H, W), see `labels.undecided` and `labels.colour_levels`.
        raw: the pixels as on disk, (H, W) or (H, W, 3).
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
    def traces(self) -> np.ndarray:
        """Pixels without a pure value (0, 255, or a pure colour), bool (H, W)."""
        if self.raw.ndim == 2:
            return (self.raw != 0) & (self.raw != 255)
        return np.asarray(~np.isin(self.raw, (0, 255)).all(axis=-1))

    def check(self) -> None:
        """Rejects anything but a binary or a red-green mask.

        Raises:
            DataError: too many undecided pixels, or none bright enough to be polyp.
        """
        share = self.undecided.mean()
        if share > MAX_UNDECIDED:
            row, column = np.argwhere(self.undecided)[0]
            raise DataError(
                f"{self.name}: {self.undecided.sum()} of {self.undecided.size} pixels are neither "
                f"near 0 nor near 255, nor red or green (first: {self.raw[row, column]} at row "
                f"{row}, column {column}); JPEG artefacts and soft edges make at most "
                f"{100 * MAX_UNDECIDED:g} %. Save the mask as PNG, polyp 255 and background 0"
            )
        if 0 < self.levels.max() <= THRESHOLD:
            raise DataError(
                f"{self.name} holds only 0–{self.levels.max()}, so it would count as empty; if "
                "these are class labels, write polyp as 255"
            )


def read_levels(path: Path) -> MaskFile:
    """Reads a grey mask, or one of red and green on black.

    Raises:
        DataError: unreadable file.
    """
    image = read_file(path)
    if image.mode not in ("L", "1"):
        rgb = np.array(image.convert("RGB"))
        if is_coloured(rgb):
            return MaskFile(path, *colour_levels(rgb), rgb)
    grey = np.array(image.convert("L"))
    return MaskFile(path, grey, undecided(grey), grey.copy())


def read_indices(path: Path, labels: Mapping[int, str]) -> MaskFile:
    """Reads a mask of class indices, unless it is black and white and no label is known.

    Raises:
        DataError: unreadable file, colours, or indices that `levels_of_indices` refuses.
    """
    image = read_file(path)
    if image.mode not in ("1", "L", "P"):
        raise DataError(
            f"{path} has pixels of mode {image.mode}, but dataset.json announces class indices: "
            "save it as a grey PNG"
        )
    indices = np.array(image).astype(np.uint8)
    if not labels and np.isin(indices, (0, 255)).all():
        return read_levels(path)
    levels = levels_of_indices(indices, labels, path)
    return MaskFile(path, levels, np.zeros(levels.shape, bool), levels.copy())


def read_file(path: Path) -> Image.Image:
    """Decodes an image file completely; TIFF by scikit-image, as Pillow cannot read them all.

    Raises:
        DataError: empty, truncated, not an image, or more than 8 bits per channel.
    """
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty (0 bytes): fetch it again")
    try:
        if path.suffix.lower() in (".tif", ".tiff"):
            pixels = skimage.io.imread(path)
            is_1_bit = pixels.dtype == bool
            image = Image.fromarray(pixels.astype(np.uint8) * 255 if is_1_bit else pixels)
        else:
            with Image.open(path) as image:
                image.load()
    except Exception as error:  # Pillow and tifffile raise a dozen types
        raise DataError(f"{path} cannot be decoded ({error}): fetch it again") from error
    if image.mode not in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"):
        raise DataError(f"{path} has pixels of mode {image.mode}: save it with 8 bits per channel")
    return image


def image_size(path: Path) -> tuple[int, int]:
    """Height and width in pixels, without decoding if the format allows.

    Raises:
        DataError: unreadable file.
    """
    if path.suffix.lower() in (".tif", ".tiff"):
        return read_file(path).size[::-1]
    try:
        with Image.open(path) as image:
            return image.size[::-1]
    except (OSError, SyntaxError) as error:
        raise DataError(f"{path} cannot be decoded ({error}): fetch it again") from error
