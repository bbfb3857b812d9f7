import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from skimage import io

from polyp_utils.common.exceptions import DataError
from polyp_utils.data import phantom
from polyp_utils.data.catalog import CATALOG, get_info
from polyp_utils.data.dataset import PolypDataset
from polyp_utils.data.labels import NEOPLASTIC, NON_NEOPLASTIC, is_polyp
from polyp_utils.data.sources import FolderSource, open_source
from polyp_utils.data.splits import load_split

SIZE = 64


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A separate cache folder, for tests that count its files."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("POLYP_CACHE", str(folder))
    return folder


@pytest.fixture
def eight(monkeypatch):
    """The catalogue as if Kvasir-SEG and the phantoms had 8 pairs, so that nothing warns."""
    for name in ("kvasir-seg", "phantom"):
        monkeypatch.setitem(CATALOG, name, replace(CATALOG[name], count=8))


def write_mask(path, mask):
    """Lossless, under the name of the JPEG that it replaces: Pillow detects the format."""
    Image.fromarray(mask).save(path, "PNG")


def assert_equal(one, other):
    assert torch.equal(one.images, other.images)
    assert torch.equal(one.masks, other.masks)
    assert (one.ids, one.fingerprint) == (other.ids, other.fingerprint)


# What is opened


@pytest.mark.usefixtures("eight", "kvasir_like")
def test_frames_are_what_was_drawn():
    data = PolypDataset("kvasir-seg", SIZE)
    assert data.ids == tuple(f"frame-{i}" for i in range(8))
    assert (data.images.dtype, data.images.shape) == (torch.uint8, (8, 3, SIZE, SIZE))
    assert (data.masks.dtype, data.masks.shape) == (torch.uint8, (8, SIZE, SIZE))
    for index in range(8):
        image, mask = map(Image.fromarray, phantom.draw_phantom(index))
        image = np.array(image.resize((SIZE, SIZE), Image.Resampling.BILINEAR)).astype(int)
        mask = np.array(mask.resize((SIZE, SIZE), Image.Resampling.NEAREST))
        seen_image, seen_mask = data[index]
        assert np.abs(seen_image.permute(1, 2, 0).numpy() - image).mean() < 2  # JPEG, quality 95
        np.testing.assert_array_equal(is_polyp(seen_mask).numpy(), mask > 0)


@pytest.mark.usefixtures("eight", "kvasir_like")
def test_original_is_the_frame_at_its_own_size():
    image, mask = PolypDataset("kvasir-seg", SIZE).original("frame-3")
    drawn_image, drawn_mask = phantom.draw_phantom(3)
    assert image.shape == drawn_image.shape
    np.testing.assert_array_equal(mask > 127, drawn_mask > 0)
    assert 0 < np.isin(mask, [0, 255], invert=True).mean() < 0.05  # JPEG artefacts are kept


@pytest.mark.usefixtures("eight")
def test_phantoms_follow_from_their_index():
    data = PolypDataset("phantom", SIZE)
    assert data.ids[-1] == "phantom-0007"
    for seen, drawn in zip(data.original("phantom-0007"), phantom.draw_phantom(7), strict=True):
        np.testing.assert_array_equal(seen, drawn)


@pytest.mark.usefixtures("eight", "kvasir_like")
def test_rows():
    data = PolypDataset("kvasir-seg", SIZE)
    rows = data.rows(["frame-5", "frame-0"])
    assert rows.dtype == torch.int64
    assert rows.tolist() == [5, 0]


@pytest.mark.usefixtures("eight", "kvasir_like")
def test_split_of_another_data_set():
    data = PolypDataset("kvasir-seg", SIZE)
    split = load_split("phantom-240")
    message = (
        "61 of 61 ids are not in Kvasir-SEG, first 'phantom-0300': its 8 frames run from frame-0 "
        "to frame-7; use a split of this data set"
    )
    with pytest.raises(ValueError, match=message):
        data.rows((*split.test, "frame-8"))
    with pytest.raises(ValueError, match="1 of 1 ids are not in Kvasir-SEG, first 'frame-8'"):
        data.original("frame-8")


