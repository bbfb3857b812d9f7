"""A data set as uint8 tensors: decoded and resized once, then opened from the cache.

Images (N, 3, S, S) and scheme-free masks (N, S, S, grey levels) hold a whole set in memory:
Kvasir-SEG at 256 px is 260 MB. The cache file is memory-mapped and its key changes when any
file, its size or its time changes.
"""

import functools
import hashlib
import os
import warnings
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from polyp_utils.config import cache_root
from polyp_utils.data import phantom
from polyp_utils.data.catalog import DatasetInfo, get_info, locate
from polyp_utils.data.transforms import resize_image, resize_mask
from polyp_utils.files import atomic

_CACHE_VERSION = 2
_TENSORS = ("images", "masks", "sizes")
_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")


class DataError(ValueError):
    """A file or folder that cannot be used; the message names it and says what to do."""


class Source(Protocol):
    """Where frames come from, at their original size."""

    ids: tuple[str, ...]

    def read_image(self, frame_id: str) -> np.ndarray:
        """RGB uint8 (H, W, 3)."""

    def read_mask(self, frame_id: str) -> np.ndarray:
        """Grey levels uint8 (H, W), of the image's size."""

    def stamp(self) -> str:
        """Cheap text that changes when the data may have changed."""

    def fingerprint(self) -> str:
        """Hash of the content, the same on every machine."""


class FolderSource:
    """Pairs ``images/<id>.*`` and ``masks/<id>.*``.

    Raises:
        DataError: a sub-folder is missing or empty, an image has no mask, a mask no image.
    """

    def __init__(self, folder: Path) -> None:
        images, masks = (_by_stem(folder / name) for name in ("images", "masks"))
        for one, other, what in ((images, masks, "mask"), (masks, images, "image")):
            alone = sorted(one.keys() - other.keys())
            if alone:
                raise DataError(
                    f"{len(alone)} of {len(one)} files have no {what}, first {one[alone[0]]}: "
                    f"put the {what} into {folder / (what + 's')} or take the file away"
                )
        self.ids = tuple(sorted(images))
        self.pairs = {frame_id: (images[frame_id], masks[frame_id]) for frame_id in self.ids}

    def read_image(self, frame_id: str) -> np.ndarray:
        """Decodes an image.

        Raises:
            DataError: unreadable file.
        """
        return _decode(self.pairs[frame_id][0], "RGB")

    def read_mask(self, frame_id: str) -> np.ndarray:
        """Decodes a mask; the stray white pixel at (0, 0) of some masks is removed.

        Raises:
            DataError: unreadable file, another size than the image's, or values that are no
                JPEG trace of a binary mask.
        """
        image_path, path = self.pairs[frame_id]
        mask = _decode(path, "L")
        with Image.open(image_path) as image:
            if image.size != mask.shape[::-1]:
                raise DataError(
                    f"{path} is {mask.shape[1]}×{mask.shape[0]} px but its image "
                    f"{image.size[0]}×{image.size[1]}: they must be of one size"
                )
        between = (mask > 8) & (mask < 246)
        if between.any():
            row, column = np.argwhere(between)[0]
            raise DataError(
                f"{path}: {between.sum()} of {mask.size} pixels are neither near 0 nor near "
                f"255 (first: {mask[row, column]} at row {row}, column {column}); a binary mask "
                "with JPEG traces holds only 0–8 and 246–255"
            )
        if 0 < mask.max() <= 8:
            raise DataError(
                f"{path} holds only 0–{mask.max()}, so it would count as empty; if these are "
                "class labels, write polyp as 255"
            )
        if mask[0, 0] > 127 and mask[0, 1] < 128 and mask[1, 0] < 128:
            mask[0, 0] = 0
        return mask

    def stamp(self) -> str:
        """Path, size and time of every file."""
        stats = ((path, path.stat()) for pair in self.pairs.values() for path in pair)
        return "\n".join(f"{path} {stat.st_size} {stat.st_mtime_ns}" for path, stat in stats)

    def fingerprint(self) -> str:
        """SHA-256 over names and bytes of all files, 16 hex digits."""
        digest = hashlib.sha256()
        for pair in self.pairs.values():
            for path in pair:
                digest.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()[:16]


class PhantomSource:
    """Drawn frames ``phantom-0000`` … with exact masks; see :mod:`polyp_utils.data.phantom`."""

    def __init__(self, count: int) -> None:
        self.ids = tuple(f"phantom-{index:04d}" for index in range(count))
        self._stamp = f"phantom drawing {phantom.VERSION}, {count} frames"
        self._draw = functools.lru_cache(maxsize=8)(phantom.draw)

    def read_image(self, frame_id: str) -> np.ndarray:
        """Draws a frame."""
        return self._draw(int(frame_id.removeprefix("phantom-")))[0]

    def read_mask(self, frame_id: str) -> np.ndarray:
        """Draws its mask."""
        return self._draw(int(frame_id.removeprefix("phantom-")))[1]

    def stamp(self) -> str:
        """Version of the drawing, and the count."""
        return self._stamp

    def fingerprint(self) -> str:
        """SHA-256 of the stamp, 16 hex digits: the frames follow from the code."""
        return hashlib.sha256(self.stamp().encode()).hexdigest()[:16]


