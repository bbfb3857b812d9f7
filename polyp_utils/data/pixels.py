"""How the pixels of an image file become arrays: one way for frames, masks and predictions.

Pillow decodes, tifffile what Pillow cannot. What the file says of its pixels is followed: its EXIF
orientation, palette, photometric interpretation and bit depth. Where a file leaves open what is
meant, the error says what was seen.
"""

import io
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from polyp_utils.common.exceptions import DataError
from polyp_utils.data.limits import MAX_BYTES, check_pages, check_size, too_large

ORIENTATION = 0x0112  # EXIF tag; 1 is upright
_FORMATS = ("PNG", "JPEG", "BMP", "DIB", "TIFF", "WEBP", "GIF")  # EPS would run a program
_LOSSY = ("JPEG", "MPO", "WEBP")
_MODES = {"1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr"}
_WITH_ALPHA = {"LA", "La", "PA", "RGBA", "RGBa"}
_DEEP = {"I;16", "I;16L", "I;16B", "I", "F"}
_PHOTOMETRIC, _EXTRA_SAMPLES, _SAMPLE_FORMAT = 262, 338, 339  # TIFF tags
_PNG = b"\x89PNG\r\n\x1a\n"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_BEGINNINGS = {
    b"version https://git-lfs": "a git-lfs pointer instead of the file: run `git lfs pull`",
    b"<": "a web page or XML instead of an image: download it again, logged in if need be",
    b"PK": "a ZIP archive: unpack it",
    b"%PDF": "a PDF: export its images as PNG",
    b"\x93NUMPY": "a NumPy array: save it as PNG",
}


@dataclass(frozen=True)
class Pixels:
    """The pixels of an image file, upright as its EXIF orientation says.

    Attributes:
        path: of the file, for messages.
        values: (H, W) grey or (H, W, 3) RGB: uint8, or the deeper type that the file has. One bit
            becomes 0 and 255, palettes, CMYK and YCbCr become RGB.
        indices: uint8 (H, W), the indices into a palette; None without one.
        alpha: opacity (H, W), of the values' type; None if the file has none.
        orientation: EXIF orientation, 1 to 8; 1 if the file does not say.
        lossy: whether the format changes values, as JPEG does.
        classes: text of that name in a PNG, in which `predict` names the class of each index.
    """

    path: Path
    values: np.ndarray
    indices: np.ndarray | None = None
    alpha: np.ndarray | None = None
    orientation: int = 1
    lossy: bool = False
    classes: str = ""

    def stored(self) -> "Pixels":
        """The pixels in the file's own order, as programs that ignore EXIF see them."""
        back = {6: 8, 8: 6}.get(self.orientation, self.orientation)
        return self._turned(back)

    def _turned(self, orientation: int) -> "Pixels":
        arrays: Any = {
            name: _turn(array, orientation)
            for name in ("values", "indices", "alpha")
            if (array := getattr(self, name)) is not None
        }
        return replace(self, **arrays)

    def levels(self) -> np.ndarray:
        """The values as 8-bit levels, uint8; deeper ones are scaled if their range is certain.

        Certain are float values up to 1, integers that use the top bit of 16, and black.

        Raises:
            DataError: any other range.
        """
        values = self.values
        if values.dtype == np.uint8:
            return values
        low, top = values.min(), values.max()
        if not np.isfinite(values).all():
            raise DataError(f"{self.path} holds values that are not finite: save it with 8 bits")
        is_float = np.issubdtype(values.dtype, np.floating)
        white = 1 if is_float and top <= 1 else 65535
        certain = top == 0 or (white / 2 <= top <= white and not (is_float and top > 1))
        if low < 0 or not certain:
            raise DataError(
                f"{self.path} holds {values.dtype} values from {low:g} to {top:g}, so which is "
                "white is not certain: save it with 8 bits"
            )
        return np.asarray((values * (255 / white)).round().astype(np.uint8))


def read_frame(path: Path) -> np.ndarray:
    """Decodes an image file to RGB, uint8 (H, W, 3), upright; alpha is left aside.

    Raises:
        DataError: as in `read_pixels` and `Pixels.levels`.
    """
    return as_rgb(read_pixels(path))


