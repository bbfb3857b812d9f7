"""Where frames come from: the files of a folder, or phantoms, at their original size."""

import functools
import hashlib
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import numpy as np

from polyp_utils.common.exceptions import DataError, warn_once
from polyp_utils.data import phantom
from polyp_utils.data.catalog import DatasetInfo, locate
from polyp_utils.data.label_map import labelled_mask
from polyp_utils.data.labels import THRESHOLD, undecided
from polyp_utils.data.layout import find_pairs, match_pairs
from polyp_utils.data.masks import MaskFile, mask_file
from polyp_utils.data.pixels import ImageHeader, Pixels, as_rgb, read_image_header, read_pixels


class Source(Protocol):
    """Where frames come from, at their original size."""

    ids: tuple[str, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...]

    def read_image(self, frame_id: str) -> np.ndarray:
        """RGB uint8 (H, W, 3)."""

    def read_mask(self, frame_id: str) -> np.ndarray:
        """Levels uint8 (H, W), of the image's size; see :mod:`polyp_utils.data.labels`."""

    def read_mask_file(self, frame_id: str) -> MaskFile:
        """The mask as on disk, unchecked."""

    def orientation(self, frame_id: str) -> int:
        """EXIF orientation of the image file, 1 to 8; 1 is upright."""

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
        """Decodes an image, in the view that its mask was drawn on.

        Raises:
            DataError: unreadable file, or a view that is not certain, see `_as_paired`.
        """
        image_path, mask_path = self.pairs[frame_id]
        pixels = read_pixels(image_path)
        if pixels.orientation != 1:
            pixels = _as_paired(pixels, read_image_header(mask_path), mask_path)
        return np.array(as_rgb(pixels))  # PyTorch wants it writable

    def read_mask(self, frame_id: str) -> np.ndarray:
        """Decodes a mask; the stray white pixel at (0, 0) of some masks is removed.

        Raises:
            DataError: unreadable file, another size than the image's, or a mask that
                `MaskFile.check` rejects.
        """
        image_path, path = self.pairs[frame_id]
        mask, image = self.read_mask_file(frame_id), read_image_header(image_path)
        size = image.size
        if image.orientation != 1 and mask.levels.shape != size:
            size = image.stored_size  # as `_as_paired` decides
        if size != mask.levels.shape:
            exif = f", EXIF orientation {image.orientation}" if image.orientation != 1 else ""
            raise DataError(
                f"{path} is {mask.levels.shape[1]}×{mask.levels.shape[0]} px but its image "
                f"{size[1]}×{size[0]}{exif}: they must have the same size; save both as they were "
                "when the mask was drawn"
            )
        mask.check()
        levels = mask.levels
        if levels[0, 0] > THRESHOLD and not (levels[0, 1] > THRESHOLD or levels[1, 0] > THRESHOLD):
            levels[0, 0] = 0
        return levels

    def read_mask_file(self, frame_id: str) -> MaskFile:
        """The mask as on disk, in the view of its image; errors as in `read_mask`."""
        image_path, path = self.pairs[frame_id]
        pixels = read_pixels(path)
        if pixels.orientation != 1:
            pixels = _as_paired(pixels, read_image_header(image_path), image_path)
        return mask_file(pixels) if self.labels is None else labelled_mask(pixels, self.labels)

    def orientation(self, frame_id: str) -> int:
        """EXIF orientation of the image file, or of the mask file if the image is upright."""
        image, mask = map(read_image_header, self.pairs[frame_id])
        return image.orientation if image.orientation != 1 else mask.orientation

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

    def read_mask_file(self, frame_id: str) -> MaskFile:
        """The drawn mask."""
        mask = self.read_mask(frame_id)
        return MaskFile(frame_id, mask, undecided(mask), mask)

    def orientation(self, frame_id: str) -> int:
        """Drawn frames are upright."""
        return 1

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
        warn_once(f"{info.title}: {note}")
    if info.count and len(source.ids) != info.count:
        warnings.warn(
            f"{info.title} has {len(source.ids)} pairs on disk, {info.count} are published",
            stacklevel=3,
        )
    return source


def _as_paired(pixels: Pixels, partner: ImageHeader, partner_path: Path) -> Pixels:
    """Pixels with an EXIF orientation, in the view that fits the other file of the pair.

    Two files with an orientation are turned as both say. If one alone has one, the other was made
    by a program that heeded or ignored EXIF: its size tells, if the sides are swapped.

    Raises:
        DataError: both views, or none, have the partner's size.
    """
    if partner.orientation != 1:
        return pixels
    stored = pixels.stored()
    fits = [view for view in (pixels, stored) if view.values.shape[:2] == partner.size]
    if len(fits) == 1:
        return fits[0]
    height, width = pixels.values.shape[:2]
    why = (
        f"{partner_path} fits it both turned and as stored"
        if fits
        else f"{partner_path}, {partner.size[1]}×{partner.size[0]} px, fits it in no view"
    )
    raise DataError(
        f"{pixels.path} ({width}×{height} px) has EXIF orientation {pixels.orientation}, and "
        f"{why}: turn its pixels to the view that the mask was drawn on, and remove the entry "
        "(`magick mogrify -auto-orient`, or `exiftool -Orientation=` if no turn is needed)"
    )