class PolypDataset(torch.utils.data.Dataset):
    """A whole data set in memory, in network size.

    Attributes:
        ids: frame ids, sorted, length N.
        images: uint8 (N, 3, S, S) RGB.
        masks: uint8 (N, S, S), grey levels; a label scheme makes classes of them.
        sizes: int64 (N, 2), original height and width in pixels.
        fingerprint: hash of the content on disk, for the run's record.
        source: gives frames at their original size.
    """

    def __init__(self, name: str, image_size: int = 256) -> None:
        """Opens a data set of the catalogue.

        Args:
            name: its name in the catalogue.
            image_size: side S of the square that frames are resized to, in pixels, >= 32.

        Raises:
            ValueError: unknown name.
            FileNotFoundError: not on disk and not to be had.
            DataError: the first file, by name, that cannot be used.
        """
        if image_size < 32:
            raise ValueError(f"image_size is {image_size}; it must be at least 32")
        self.info = get_info(name)
        self.source: Source = open_source(self.info)
        self.ids = self.source.ids
        tensors, self.fingerprint = _load(self.source, name, image_size)
        self.images, self.masks, self.sizes = (tensors[key] for key in _TENSORS)
        self._row = {frame_id: row for row, frame_id in enumerate(self.ids)}

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        return self.images[row], self.masks[row]

    def rows(self, ids: Iterable[str]) -> Tensor:
        """Row numbers, int64, of frame ids.

        Raises:
            ValueError: an id that is not in the data set.
        """
        ids = list(ids)
        missing = [frame_id for frame_id in ids if frame_id not in self._row]
        if missing:
            raise ValueError(
                f"{len(missing)} of {len(ids)} ids are not in {self.info.title}, first "
                f"{missing[0]!r}: its {len(self)} frames run from {self.ids[0]} to {self.ids[-1]}; "
                "take a split of this data set, or complete its files"
            )
        return torch.tensor([self._row[frame_id] for frame_id in ids], dtype=torch.int64)

    def original(self, frame_id: str) -> tuple[np.ndarray, np.ndarray]:
        """Image uint8 (H, W, 3) and mask uint8 (H, W), grey levels, at the original size.

        Raises:
            ValueError: an id that is not in the data set.
        """
        return self.original_image(frame_id), self.original_mask(frame_id)

    def original_image(self, frame_id: str) -> np.ndarray:
        """The image alone; see `original`."""
        self.rows([frame_id])
        return self.source.read_image(frame_id)

    def original_mask(self, frame_id: str) -> np.ndarray:
        """The mask alone, which is quicker; see `original`."""
        self.rows([frame_id])
        return self.source.read_mask(frame_id)


def open_source(info: DatasetInfo) -> Source:
    """The source of a catalogue entry: drawn, or a folder that is fetched if absent."""
    if info.name == "phantom":
        return PhantomSource(info.count)
    source = FolderSource(locate(info))
    if len(source.ids) != info.count:
        warnings.warn(
            f"{info.title} has {len(source.ids)} pairs on disk, {info.count} are published",
            stacklevel=3,
        )
    return source


def _load(source: Source, name: str, size: int) -> tuple[dict[str, Tensor], str]:
    """Tensors and fingerprint from the cache file, which is written first if need be."""
    stamp = f"{_CACHE_VERSION} {size} {source.stamp()}"
    key = hashlib.sha256(stamp.encode()).hexdigest()[:16]
    path = cache_root() / f"{name}-{size}-{key}.safetensors"
    if path.is_file():
        try:
            with safe_open(path, "pt") as file:
                fingerprint = file.metadata()["fingerprint"]
                return {key: file.get_tensor(key) for key in _TENSORS}, fingerprint
        except (OSError, SafetensorError) as error:
            warnings.warn(f"cache {path} is damaged ({error}): decoding anew", stacklevel=4)
    tensors, fingerprint = _decode_all(source, size), source.fingerprint()
    try:
        with atomic(path) as temporary:
            save_file(tensors, temporary, {"fingerprint": fingerprint})
    except (OSError, SafetensorError) as error:  # safetensors wraps I/O errors
        warnings.warn(f"cache {path} not written ({error}); set POLYP_CACHE", stacklevel=4)
    return tensors, fingerprint


def _decode_all(source: Source, size: int) -> dict[str, Tensor]:
    square = (size, size)

    def one(frame_id: str) -> tuple[Tensor, Tensor, Tensor]:
        image, mask = source.read_image(frame_id), source.read_mask(frame_id)
        image_CHW = torch.from_numpy(image).permute(2, 0, 1)
        small_mask = resize_mask(torch.from_numpy(mask), square)
        return resize_image(image_CHW, square), small_mask, torch.tensor(mask.shape)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        columns = zip(*pool.map(one, source.ids), strict=True)
        return {key: torch.stack(column) for key, column in zip(_TENSORS, columns, strict=True)}


def _by_stem(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise DataError(f"{folder} does not exist: a data set needs images/ and masks/")
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in _IMAGE_SUFFIXES:
            if path.stem in files:
                raise DataError(f"{files[path.stem]} and {path} share a stem: keep one")
            files[path.stem] = path
    if not files:
        raise DataError(f"{folder} holds no image files ({', '.join(_IMAGE_SUFFIXES)})")
    return files


def _decode(path: Path, mode: str) -> np.ndarray:
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty (0 bytes): fetch it again")
    try:
        with Image.open(path) as image:
            return np.array(image.convert(mode))
    except (OSError, UnidentifiedImageError, SyntaxError) as error:
        raise DataError(f"{path} cannot be decoded ({error}): fetch it again") from error