def test_another_count_than_published_warns(kvasir_like):
    with pytest.warns(UserWarning, match="Kvasir-SEG has 8 pairs on disk, 1000 are published"):
        PolypDataset("kvasir-seg", SIZE)


def test_image_size_below_32():
    with pytest.raises(ValueError, match="image_size is 31; it must be at least 32"):
        PolypDataset("phantom", 31)


@pytest.mark.parametrize(
    ("polyp", "kept"),
    [
        ([(0, 0)], False),
        ([(0, 0), (1, 1)], False),  # the stray pixel touches a polyp only at its corner
        ([(0, 0), (0, 1)], True),
        ([(0, 0), (1, 0)], True),
    ],
)
def test_stray_pixel(polyp, kept, kvasir_like):
    path = kvasir_like / "masks" / "frame-0.jpg"
    mask = np.zeros_like(phantom.draw_phantom(0)[1])
    for row, column in [*polyp, (9, 9)]:
        mask[row, column] = 255
    write_mask(path, mask)
    expected = mask.copy()
    expected[0, 0] = 255 * kept
    np.testing.assert_array_equal(FolderSource(kvasir_like).read_mask("frame-0"), expected)


# Files that cannot be used


def missing_mask(folder):
    (folder / "masks" / "frame-2.jpg").unlink()
    return "{0}/images/frame-2.jpg has no mask, like 1 of 8 files: put the mask into {0}/masks"


def missing_image(folder):
    (folder / "images" / "frame-2.jpg").unlink()
    return "{0}/masks/frame-2.jpg has no image, like 1 of 8 files: put the image into {0}/images"


def missing_folder(folder):
    shutil.rmtree(folder / "masks")
    return "{0} holds images but no masks: put masks into a folder masks/"


def empty_folder(folder):
    shutil.rmtree(folder / "images")
    (folder / "images").mkdir()
    (folder / "images" / "notes.txt").touch()
    return "{0} holds masks (masks) but no images"


def same_stem(folder):
    shutil.copy(folder / "images" / "frame-2.jpg", folder / "images" / "frame-2.PNG")
    return "{0}/images/frame-2.PNG and {0}/images/frame-2.jpg share a stem: keep one"


def other_size(folder):
    write_mask(folder / "masks" / "frame-2.jpg", np.zeros((50, 70), np.uint8))
    height, width = phantom.draw_phantom(2)[1].shape
    return f"{{0}}/masks/frame-2.jpg is 70×50 px but its image {width}×{height}"


def truncated(folder):
    path = folder / "images" / "frame-2.jpg"
    path.write_bytes(path.read_bytes()[:-2000])
    return "{0}/images/frame-2.jpg is damaged (image file is truncated"


def zero_bytes(folder):
    (folder / "masks" / "frame-2.jpg").write_bytes(b"")
    return "{0}/masks/frame-2.jpg is empty (0 bytes): copy it again"


def no_image(folder):
    (folder / "images" / "frame-2.jpg").write_text("<html>404</html>")
    return "{0}/images/frame-2.jpg is a web page or XML instead of an image"


def grey_values(folder):
    mask = np.zeros_like(phantom.draw_phantom(2)[1])
    count = mask.size // 50
    mask.flat[:count] = 100
    mask.flat[count : 2 * count], mask.flat[2 * count : 3 * count] = 60, 190  # decided
    write_mask(folder / "masks" / "frame-2.jpg", mask)
    return (
        f"{{0}}/masks/frame-2.jpg: {count} of {mask.size} pixels are neither near 0 nor near 255, "
        "nor red or green (first: 100 at row 0, column 0), too many for JPEG artefacts and soft "
        "edges. Save the mask as PNG"
    )


