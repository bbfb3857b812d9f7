"""Pairing in folders of all layouts; no file is dropped silently."""

import re

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from polyp_utils.common.exceptions import DataError
from polyp_utils.data.layout import find_pairs
from polyp_utils.data.sources import FolderSource

LAYOUTS = {
    "Kvasir-SEG": ("images/{}.jpg", "masks/{}.jpg"),
    "ClinicDB as TIFF": ("Original/{}.tif", "Ground Truth/{}.tif"),
    "NeoPolyp": ("train/{}.jpeg", "train_gt/{}.jpeg"),
    "NeoPolyp as Kaggle gives it": ("train/train/{}.jpeg", "train_gt/train_gt/{}.jpeg"),
    "ETIS": ("ETIS-LaribPolypDB/{}.tif", "Ground Truth/p{}.tif"),
    "EndoScene": ("bbdd/{}.bmp", "gtpolyp/{}.bmp"),
    "PraNet": ("image/{}.png", "mask/{}.png"),
    "nested": ("data/polyps/imgs/{}.BMP", "data/polyps/labels/{}.png"),
    "one folder": ("{}.jpg", "{}_mask.png"),
    "two words": ("img_{}.jpg", "mask_{}.png"),
    "beside": ("frames/{}.jpg", "GroundTruth/{}_seg.png"),
}


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


@pytest.mark.parametrize(
    ("layout", "stems"),
    [
        (layout, stems)
        for layout in LAYOUTS
        for stems in (("1", "2", "10"), ("cju0q", "cju1x"), ("only",))
        if (layout, stems) != ("ETIS", ("only",))  # whether p belongs to the name is undecidable
    ],
)
def test_layouts(layout, stems, tmp_path):
    image, mask = LAYOUTS[layout]
    pairs = [(touch(tmp_path / image.format(s)), touch(tmp_path / mask.format(s))) for s in stems]
    for clutter in ("README.txt", ".DS_Store", "__MACOSX/images/a.jpg", "images/Thumbs.db"):
        touch(tmp_path / clutter)
    found = find_pairs(tmp_path)
    assert sorted(found.pairs.values()) == sorted(pairs)
    assert found.problems == ()
    assert list(found.pairs) == sorted(pair[0].stem for pair in pairs)


def test_a_bundle_keeps_its_sets_apart(tmp_path):
    for name in ("Kvasir", "CVC-300"):
        for folder in ("images", "masks"):
            touch(tmp_path / "TestDataset" / name / folder / "1.png")
    found = find_pairs(tmp_path)
    assert list(found.pairs) == ["TestDataset/CVC-300/1", "TestDataset/Kvasir/1"]
    assert all(image.parent.parent == mask.parent.parent for image, mask in found.pairs.values())


def test_folders_to_ignore(tmp_path):
    for path in ("train/a.jpg", "train_gt/a.jpg", "extra/b.jpg"):
        touch(tmp_path / path)
    assert list(find_pairs(tmp_path, ignore=["extra"]).pairs) == ["a"]
    with pytest.raises(
        DataError, match=r"extra has no counterpart\. Found: extra \(images\), train "
    ):
        find_pairs(tmp_path)


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ((), "holds no image files"),
        (("notes.txt",), "holds no image files"),
        (("images/a.jpg",), "holds images but no masks"),
        (("masks/a.jpg",), "holds masks (masks) but no images"),
        (("a.jpg", "b.jpg"), "holds images but no masks"),
        (("images/a.jpg", "masks/a.png", "labels/a.png"), "labels and masks both belong to"),
        (("images/a.jpg", "original/a.jpg", "masks/a.png"), "images and original both belong"),
        (("x/a.jpg", "y/a.jpg", "masks/a.png"), "x has no counterpart. Found: masks (masks), x"),
    ],
)
def test_ambiguity_is_an_error(paths, message, tmp_path):
    for path in paths:
        touch(tmp_path / path)
    with pytest.raises(DataError, match=re.escape(message)):
        find_pairs(tmp_path)


def test_a_folder_that_does_not_exist(tmp_path):
    with pytest.raises(DataError, match="nowhere does not exist"):
        find_pairs(tmp_path / "nowhere")


def test_an_unsupported_format_is_reported(tmp_path):
    for path in ("images/a.jpg", "images/b.webp", "masks/a.jpg", "masks/b.webp"):
        touch(tmp_path / path)
    problems = find_pairs(tmp_path).problems
    assert len(problems) == 2
    assert all("b.webp is in an unsupported format" in problem for problem in problems)
    with pytest.raises(DataError, match=r"b\.webp"):
        FolderSource(tmp_path)


