"""Tensors in one safetensors file: written row by row, opened as a memory map, read by rows.

So a data set need never fit into memory. Pages that were read are in the system's page cache: all
processes share them, and they are evicted when memory is needed. (`safetensors.torch` can do
neither: it writes from memory as a whole, and Linux refuses its maps of files larger than memory.
It also refuses those of `numpy.lib.format.open_memmap` in copy-on-write mode; torch warns about
read-only ones, and writing to them kills the process.)

Shapes: N rows in all, B of them in a batch.
"""

import contextlib
import itertools
import json
import mmap
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from torch import Tensor

from polyp_utils.common.files import atomic, remove_leftovers

_DTYPES = {"U8": torch.uint8, "I64": torch.int64}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_CHUNK = 64  # rows copied to a device at a time


@dataclass(frozen=True)
class Rows:
    """Some rows of a tensor, read on demand.

    Attributes:
        tensor: (…, *shape), for example a memory map.
        rows: int64 (N,), indices of the rows.
    """

    tensor: Tensor
    rows: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Tensor) -> Tensor:
        """A copy of the rows at int64 (B,), (B, *shape)."""
        return self.tensor[self.rows[index]]

    def to(self, device: torch.device) -> Tensor:
        """All rows on a device, (N, *shape); the host holds only a few of them at a time."""
        shape = (len(self), *self.tensor.shape[1:])
        copy = torch.empty(shape, dtype=self.tensor.dtype, device=device)
        for start in range(0, len(self), _CHUNK):
            copy[start : start + _CHUNK] = self.tensor[self.rows[start : start + _CHUNK]]
        return copy


def write_rows(
    path: Path, rows: Iterable[Mapping[str, Tensor]], count: int, metadata: dict[str, str]
) -> None:
    """Writes a safetensors file whose tensors are stacks of rows; one row at a time is in memory.

    The file appears only when it is complete, see `atomic`.

    Args:
        path: the file.
        rows: name -> tensor, uint8 or int64, with the same shapes in every row.
        count: number of rows N, at least one.
        metadata: strings for the file's header.

    Raises:
        ValueError: ``rows`` yields another number of rows.
        OSError: the file cannot be written.
    """
    rows = iter(rows)
    with atomic(path) as temporary, temporary.open("wb") as file:
        first = next(rows)
        entries, end = {}, 0
        for name in sorted(first, key=lambda key: -first[key].itemsize):  # keeps them aligned
            start, end = end, end + count * first[name].nbytes
            shape, offsets = [count, *first[name].shape], [start, end]
            dtype = _NAMES[first[name].dtype]
            entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        header = json.dumps({"__metadata__": metadata, **entries}).encode()
        header += b" " * (-len(header) % 8)
        file.write(len(header).to_bytes(8, "little") + header)
        for row, tensors in zip(range(count), itertools.chain([first], rows), strict=True):
            for name, tensor in tensors.items():
                start = 8 + len(header) + entries[name]["data_offsets"][0]
                file.seek(start + row * tensor.nbytes)
                file.write(tensor.contiguous().numpy().data)
        file.flush()
        os.fsync(file.fileno())  # or a power cut could leave the name without the content


def open_map(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a file; pixels are read from disk on access.

    Changing such a tensor changes neither the file nor what other processes see.

    Raises:
        FileNotFoundError: no such file.
        SafetensorError: the file is damaged, or holds other types.
    """
    with safe_open(path, "np") as file:  # checks the header against the file's length
        metadata = file.metadata() or {}
    content = _map(path)
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    tensors = {}
    for name in header.keys() - {"__metadata__"}:
        if header[name]["dtype"] not in _DTYPES:
            raise SafetensorError(f"{name} is {header[name]['dtype']}, not {' or '.join(_DTYPES)}")
        dtype, (first, end) = _DTYPES[header[name]["dtype"]], header[name]["data_offsets"]
        count = (end - first) // dtype.itemsize
        flat = torch.frombuffer(content, dtype=dtype, count=count, offset=start + first)
        tensors[name] = flat.view(header[name]["shape"])
    return tensors, metadata


def _map(path: Path) -> mmap.mmap:
    """A private, writable map, as torch needs: writing to a read-only one kills the process."""
    with path.open("rb") as file:
        if sys.platform == "win32":
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        flags = mmap.MAP_PRIVATE
        if sys.platform == "linux":  # else the whole file counts as memory in use
            flags |= getattr(mmap, "MAP_NORESERVE", 0x4000)  # Python names it from 3.13 on
        return mmap.mmap(file.fileno(), 0, flags, mmap.PROT_READ | mmap.PROT_WRITE)


@contextlib.contextmanager
def one_writer(path: Path) -> Iterator[None]:
    """Admits one process at a time; leftovers of ``path`` from a killed process are removed.

    Raises:
        OSError: the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    with lock:
        try:
            remove_leftovers(path.parent.glob(f".{path.name}.*.tmp"))
            yield
        finally:
            # No lock file stays in the folder. Should that ever let two processes in, both would
            # write the same content: it is `atomic` that keeps `path` intact.
            with contextlib.suppress(OSError):
                Path(lock.lock_file).unlink()