def class_labels(folder):
    write_mask(folder / "masks" / "frame-2.jpg", phantom.draw_phantom(2)[1] // 255)
    return "{0}/masks/frame-2.jpg holds only levels 0 to 1, so it would count as empty"


@pytest.mark.usefixtures("eight")
@pytest.mark.parametrize(
    "damage",
    [
        missing_mask,
        missing_image,
        missing_folder,
        empty_folder,
        same_stem,
        other_size,
        truncated,
        zero_bytes,
        no_image,
        grey_values,
        class_labels,
    ],
    ids=lambda function: function.__name__,
)
def test_bad_files_are_named_and_nothing_is_cached(damage, kvasir_like, cache):
    message = damage(kvasir_like).format(kvasir_like)
    with pytest.raises(DataError, match=re.escape(message)):
        PolypDataset("kvasir-seg", SIZE)
    assert list(cache.glob("*")) == []


@pytest.mark.usefixtures("eight")
def test_the_first_bad_file_by_name_is_reported(kvasir_like, cache):
    for name in ("frame-6", "frame-1"):
        (kvasir_like / "images" / f"{name}.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"frame-1\.jpg is empty"):
        PolypDataset("kvasir-seg", SIZE)


# Cache


def refuse(*args):
    raise AssertionError("decoded although the cache holds it")


@pytest.mark.parametrize("name", ["kvasir-seg", "phantom"])
@pytest.mark.usefixtures("eight", "kvasir_like")
def test_second_opening_reads_the_cache(name, cache, monkeypatch):
    first = PolypDataset(name, SIZE)
    monkeypatch.setattr("polyp_utils.data.dataset._decode_all", refuse)
    assert_equal(PolypDataset(name, SIZE), first)
    assert len(list(cache.iterdir())) == 1  # no temporary file is left
    with pytest.raises(AssertionError, match="decoded"):
        PolypDataset(name, 2 * SIZE)  # each size has its own file


def new_content(path):
    write_mask(path, np.zeros_like(phantom.draw_phantom(2)[1]))


def new_time(path):
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))


def new_length(path):
    stat = path.stat()
    path.write_bytes(path.read_bytes() + b"\0")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.usefixtures("eight")
@pytest.mark.parametrize("change", [new_content, new_time, new_length], ids=lambda f: f.__name__)
def test_changed_files_are_decoded_again(change, kvasir_like, cache):
    PolypDataset("kvasir-seg", SIZE)
    change(kvasir_like / "masks" / "frame-2.jpg")
    data = PolypDataset("kvasir-seg", SIZE)
    assert len(list(cache.iterdir())) == 2
    assert is_polyp(data.masks[2]).any() == (change is not new_content)


@pytest.mark.usefixtures("eight", "kvasir_like")
@pytest.mark.parametrize("share", [0, 0.001, 0.5], ids=["empty", "header", "half"])
def test_damaged_cache_is_rebuilt(share, cache):
    first = PolypDataset("kvasir-seg", SIZE)
    (path,) = cache.iterdir()
    content = path.read_bytes()
    path.unlink()  # `first` maps it
    path.write_bytes(content[: int(share * len(content))])
    with pytest.warns(UserWarning, match=rf"cache {path} is damaged \(.*\): rebuilding"):
        again = PolypDataset("kvasir-seg", SIZE)
    assert_equal(again, first)
    assert path.read_bytes() == content


@pytest.mark.usefixtures("eight", "kvasir_like")
@pytest.mark.parametrize("damage", ["tensors", "type", "fingerprint"])
def test_a_cache_of_another_version_is_rebuilt(damage, cache):
    first = PolypDataset("kvasir-seg", SIZE)
    (path,) = cache.iterdir()
    content = path.read_bytes()
    tensors = {key: torch.zeros(8, 2, dtype=torch.uint8) for key in ("images", "masks")}
    if damage != "tensors":
        tensors = {key: value.clone() for key, value in load_file(path).items()}
    if damage == "type":
        tensors["images"] = tensors["images"].half()
    path.unlink()  # `first` maps it
    save_file(tensors, path, {} if damage == "fingerprint" else {"fingerprint": "0"})
    with pytest.warns(UserWarning, match=rf"cache {path} is damaged \(.*\): rebuilding"):
        again = PolypDataset("kvasir-seg", SIZE)
    assert_equal(again, first)
    assert path.read_bytes() == content