def test_masks_in_an_unsupported_format_are_named(tmp_path):
    for path in ("images/a.jpg", "masks/a.gif"):
        touch(tmp_path / path)
    with pytest.raises(DataError, match=r"masks/a\.gif is in an unsupported format"):
        find_pairs(tmp_path)


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path):
    for path in ("elsewhere/images/a.png", "elsewhere/masks/a.png"):
        touch(tmp_path / path)
    folder = tmp_path / "set"
    folder.mkdir()
    for name in ("images", "masks"):
        (folder / name).symlink_to(tmp_path / "elsewhere" / name)
    (folder / "again").symlink_to(folder)
    found = find_pairs(folder)
    assert found.pairs == {"a": (folder / "images/a.png", folder / "masks/a.png")}
    assert not found.problems


def test_one_bit_masks_load(tmp_path):
    for index, suffix in enumerate((".tif", ".png", ".bmp")):
        write(tmp_path / f"images/{index}.png")
        (tmp_path / "masks").mkdir(exist_ok=True)
        pixels = np.zeros((6, 5), bool)
        pixels[1:3, 1:4] = True
        Image.fromarray(pixels).save(tmp_path / f"masks/{index}{suffix}")
    source = FolderSource(tmp_path)
    for frame_id in ("0", "1", "2"):
        mask = source.read_mask(frame_id)
        assert mask.dtype == np.uint8
        assert (mask == 255).sum() == mask.astype(bool).sum() == 6


def write(path, height=6, width=5, mask=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[1:3, 1:4] = 255 if mask else (200, 120, 90)
    Image.fromarray(pixels).save(path)


STEMS = st.text("abAB019_- ", min_size=1, max_size=6).map(str.strip).filter(bool)
DAMAGE = ("none", "no mask", "no image", "empty", "truncated", "text", "size", "webp", "twice")
DAMAGE += ("other set",)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    stems=st.lists(STEMS, min_size=2, max_size=6, unique_by=str.lower),
    folders=st.sampled_from(
        [("images", "masks"), ("Original", "Ground Truth"), ("x/train", "x/train_gt"), ("im", "gt")]
    ),
    suffixes=st.tuples(*[st.sampled_from([".png", ".bmp", ".tif", ".PNG"])] * 2),
    damage=st.sampled_from(DAMAGE),
    data=st.data(),
)
def test_all_pairs_or_the_first_bad_file(tmp_path_factory, stems, folders, suffixes, damage, data):
    """Whatever the layout and the damage: exactly the existing pairs, or an error."""
    root = tmp_path_factory.mktemp("layout")
    images, masks = (
        {s: root / folder / f"{s}{suffix}" for s in stems}
        for folder, suffix in zip(folders, suffixes, strict=True)
    )
    for stem in stems:
        write(images[stem])
        write(masks[stem], mask=True)
    bad = data.draw(st.sampled_from(stems))
    victim = data.draw(st.sampled_from([images[bad], masks[bad]]))
    content = victim.read_bytes()
    if damage == "no mask":
        masks[bad].unlink()
    elif damage == "no image":
        images[bad].unlink()
    elif damage == "empty":
        victim.write_bytes(b"")
    elif damage == "truncated":
        victim.write_bytes(content[: len(content) // 2])
    elif damage == "text":
        victim.write_text("<html>404</html>")
    elif damage == "size":
        write(masks[bad], height=7, mask=True)
    elif damage == "webp":
        (root / folders[0] / "other.webp").touch()
    elif damage == "other set":
        (root / "B/images").mkdir(parents=True)
        (root / "B/images/other.webp").touch()
    elif damage == "twice":
        twin = victim.with_suffix(".jpg")
        twin.write_bytes(content)

    def load():
        source = FolderSource(root)
        for frame_id in source.ids:
            assert source.read_image(frame_id).shape == (6, 5, 3)
            assert (source.read_mask(frame_id) > 127).sum() == 6
        return source

    if damage == "none":
        source = load()
        assert source.pairs == {s: (images[s], masks[s]) for s in sorted(stems)}
    else:
        with pytest.raises(DataError) as error:
            load()
        named = {"webp": "other.webp", "other set": "other.webp"}
        named |= {"no mask": images[bad].name, "no image": masks[bad].name}
        named["size"] = masks[bad].name
        assert named.get(damage, victim.stem) in str(error.value)
