"""Image files as people have them: each is a frame with the right pixels, or a reason."""

import numpy as np
import pytest
from PIL import Image

from polyp_utils.common.exceptions import DataError
from polyp_utils.data import phantom, pixels
from polyp_utils.data.pixels import read_frame

ORIENTATION = 274  # EXIF tag


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
def test_16_bit_greys_are_scaled_down(tmp_path, suffix):
    levels = np.array([[0, 257, 32768], [65535, 128, 129]], np.uint16)
    path = saved(tmp_path / f"x{suffix}", Image.fromarray(levels))
    assert read_frame(path)[..., 1].tolist() == [[0, 1, 128], [255, 0, 1]]


def test_a_tiff_that_pillow_cannot_read(frame, tmp_path):
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(
        tmp_path / "x.tif", frame, photometric="rgb", planarconfig="contig", tile=(16, 16)
    )
    assert (read_frame(tmp_path / "x.tif") == frame).all()


def test_what_is_no_frame_is_refused_with_a_reason(frame, tmp_path, monkeypatch):
    image = Image.fromarray(frame)
    jpeg = saved(tmp_path / "whole.jpg", image).read_bytes()
    monkeypatch.setattr(pixels, "MAX_PIXELS", 60 * 80)
    cases = {
        "empty.png": (b"", "is empty"),
        "text.png": (b"<html>", "cannot be decoded"),
        "half.jpg": (jpeg[: len(jpeg) // 2], "cannot be decoded"),
        "half.tif": (b"II*\0", "cannot be decoded"),
    }
    for name, (content, _) in cases.items():
        (tmp_path / name).write_bytes(content)
    saved(tmp_path / "animated.gif", image, save_all=True, append_images=[image.rotate(90)])
    saved(tmp_path / "dark.png", Image.fromarray(np.full((4, 4), 4095, np.uint16)))
    saved(tmp_path / "float.tif", Image.fromarray(np.ones((4, 4), np.float32)))
    saved(tmp_path / "large.png", Image.new("RGB", (80, 61)))
    reasons = {name: reason for name, (_, reason) in cases.items()}
    reasons |= {
        "animated.gif": "holds 2 images",
        "dark.png": "levels 4095 to 4095, so which is white is not certain",
        "float.tif": "pixels of mode F",
        "large.png": "80×61 pixels; at most 4,800 are read",
    }
    for name, reason in reasons.items():
        with pytest.raises(DataError, match=reason) as caught:
            read_frame(tmp_path / name)
        assert name in str(caught.value)


def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    path = saved(tmp_path / "bomb.png", Image.new("RGB", (40, 40)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DataError, match=r"is too large .*: cut it or scale it down"):
        read_frame(path)
