"""How an image file becomes a frame as people see it."""

import warnings
from pathlib import Path

import numpy as np
import skimage.io
from PIL import Image, ImageOps

from polyp_utils.common.exceptions import DataError

MAX_PIXELS = 100_000_000  # of a frame: more is no endoscope's, and takes gigabytes
_EIGHT_BITS = {
    "1",
    "L",
    "LA",
    "La",
    "P",
    "PA",
    "RGB",
    "RGBA",
    "RGBa",
    "RGBX",
    "CMYK",
    "YCbCr",
    "LAB",
}
_SIXTEEN_BITS = {"I;16", "I;16L", "I;16B", "I"}


def read_frame(path: Path) -> np.ndarray:
    """Decodes an image file to RGB, uint8 (H, W, 3), turned as its EXIF orientation says.

    Grey, palette and CMYK images are converted, 16-bit greys scaled down, and an alpha channel is
    ignored: the colours count.

    Raises:
        DataError: empty, damaged or no image; several pages; more than `MAX_PIXELS`; or pixels
            whose range is not certain.
    """
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty (0 bytes): copy it again")
    try:
        image = _decode(path)
    except DataError:
        raise
    except Image.DecompressionBombError as error:
        raise DataError(f"{path} is too large ({error}): cut it or scale it down") from error
    except Exception as error:  # Pillow raises a dozen kinds
        if path.suffix.lower() not in (".tif", ".tiff"):
            raise DataError(f"{path} cannot be decoded ({error}): copy it again") from error
        image = _decode_tiff(path)
    if image.mode not in _SIXTEEN_BITS:
        return np.asarray(image.convert("RGB"))
    levels = np.asarray(image)
    if not 4096 <= levels.max() < 65536 or levels.min() < 0:
        raise DataError(
            f"{path} holds levels {levels.min()} to {levels.max()}, so which is white is not "
            "certain: save it with 8 bits"
        )
    return np.repeat((levels / 257).round().astype(np.uint8)[..., None], 3, axis=2)


def _decode(path: Path) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        image = Image.open(path)
    with image:
        pages = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)  # MPO: previews
        if pages > 1:
            raise DataError(f"{path} holds {pages} images: save the one that is meant, or a video")
        _check_size(path, image.width, image.height)
        if image.mode not in _EIGHT_BITS | _SIXTEEN_BITS:
            raise DataError(f"{path} holds pixels of mode {image.mode}: save it as 8-bit RGB")
        return ImageOps.exif_transpose(image)


def _decode_tiff(path: Path) -> Image.Image:
    """What Pillow cannot read, for example the frames of CVC-ClinicDB."""
    try:
        pixels = skimage.io.imread(path)
    except Exception as error:  # tifffile raises a dozen kinds
        raise DataError(f"{path} cannot be decoded ({error}): copy it again") from error
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or pixels.shape[2:] not in ((), (3,)):
        raise DataError(
            f"{path} holds {pixels.dtype} of shape {pixels.shape}: save it as 8-bit RGB"
        )
    _check_size(path, pixels.shape[1], pixels.shape[0])
    return Image.fromarray(pixels)


def _check_size(path: Path, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise DataError(
            f"{path} has {width}×{height} pixels; at most {MAX_PIXELS:,} are read: cut it or scale "
            "it down"
        )
