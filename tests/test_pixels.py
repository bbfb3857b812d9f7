"""Image files as people have them: each is a frame with the right pixels, or a reason."""

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from polyp_utils.common.exceptions import DataError
from polyp_utils.data import limits, phantom
from polyp_utils.data.pixels import ORIENTATION, read_frame, read_image_header, read_pixels


@pytest.fixture(scope="module")
def frame():
    image, _ = phantom.draw_phantom(0)
    return image[:60, :80].copy()


def saved(path, image, **options):
    image.save(path, **options)
    return path


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".webp"])
def test_lossless_formats_keep_every_pixel(frame, tmp_path, suffix):
    path = saved(tmp_path / f"x{suffix}", Image.fromarray(frame), **{"lossless": True})
    assert (read_frame(path) == frame).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_frames_are_turned_as_a_viewer_turns_them(frame, tmp_path, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = saved(tmp_path / "x.png", Image.fromarray(frame), exif=exif)
    shown = {
        1: frame,
        2: frame[:, ::-1],
        3: frame[::-1, ::-1],
        4: frame[::-1],
        5: frame.transpose(1, 0, 2),
        6: frame.transpose(1, 0, 2)[:, ::-1],
        7: frame.transpose(1, 0, 2)[::-1, ::-1],
        8: frame.transpose(1, 0, 2)[::-1],
    }[orientation]
    assert (read_frame(path) == shown).all()


def test_grey_palette_alpha_and_cmyk_become_rgb(frame, tmp_path):
    image = Image.fromarray(frame)
    grey = np.asarray(image.convert("L"))
    alpha = np.full(grey.shape, 7, np.uint8)
    cases = {
        "grey.png": (image.convert("L"), np.stack([grey] * 3, axis=2)),
        "alpha.png": (Image.fromarray(np.dstack([frame, alpha])), frame),
        "grey-alpha.png": (Image.fromarray(np.dstack([grey, alpha])), np.stack([grey] * 3, axis=2)),
        "palette.png": (image.quantize(16), np.asarray(image.quantize(16).convert("RGB"))),
        "cmyk.tif": (image.convert("CMYK"), np.asarray(image.convert("CMYK").convert("RGB"))),
        "two.png": (image.convert("1"), np.asarray(image.convert("1").convert("RGB"))),
    }
    for name, (given, expected) in cases.items():
        assert (read_frame(saved(tmp_path / name, given)) == expected).all(), name


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bits_are_scaled_down(tmp_path, suffix, channels):
    levels = np.array([[0, 257, 32768], [65535, 128, 129]], np.uint16)
    if channels > 1:
        levels = np.stack([levels, levels // 2, levels * 0, levels][:channels], axis=2)
        cv2.imwrite(str(tmp_path / f"x{suffix}"), levels[..., [2, 1, 0, 3][:channels]])
    else:
        Image.fromarray(levels).save(tmp_path / f"x{suffix}")
    seen = read_frame(tmp_path / f"x{suffix}")
    assert seen[..., 0].tolist() == [[0, 1, 128], [255, 0, 1]]
    if channels > 1:
        assert seen[..., 1].tolist() == [[0, 0, 64], [127, 0, 0]]


@pytest.mark.parametrize("orientation", [3, 6])
def test_a_tiff_of_16_bits_is_turned_once(frame, tmp_path, orientation):
    tag = [(ORIENTATION, "H", 1, orientation, True)]
    deep = frame.astype(np.uint16) * 257
    tifffile.imwrite(tmp_path / "deep.tif", deep, photometric="rgb", extratags=tag)
    tifffile.imwrite(tmp_path / "x.tif", frame, photometric="rgb", extratags=tag)
    assert (read_frame(tmp_path / "deep.tif") == read_frame(tmp_path / "x.tif")).all()


@pytest.mark.parametrize("bits", [8, 16, 1])
@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
def test_tiffs_are_read_as_their_header_says(tmp_path, bits, photometric):
    bright = np.arange(64).reshape(4, 16) % 3 == 0
    values = {8: bright * np.uint8(255), 16: bright * np.uint16(65535), 1: bright}[bits]
    white = photometric == "miniswhite"
    stored = {True: ~bright, False: 65535 - values if bits == 16 else 255 - values}[bits == 1]
    tifffile.imwrite(tmp_path / "x.tif", stored if white else values, photometric=photometric)
    assert ((read_frame(tmp_path / "x.tif")[..., 0] == 255) == bright).all()


@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", "tiff_adobe_deflate", "jpeg"])
def test_compressed_tiffs_are_read(frame, tmp_path, compression):
    path = saved(tmp_path / "x.tif", Image.fromarray(frame), compression=compression)
    assert np.abs(read_frame(path) - frame.astype(int)).mean() < (8 if compression == "jpeg" else 1)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_float_greys_up_to_one(tmp_path, dtype):
    tifffile.imwrite(tmp_path / "x.tif", np.array([[0, 0.5, 1]], dtype), photometric="minisblack")
    assert read_frame(tmp_path / "x.tif")[..., 0].tolist() == [[0, 128, 255]]


def test_a_palette_keeps_its_indices(tmp_path):
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    pixels = read_pixels(saved(tmp_path / "x.png", image))
    assert pixels.indices.tolist() == [[0, 1, 2]]
    assert pixels.values.tolist() == [[[0, 0, 0], [128, 0, 0], [0, 128, 0]]]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg"])
def test_both_views_of_a_turned_image(frame, tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = saved(tmp_path / f"x{suffix}", Image.fromarray(frame), exif=exif)
    plain = read_frame(saved(tmp_path / f"plain{suffix}", Image.fromarray(frame)))
    pixels, header = read_pixels(path), read_image_header(path)
    assert (pixels.stored().values == plain).all()
    assert pixels.orientation == header.orientation == orientation
    assert header.size == pixels.values.shape[:2]
    assert header.stored_size == plain.shape[:2]


def test_a_tiff_that_pillow_cannot_read(frame, tmp_path):
    tifffile.imwrite(
        tmp_path / "x.tif", frame, photometric="rgb", planarconfig="contig", tile=(16, 16)
    )
    assert (read_frame(tmp_path / "x.tif") == frame).all()


def text(content):
    return lambda path: path.write_bytes(content)


def tiff(values, **options):
    return lambda path: tifffile.imwrite(path, values, **options)


def png(values):
    return lambda path: Image.fromarray(values).save(path)


FIVE = {"photometric": "minisblack", "planarconfig": "contig"}
REFUSED = {
    "empty.png": (text(b""), r"is empty \(0 bytes\): copy it again"),
    "page.png": (text(b"<!DOCTYPE html>"), "is a web page or XML instead of an image"),
    "pointer.jpg": (text(b"version https://git-lfs.github.com/spec/v1\n"), "run `git lfs pull`"),
    "words.png": (text(b"hello, world"), r"begins with b'hello, w', so it is no PNG"),
    "half.tif": (text(b"II*\0"), "is damaged .*: copy it again"),
    "array.png": (text(b"\x93NUMPY"), "is a NumPy array: save it as PNG"),
    "dark.png": (
        png(np.full((4, 4), 4095, np.uint16)),
        "uint16 values from 4095 to 4095, so",
    ),
    "dim.png": (png(np.full((4, 4), 16383, np.uint16)), "16383, so which is white is not certain"),
    "hdr.tif": (tiff(np.full((4, 4), 7.5, np.float32)), "from 7.5 to 7.5, so which is white"),
    "nan.tif": (tiff(np.full((4, 4), np.nan, np.float32)), "values that are not finite"),
    "below.tif": (tiff(np.full((4, 4), -1, np.int16)), "from -1 to -1"),
    "signed.tif": (tiff(np.full((4, 4), 1, np.int8)), "signed 8-bit values"),
    "five.tif": (tiff(np.zeros((4, 4, 5), np.uint8), **FIVE), r"array of shape \(4, 4, 5\)"),
    "two.tif": (tiff(np.zeros((4, 4, 2), np.uint8), **FIVE), r"channels whose meaning|\(4, 4, 2\)"),
    "pages.tif": (tiff(np.zeros((3, 4, 4), np.uint8), photometric="minisblack"), "holds 3 images"),
    "large.png": (png(np.zeros((61, 80), np.uint8)), "80×61 pixels; at most 4,800 are read"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_frame_is_refused_with_a_reason(tmp_path, monkeypatch, name):
    monkeypatch.setattr(limits, "MAX_PIXELS", 60 * 80)
    write, reason = REFUSED[name]
    write(tmp_path / name)
    with pytest.raises(DataError, match=reason) as caught:
        read_frame(tmp_path / name)
    assert name in str(caught.value)


def test_damaged_files_and_links(frame, tmp_path):
    jpeg = saved(tmp_path / "whole.jpg", Image.fromarray(frame)).read_bytes()
    (tmp_path / "half.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (tmp_path / "link.jpg").symlink_to(tmp_path / "gone.jpg")
    saved(
        tmp_path / "moving.gif",
        Image.fromarray(frame),
        save_all=True,
        append_images=[Image.fromarray(frame[::-1])],
    )
    for name, reason in {
        "half.jpg": "is damaged .*: copy it again",
        "link.jpg": "is a link to a file that does not exist",
        "gone.jpg": "does not exist: put the file there",
        "moving.gif": "holds 2 images",
    }.items():
        with pytest.raises(DataError, match=reason):
            read_frame(tmp_path / name)
    with pytest.raises(DataError, match="is a link to a file that does not exist"):
        read_image_header(tmp_path / "link.jpg")


def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    path = saved(tmp_path / "bomb.png", Image.new("RGB", (40, 40)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DataError, match=r"has 1,600 pixels; at most .* are read: cut it"):
        read_frame(path)