def as_rgb(pixels: Pixels) -> np.ndarray:
    """RGB uint8 (H, W, 3) of a grey or colour image; errors as in `Pixels.levels`."""
    levels = pixels.levels()
    return levels if levels.ndim == 3 else np.repeat(levels[..., None], 3, axis=2)


def read_pixels(path: Path) -> Pixels:
    """Decodes an image file completely.

    Raises:
        DataError: missing, empty, damaged or no image; more than `MAX_PIXELS`; several pages; or
            pixels of a kind that is not read. The message says what was seen and what to do.
    """
    data = _read_bytes(path)
    try:
        return _read_with_pillow(path, data)
    except DataError:
        raise
    except Exception as error:  # Pillow raises a dozen kinds
        if data.startswith(_TIFF):
            return _read_with_tifffile(path, data, error)
        raise _undecodable(path, data, error) from error


@dataclass(frozen=True)
class ImageHeader:
    """What an image file says of itself: ``size`` (height, width) when upright, EXIF."""

    size: tuple[int, int]
    orientation: int

    @property
    def stored_size(self) -> tuple[int, int]:
        """Height and width in the file's own order."""
        return self.size[::-1] if self.orientation >= 5 else self.size


def read_image_header(path: Path) -> ImageHeader:
    """Size and orientation, without decoding if the format allows; errors as in `read_pixels`."""
    data = _read_bytes(path)
    try:
        with _opened(path, data) as image:
            size, orientation = image.size[::-1], _orientation(image, data)
            if image.format != "TIFF":  # Pillow gives a TIFF's size upright
                return ImageHeader(size[::-1] if orientation >= 5 else size, orientation)
    except DataError:
        raise
    except Exception as error:
        if not data.startswith(_TIFF):
            raise _undecodable(path, data, error) from error
    pixels = read_pixels(path)
    return ImageHeader((pixels.values.shape[0], pixels.values.shape[1]), pixels.orientation)


def _read_bytes(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size == 0:
            raise DataError(f"{path} is empty (0 bytes): copy it again")
        if size > MAX_BYTES:
            raise DataError(
                f"{path} has {size:,} bytes; at most {MAX_BYTES:,} are read as an image"
            )
        return path.read_bytes()
    except FileNotFoundError as error:
        what = "is a link to a file that does not exist" if path.is_symlink() else "does not exist"
        raise DataError(f"{path} {what}: put the file there, or remove the name") from error
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror}): check its permissions"
        ) from error


def _opened(path: Path, data: bytes) -> Image.Image:
    """The image, its header read and its size within bounds."""
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
    except Image.DecompressionBombError as error:
        pixels = int(re.findall(r"\d+", str(error))[0])
        raise too_large(path, f"{pixels:,}") from error
    check_size(path, image.width, image.height)
    return image


def _read_with_pillow(path: Path, data: bytes) -> Pixels:
    if data.startswith(_PNG):  # its checksums, which decoding does not look at
        _opened(path, data).verify()
    with _opened(path, data) as image:
        pages = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)  # MPO: previews
        check_pages(path, pages)
        orientation, tags = _orientation(image, data), getattr(image, "tag_v2", {})
        _check_tags(path, tags, image.mode)
        if image.mode not in _MODES | _WITH_ALPHA | _DEEP:
            raise DataError(f"{path} holds pixels of mode {image.mode}: save it as 8-bit RGB")
        tiles = str(getattr(image, "tile", ""))  # how its parts are coded
        deep = ";16" in tiles and image.mode not in _DEEP  # Pillow would cut it to 8 bits
        image.load()
        left = image.getexif().get(ORIENTATION, 1) if orientation != 1 else 1  # TIFFs are turned
        pixels = _with_cv2(path, data) if deep else _of_image(path, image)
    if image.mode in _DEEP and tags.get(_PHOTOMETRIC) == 0:  # white is zero; Pillow heeds 8 bits
        pixels = replace(pixels, values=np.iinfo(np.uint16).max - pixels.values)
    lossy = image.format in _LOSSY or "jpeg" in str(image.info.get("compression"))
    turn = orientation if deep and image.format != "TIFF" else left  # OpenCV turns TIFFs too
    upright, classes = pixels._turned(turn), str(image.info.get("classes", ""))
    return replace(upright, orientation=orientation, lossy=lossy, classes=classes)


