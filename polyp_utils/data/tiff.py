"""TIFFs that Pillow cannot read, by tifffile."""

import io
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from polyp_utils.common.exceptions import DataError
from polyp_utils.data.limits import MAX_BYTES, check_pages, check_size


def decode(path: Path, data: bytes) -> tuple[np.ndarray, int]:
    """Values of the only page, as stored, and its EXIF orientation.

    Args:
        path: of the file, for messages.
        data: its bytes.

    Returns:
        (H, W), (H, W, 3), or (H, W, 4) with opacity last; white is the highest value. Bits become
        0 and 255, uint8; other types are the file's.

    Raises:
        DataError: a kind that is not read; more than one page; too large, also when unpacked.
        Exception: of a dozen other kinds, from tifffile, where the file is damaged.
    """
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        check_pages(path, len(file.pages))
        page: Any = file.pages.first
        check_size(path, page.imagewidth, page.imagelength)
        _check_parts(path, page, data)
        if page.photometric.name not in ("MINISBLACK", "MINISWHITE", "RGB"):
            kind = page.photometric.name.lower()
            raise DataError(f"{path} is a TIFF of kind {kind} that is not read: save it as PNG")
        values, orientation = _values(path, page), page.tags.valueof("Orientation", default=1)
        if page.photometric.name == "RGB" and page.planarconfig == 2:
            values = np.moveaxis(values, 0, -1)
        if page.photometric.name == "MINISWHITE":
            values = _inverted(path, values)
    if values.dtype == bool:
        values = values.astype(np.uint8) * 255
    if values.ndim not in (2, 3) or values.shape[2:] not in ((), (3,), (4,)):
        raise DataError(f"{path} holds an array of shape {values.shape}: save it as 8-bit RGB")
    return values, orientation


def _values(path: Path, page: Any) -> np.ndarray:
    try:
        return np.asarray(page.asarray())
    except Exception as error:
        if "imagecodecs" in str(error) or isinstance(error, ModuleNotFoundError):
            raise DataError(
                f"{path} is a TIFF compressed in a way that is not read ({error}): save it as PNG"
            ) from error
        raise


def _check_parts(path: Path, page: Any, data: bytes) -> None:
    """Refuses parts of a page that tifffile would unpack whole, whatever they unpack to."""
    most = 4 * page.nbytes + 2**24  # tiles may reach beyond the page
    if page.nbytes > MAX_BYTES:
        raise DataError(f"{path} unpacks to {page.nbytes:,} bytes: save it as 8-bit RGB")
    if page.compression == 1:
        return
    if page.compression.name not in ("ADOBE_DEFLATE", "DEFLATE"):
        kind = page.compression.name.lower()
        raise DataError(f"{path} is a TIFF compressed by {kind} that is not read: save it as PNG")
    for start, count in zip(page.dataoffsets, page.databytecounts, strict=True):
        part = zlib.decompressobj().decompress(data[start : start + count], most + 1)
        if len(part) > most:
            raise DataError(f"{path} unpacks to over {most:,} bytes, of {page.nbytes:,}: remove it")


def _inverted(path: Path, values: np.ndarray) -> np.ndarray:
    """The values of a TIFF whose header says that white is zero."""
    if values.dtype == bool:
        return ~values
    if not np.issubdtype(values.dtype, np.unsignedinteger):
        raise DataError(f"{path} holds {values.dtype} values with white as zero: save it as PNG")
    return np.asarray(np.iinfo(values.dtype).max - values)