@pytest.mark.usefixtures("eight", "kvasir_like")
@pytest.mark.parametrize("blocked", ["folder", "file"])
def test_unwritable_cache_warns_and_continues(blocked, cache):
    first = PolypDataset("kvasir-seg", SIZE)
    (path,) = cache.iterdir()
    shutil.rmtree(cache)
    if blocked == "folder":
        cache.write_text("a file where the folder should be")
    else:  # the temporary file cannot be written: what safetensors raises is not an OSError
        path.with_name(f".{path.name}.{os.getpid()}.tmp").mkdir(parents=True)
    with pytest.warns(UserWarning, match=rf"cache {path} not written \(.*\); set POLYP_CACHE"):
        again = PolypDataset("kvasir-seg", SIZE)
    assert_equal(again, first)


def test_fingerprint_depends_only_on_the_content(kvasir_like, tmp_path):
    first = FolderSource(kvasir_like).fingerprint()
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(kvasir_like, elsewhere, copy_function=shutil.copyfile)  # new times
    assert FolderSource(elsewhere).stamp() != FolderSource(kvasir_like).stamp()
    assert FolderSource(elsewhere).fingerprint() == first
    path = elsewhere / "images" / "frame-4.jpg"
    path.write_bytes(path.read_bytes() + b"\0")
    assert FolderSource(elsewhere).fingerprint() != first


# The real data; numbers as measured in the shared facts, section 2


@pytest.mark.data
@pytest.mark.usefixtures("kvasir_root")
def test_kvasir_opens():
    data = PolypDataset("kvasir-seg", 256)  # as in all tests: it is decoded once
    assert data.images.shape == (1000, 3, 256, 256)
    assert is_polyp(data.masks).flatten(1).any(1).all()
    rows = data.rows(load_split("random-800-s42").train)
    assert len(rows.unique()) == 800


@pytest.mark.data
def test_kvasir_is_as_measured(kvasir_root):
    source = FolderSource(kvasir_root / "Kvasir-SEG")

    def look(paths):
        with Image.open(paths[1]) as mask:
            size, raw = mask.size, np.array(mask.convert("L"))
        corner = raw[:2, :2] > 127
        area = (raw > 127).mean()
        return *size, corner[0, 0] and corner.sum() == 1, area, set(np.unique(raw).tolist())

    with ThreadPoolExecutor(2) as pool:
        widths, heights, stray, areas, levels = zip(
            *pool.map(look, source.pairs.values()), strict=True
        )
    assert (min(widths), max(widths), min(heights), max(heights)) == (332, 1920, 352, 1072)
    assert len(set(zip(widths, heights, strict=True))) == 333
    # 143 masks hold stray pixels, at any threshold; 820 have one region as on disk, 952 without
    # these pixels.
    assert sum(stray) == 143
    assert 100 * np.quantile(areas, [0.05, 0.5, 0.95]) == pytest.approx([2.5, 11, 41], abs=0.5)
    assert set().union(*levels) == {*range(9), *range(246, 256)}
    assert all(values - {0, 255} for values in levels)


# Other sets and layouts


@pytest.fixture
def data_root(tmp_path, monkeypatch):
    root = tmp_path / "data"
    monkeypatch.setenv("POLYP_DATA", str(root))
    return root


def test_clinicdb_as_tiff(data_root, cache):
    """As its authors distribute it; Pillow cannot open such TIFFs."""
    folder = data_root / "CVC-ClinicDB"
    for name in ("Original", "Ground Truth"):
        (folder / name).mkdir(parents=True)
    for index in range(3):
        image, mask = phantom.draw_phantom(index)
        io.imsave(folder / f"Original/{index + 1}.tif", image, check_contrast=False)
        io.imsave(folder / f"Ground Truth/{index + 1}.tif", mask, check_contrast=False)
    with pytest.warns(UserWarning, match="CVC-ClinicDB has 3 pairs on disk, 612 are published"):
        data = PolypDataset("cvc-clinicdb", SIZE)
    assert data.ids == ("1", "2", "3")
    for index, frame_id in enumerate(data.ids):
        for seen, drawn in zip(data.original(frame_id), phantom.draw_phantom(index), strict=True):
            np.testing.assert_array_equal(seen, drawn)


