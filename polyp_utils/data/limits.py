"""How large an image file may be."""

from pathlib import Path

from polyp_utils.common.exceptions import DataError

MAX_PIXELS = 100_000_000  # of an image: more is no endoscope's, and takes gigabytes
MAX_BYTES = 16 * MAX_PIXELS  # of a file


def check_size(path: Path, width: int, height: int) -> None:
    """Raises `too_large` for an image of more than `MAX_PIXELS`."""
    if width * height > MAX_PIXELS:
        raise too_large(path, f"{width}×{height}")


def too_large(path: Path, pixels: str) -> DataError:
    """The error for an image of so many pixels, "width×height" or their number."""
    return DataError(
        f"{path} has {pixels} pixels; at most {MAX_PIXELS:,} are read: cut it or scale it down"
    )


def check_pages(path: Path, pages: int) -> None:
    """Raises `DataError` for a file of several images."""
    if pages > 1:
        raise DataError(
            f"{path} holds {pages} images: save the one that is meant as a file of its own"
        )
