"""A data set as uint8 tensors: decoded and resized once, then opened from the cache.

Images (N, 3, S, S) and scheme-free masks (N, S, S, levels) hold a whole set in memory:
Kvasir-SEG at 256 px is 260 MB. The cache file is memory-mapped and its key changes when any
file, its size or its time changes.
"""

import hashlib
import os
import warnings
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from polyp_utils.config import cache_root
from polyp_utils.data.catalog import get_info
from polyp_utils.data.sources import Source, open_source
from polyp_utils.data.transforms import resize_image, resize_mask
from polyp_utils.files import atomic

_CACHE_VERSION = 2
_TENSORS = ("images", "masks", "sizes")


class PolypDataset(torch.utils.data.Dataset):
    """A whole data set in memory, in network size.

    Attributes:
        name: as it was asked for, in the catalogue or a folder.
        ids: frame ids, sorted, length N.
        images: uint8 (N, 3, S, S) RGB.
        masks: uint8 (N, S, S), levels; a label scheme makes classes of them.
        sizes: int64 (N, 2), original height and width in pixels.
        fingerprint: hash of the content on disk, for the run's record.
        source: gives frames at their original size.
    """

    def __init__(self, name: str, image_size: int = 256) -> None:
        """Opens a data set of the catalogue.

        Args:
            name: its name in the catalogue, or the path of a folder.
            image_size: side S of the square that frames are resized to, in pixels, >= 32.

        Raises:
            ValueError: unknown name.
            FileNotFoundError: not on disk and not to be had.
            DataError: the first file, by name, that cannot be used.
        """
        if image_size < 32:
            raise ValueError(f"image_size is {image_size}; it must be at least 32")
        self.name, self.info = name, get_info(name)
        self.source: Source = open_source(self.info)
        self.ids = self.source.ids
        tensors, self.fingerprint = _load(self.source, self.info.name, image_size)
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