def test_the_pranet_bundle(data_root, cache):
    for index, name in enumerate(("Kvasir", "ETIS-LaribPolypDB")):
        for folder, pixels in zip(("images", "masks"), phantom.draw_phantom(index), strict=True):
            (data_root / "TestDataset" / name / folder).mkdir(parents=True)
            Image.fromarray(pixels).save(data_root / "TestDataset" / name / folder / "1.png")
    with pytest.warns(UserWarning, match="2 pairs on disk, 798"):
        bundle = PolypDataset("pranet-test", SIZE)
    assert bundle.ids == ("ETIS-LaribPolypDB/1", "Kvasir/1")
    np.testing.assert_array_equal(bundle.original_image("Kvasir/1"), phantom.draw_phantom(0)[0])
    with pytest.warns(UserWarning, match="1 pairs on disk, 196"):
        one = PolypDataset("etis", SIZE)
    np.testing.assert_array_equal(one.original_mask("1"), phantom.draw_phantom(1)[1])


def test_red_and_green_masks_keep_their_kinds(data_root, cache):
    image, mask = phantom.draw_phantom(0)
    other = np.zeros_like(mask)
    other[:40, :50] = 255
    colours = np.stack([np.where(other, 0, mask), other, np.zeros_like(mask)], axis=-1)
    for folder, pixels in (("train", image), ("train_gt", colours)):
        (data_root / "BKAI-IGH-NeoPolyp" / folder).mkdir(parents=True)
        path = data_root / "BKAI-IGH-NeoPolyp" / folder / "a.jpeg"
        Image.fromarray(pixels).save(path, quality=90, subsampling=0)
    with pytest.warns(UserWarning, match="1 pairs on disk, 1000"):
        data = PolypDataset("neopolyp", SIZE)
    levels = data.original_mask("a")
    expected = np.where(other, NON_NEOPLASTIC, np.where(mask, NEOPLASTIC, 0))
    assert (levels == expected).mean() > 0.995  # JPEG artefacts along the edges
    assert set(np.unique(levels)) == {0, NON_NEOPLASTIC, NEOPLASTIC}
    assert set(data.masks.unique().tolist()) == {0, NON_NEOPLASTIC, NEOPLASTIC}
    raw = data.source.read_mask_file("a").brightest
    assert ((raw > 0) & (raw < 255)).any()


def test_any_folder(drawn_folder, cache):
    data = PolypDataset(str(drawn_folder), SIZE)
    assert len(data) == 8
    assert data.info.title == "Kvasir-SEG"
    assert data.info.licence.startswith("not known")


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.full((40, 50), 4095, np.uint16), "holds uint16 values from 4095 to 4095, so which is"),
        (np.full((40, 50, 3), (128, 0, 0), np.uint8), "2000 of 2000 pixels are neither near 0"),
    ],
)
def test_masks_of_another_kind(pixels, message, tmp_path):
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(tmp_path / "images/a.png")
    io.imsave(tmp_path / "masks/a.tif", pixels, check_contrast=False)
    with pytest.raises(DataError, match=re.escape(message)):
        FolderSource(tmp_path).read_mask("a")


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "count", "size"), [("cvc-clinicdb", 612, (288, 384)), ("neopolyp", 1000, None)]
)
def test_real_sets_can_be_read(name, count, size, kvasir_root):
    source = open_source(get_info(name))
    assert len(source.ids) == count
    kinds = set()
    for frame_id in source.ids[::25]:
        image, levels = source.read_image(frame_id), source.read_mask(frame_id)
        assert image.shape[:2] == levels.shape
        assert size in (None, levels.shape)
        assert (levels > 127).any()
        kinds |= set(np.unique(levels[levels > 127]).tolist())
    if name == "neopolyp":
        assert kinds == {NEOPLASTIC, NON_NEOPLASTIC}
