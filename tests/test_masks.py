"""Mask files as people have them: each is the mask that is meant, or a reason."""

import numpy as np
import pytest
import tifffile
from PIL import Image

from polyp_utils.common.exceptions import DataError
from polyp_utils.data.masks import mask_file
from polyp_utils.data.pixels import ORIENTATION, read_pixels
from polyp_utils.data.sources import FolderSource

MASK = np.zeros((40, 60), np.uint8)
MASK[10:24, 20:44] = 255
POLYP = MASK > 0
FULL = np.full_like(MASK, 255)


def levels_of(path):
    found = mask_file(read_pixels(path))
    found.check()
    return found.levels


def stacked(*channels):
    return Image.fromarray(np.dstack(channels))


def with_palette(*colours):
    image = Image.fromarray(POLYP.astype(np.uint8), "P")
    image.putpalette([*colours[0], *colours[1]])
    return image


RED = [MASK, MASK * 0, MASK * 0]
RIM = np.pad(POLYP, 1)[2:, 1:-1] & ~POLYP
LARGE = Image.fromarray(MASK).resize((120, 80), Image.Resampling.BILINEAR)
MEANT = {
    "grey": Image.fromarray(MASK),
    "one bit": Image.fromarray(MASK).convert("1"),
    "16 bits": Image.fromarray(MASK.astype(np.uint16) * 257),
    "255 in 16 bits": Image.fromarray(MASK.astype(np.uint16)),
    "palette": with_palette((0, 0, 0), (255, 255, 255)),
    "red palette": with_palette((0, 0, 0), (255, 0, 0)),
    "opaque": stacked(MASK, MASK, MASK, FULL),
    "half opaque": stacked(MASK, MASK, MASK, FULL // 2),
    "white, alpha": stacked(FULL, FULL, FULL, MASK),
    "red, alpha": stacked(FULL, MASK * 0, MASK * 0, MASK),
    "grey and alpha": stacked(FULL, MASK),
    "alpha as colours": stacked(MASK, MASK, MASK, MASK),
    "transparent outside": stacked(*RED, MASK),
    "a thin rim of another level": Image.fromarray(np.where(RIM, 11, MASK)),
    "soft edges": LARGE.resize((60, 40)),
}


@pytest.mark.parametrize("name", MEANT)
def test_the_mask_that_is_meant(name, tmp_path):
    MEANT[name].save(tmp_path / "x.png")
    assert ((levels_of(tmp_path / "x.png") > 127) == POLYP).all()


def test_floats_of_nought_and_one(tmp_path):
    tifffile.imwrite(tmp_path / "x.tif", POLYP.astype(np.float32), photometric="minisblack")
    assert (levels_of(tmp_path / "x.tif") == MASK).all()


@pytest.mark.parametrize("colour", [0, 255])
def test_a_frame_without_polyp_by_transparency_is_empty(colour, tmp_path):
    plain = np.full_like(MASK, colour)
    stacked(plain, plain, plain, MASK * 0).save(tmp_path / "x.png")
    assert not levels_of(tmp_path / "x.png").any()


ELSE = MASK[::-1, ::-1]
LABELS = POLYP.astype(np.uint8)
VOID = np.where(RIM, 255, LABELS)
CROSS = [np.where(np.arange(60) < 2, value, MASK) for value in (255, 0, 0)]
THREE = LABELS * 85 + (MASK[::-1] > 0) * np.uint8(170)
REFUSED = {
    "black, alpha": (
        stacked(MASK * 0, MASK * 0, MASK * 0, MASK),
        r"the colour \[0, 0, 0\] everywhere but",
    ),
    "two masks": (stacked(MASK, MASK, MASK, ELSE), "one mask by its colours but another mask"),
    "transparent": (stacked(MASK, MASK, MASK, MASK * 0), "another mask by its transparency"),
    "labels": (Image.fromarray(LABELS), "holds only levels 0 to 1, so it would count as empty"),
    "labels, void": (Image.fromarray(VOID), r"the levels 0 \(2040 px\), 1 \(336 px\), 255 \(24 px"),
    "labels, grey": (Image.fromarray(THREE), "class labels"),
    "labels in 16 bits": (Image.fromarray(LABELS.astype(np.uint16)), "only levels 0 to 1"),
    "percent": (Image.fromarray(LABELS * 100), "neither near 0 nor near 255"),
    "12 bits": (Image.fromarray(LABELS.astype(np.uint16) * 4095), "uint16 values from 0 to 4095"),
    "blue": (with_palette((0, 0, 0), (0, 0, 255)), "nor red or green"),
    "cross": (stacked(*CROSS), "is a black and white mask with 80 coloured pixels"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_certain_is_refused(name, tmp_path):
    image, reason = REFUSED[name]
    image.save(tmp_path / "x.png")
    with pytest.raises(DataError, match=reason) as caught:
        levels_of(tmp_path / "x.png")
    assert "x.png" in str(caught.value)


def a_pair(folder, orientation, mask, of_mask=1):
    for name, pixels, turn in (
        ("images", np.dstack([MASK] * 3), orientation),
        ("masks", mask, of_mask),
    ):
        (folder / name).mkdir(parents=True)
        exif = Image.Exif()
        exif[ORIENTATION] = turn
        Image.fromarray(pixels).save(
            folder / name / "a.png", **({"exif": exif} if turn > 1 else {})
        )
    return FolderSource(folder)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("upright", [True, False])
def test_image_and_mask_have_one_view(orientation, upright, tmp_path):
    plain = a_pair(tmp_path / "plain", 1, MASK)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(MASK).save(tmp_path / "turned.png", exif=exif)
    turned = read_pixels(tmp_path / "turned.png").values
    source = a_pair(tmp_path / "set", orientation, turned if upright else plain.read_mask("a"))
    assert source.orientation("a") == orientation
    if orientation in (2, 3, 4):
        with pytest.raises(DataError, match=f"EXIF orientation {orientation}, and .* both turned"):
            source.read_image("a")
    else:
        assert (source.read_image("a")[..., 0] == source.read_mask("a")).all()


def test_a_mask_with_an_orientation_of_its_own(tmp_path):
    both = a_pair(tmp_path / "both", 6, MASK, of_mask=6)
    assert (both.read_image("a")[..., 0] == both.read_mask("a")).all()
    alone = a_pair(tmp_path / "alone", 1, MASK, of_mask=6)
    assert (alone.read_image("a")[..., 0] == alone.read_mask("a")).all()
    with pytest.raises(DataError, match=r"masks/a.png .* has EXIF orientation 3"):
        a_pair(tmp_path / "mirrored", 1, MASK, of_mask=3).read_mask("a")
