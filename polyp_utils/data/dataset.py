"""A data set as uint8 tensors: decoded and resized once, then opened from the cache.

Images (N, 3, S, S) and masks (N, S, S), as levels that do not depend on the label scheme, are a
memory map of the cache file, so a data set may be larger than memory, and processes share what they
read: see :mod:`polyp_utils.data.cache`. If several processes start together, one decodes and the
others wait for its file. The cache key changes with any file's path, size or modification time.
"""

import contextlib
import functools
import hashlib
import os
import warnings
from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from polyp_utils.common.exceptions import DataError, warn_once
from polyp_utils.common.paths import cache_root
from polyp_utils.common.progress import Progress
from polyp_utils.data.cache import one_writer, open_map, write_rows
from polyp_utils.data.catalog import get_info
from polyp_utils.data.labels import THRESHOLD
from polyp_utils.data.plausibility import FULL_MASK, Doubt, doubts, outline_pixels
from polyp_utils.data.sources import Source, open_source
from polyp_utils.data.transforms import resize_image, resize_mask

_CACHE_VERSION = 3
_TENSORS = ("images", "masks", "sizes", "polyp_pixels")
_CHUNK = 128  # frames decoded side by side


class PolypDataset(torch.utils.data.Dataset):
    """A whole data set at network size.

    Attributes:
        name: as requested: in the catalogue, a folder, or ``IMAGES::MASKS`` (patterns).
        ids: frame ids, sorted, length N.
        images: uint8 (N, 3, S, S) RGB.
        masks: uint8 (N, S, S), levels; a label scheme turns them into classes.
        sizes: int64 (N, 2), original height and width in pixels.
        polyp_pixels: int64 (N, 2), polyp pixels of each original mask, and those of them on the
            frame's outline (corners count twice).
        fingerprint: hash of the content on disk, for the run's record.
        source: reads frames at their original size.
    """

    def __init__(self, name: str, image_size: int = 256) -> None:
        """Opens a data set of the catalogue.

        Args:
            name: its name in the catalogue, a folder, or ``IMAGES::MASKS``, see `get_info`.
            image_size: side S of the square that frames are resized to, in pixels, >= 32.

        Raises:
            ValueError: unknown name.
            FileNotFoundError: not on disk and not downloadable.
            DataError: a file cannot be used, the message names the first; or every mask is full.
        """
        if image_size < 32:
            raise ValueError(f"image_size is {image_size}; it must be at least 32")
        self.name, self.info = name, get_info(name)
        self.source: Source = open_source(self.info)
        self.ids = self.source.ids
        tensors, self.fingerprint = _load(self.source, self.info.name, image_size)
        self.images, self.masks, self.sizes, self.polyp_pixels = (tensors[key] for key in _TENSORS)
        self._row = {frame_id: row for row, frame_id in enumerate(self.ids)}
        for doubt in self.doubts:
            if doubt.check == FULL_MASK and len(doubt.ids) == len(self):
                raise DataError(f"{self.info.title}: {doubt}")
            warn_once(f"{self.info.title}: {doubt}")

    def __len__(self) -> int:
        return len(self.ids)

    @functools.cached_property
    def doubts(self) -> list[Doubt]:
        """What is doubtful about the masks as a set, see `plausibility.doubts`."""
        height, width = self.sizes.double().unbind(dim=1)
        inside, outline = self.polyp_pixels.double().unbind(dim=1)
        shares, outlines = inside / (height * width), outline / (2 * (height + width))
        return doubts(self.ids, shares.numpy(), outlines.numpy())

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
                "use a split of this data set, or complete its files"
            )
        return torch.tensor([self._row[frame_id] for frame_id in ids], dtype=torch.int64)

    def original(self, frame_id: str) -> tuple[np.ndarray, np.ndarray]:
        """Image uint8 (H, W, 3) and mask uint8 (H, W), levels, at the original size.

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


def _load(source: Source, name: str, size: int) -> tuple[dict[str, Tensor], str]:
    """Tensors and fingerprint from the cache file, which is written first if necessary."""
    stamp = f"{_CACHE_VERSION} {size} {source.stamp()}"
    key = hashlib.sha256(stamp.encode()).hexdigest()[:16]
    path = cache_root() / f"{name}-{size}-{key}.safetensors"
    shapes = _shapes(len(source.ids), size)
    with contextlib.suppress(OSError, SafetensorError):
        return _open(path, shapes)
    try:
        with one_writer(path):
            with contextlib.suppress(FileNotFoundError):  # another process may have been faster
                try:
                    return _open(path, shapes)
                except SafetensorError as error:
                    warnings.warn(f"cache {path} is damaged ({error}): rebuilding", stacklevel=4)
            metadata = {"fingerprint": source.fingerprint()}
            frames = f"{len(source.ids)} frames of {name} to {size} px"
            print(f"decoding {frames} once, into the cache", flush=True)
            with contextlib.closing(_decode_all(source, size)) as rows:
                write_rows(path, rows, len(source.ids), metadata)
            return _open(path, shapes)
    except OSError as error:
        why = error.__cause__ or error
        warnings.warn(f"cache {path} not written ({why}); set POLYP_CACHE", stacklevel=4)
    decoded = list(_decode_all(source, size))
    tensors = {key: torch.stack([row[key] for row in decoded]) for key in _TENSORS}
    return tensors, source.fingerprint()


def _shapes(count: int, size: int) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor of the cache."""
    of_a_frame = (3, size, size), (size, size), (2,), (2,)
    return {name: (count, *end) for name, end in zip(_TENSORS, of_a_frame, strict=True)}


def _open(path: Path, shapes: dict[str, tuple[int, ...]]) -> tuple[dict[str, Tensor], str]:
    tensors, metadata = open_map(path)
    there = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if there != shapes or "fingerprint" not in metadata:
        raise SafetensorError(f"it holds {there} instead of {shapes}, or no fingerprint")
    return tensors, metadata["fingerprint"]


def _decode_all(source: Source, size: int) -> Generator[dict[str, Tensor], None, None]:
    """Frames at network size, in the order of their ids; only a few at a time are in memory."""

    def one(frame_id: str) -> dict[str, Tensor]:
        image, mask = source.read_image(frame_id), source.read_mask(frame_id)
        image_CHW, polyp = torch.from_numpy(image).permute(2, 0, 1), mask > THRESHOLD
        return {
            "images": resize_image(image_CHW, (size, size)),
            "masks": resize_mask(torch.from_numpy(mask), (size, size)),
            "sizes": torch.tensor(mask.shape),
            "polyp_pixels": torch.tensor([polyp.sum(), outline_pixels(polyp).sum()]),
        }

    count = len(source.ids)
    bar = Progress("decoding", total=count, unit="frame")
    with ThreadPoolExecutor(os.cpu_count()) as pool, bar as progress:
        for start in range(0, count, _CHUNK):
            chunk = pool.map(one, source.ids[start : start + _CHUNK])
            for number, row in enumerate(chunk, start + 1):
                yield row
                progress.advance(f"frame {number}/{count}")