def _check_tags(path: Path, tags: dict[int, object], mode: str) -> None:
    """Refuses TIFFs of which Pillow would drop or misread something."""
    extra, form = tags.get(_EXTRA_SAMPLES, ()), tags.get(_SAMPLE_FORMAT, (1,))
    if mode == "L" and extra:
        raise DataError(
            f"{path} has channels whose meaning it does not say: save it as grey or RGB"
        )
    if mode not in _DEEP and any(int(kind) == 2 for kind in np.atleast_1d(np.asarray(form))):
        raise DataError(f"{path} holds signed 8-bit values: save it with unsigned 8 bits, 0 to 255")


def _of_image(path: Path, image: Image.Image) -> Pixels:
    if image.mode in _DEEP:
        return Pixels(path, np.asarray(image))
    indices = (
        np.array(image.convert("P") if image.mode == "PA" else image)
        if (image.mode in ("P", "PA"))
        else None
    )
    if image.mode in _WITH_ALPHA or "transparency" in image.info:
        rgba = np.asarray(image.convert("RGBA"))
        return Pixels(path, rgba[..., :3], indices, rgba[..., 3])
    if image.mode == "RGBX":
        rgbx = np.asarray(image)
        return Pixels(path, rgbx[..., :3], None, rgbx[..., 3])
    grey = image.mode in ("1", "L")
    return Pixels(path, np.asarray(image.convert("L" if grey else "RGB")), indices)


def _with_cv2(path: Path, data: bytes) -> Pixels:
    """A colour image of 16 bits per channel."""
    import cv2  # slow, and rarely needed

    flags = cv2.IMREAD_UNCHANGED
    values = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if values is None or values.dtype != np.uint16 or values.ndim != 3:
        raise DataError(
            f"{path} has 16 bits per channel and cannot be read so: save it with 8 bits"
        )
    alpha = values[..., 3] if values.shape[2] == 4 else None
    return Pixels(path, values[..., 2::-1], alpha=alpha)


def _read_with_tifffile(path: Path, data: bytes, first: Exception) -> Pixels:
    """What Pillow cannot read, for example float64 and tiles of odd sizes."""
    from polyp_utils.data.tiff import decode  # slow, and rarely needed

    try:
        values, orientation = decode(path, data)
    except DataError:
        raise
    except Exception as error:  # tifffile raises a dozen kinds
        raise _undecodable(path, data, first) from error
    alpha = values[..., 3] if values.ndim == 3 and values.shape[2] == 4 else None
    colours = values[..., :3] if values.ndim == 3 else values
    return replace(Pixels(path, colours, alpha=alpha)._turned(orientation), orientation=orientation)


def _orientation(image: Image.Image, data: bytes) -> int:
    """EXIF orientation; a PNG is not decoded for it unless it has one."""
    marks = (b"eXIf", b"Raw profile type", b"tiff:Orientation")
    if image.format == "PNG" and not any(mark in data for mark in marks):
        return 1
    found = image.getexif().get(ORIENTATION, 1)
    return found if found in range(1, 9) else 1


def _turn(array: np.ndarray, orientation: int) -> np.ndarray:
    """The array (H, W, …) as a viewer shows it that heeds the EXIF orientation."""
    if orientation >= 5:
        array = array.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    return np.ascontiguousarray(array)


def _undecodable(path: Path, data: bytes, error: Exception) -> DataError:
    for beginning, what in _BEGINNINGS.items():
        if data.lstrip().startswith(beginning):
            return DataError(f"{path} is {what}")
    if data[128:132] == b"DICM":
        return DataError(f"{path} is DICOM: export the frame as PNG")
    if isinstance(error, Image.UnidentifiedImageError):
        if not data.startswith((_PNG, b"\xff\xd8", *_TIFF)):
            kinds = "PNG, JPEG, TIFF, BMP, WebP or GIF"
            return DataError(
                f"{path} begins with {data[:8]!r}, so it is no {kinds}: save it as PNG"
            )
        return DataError(f"{path} is damaged (its header cannot be read): copy it again")
    return DataError(f"{path} is damaged ({error}): copy it again")
