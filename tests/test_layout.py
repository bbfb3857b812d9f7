"""Pairing in folders of all layouts; no file is dropped silently."""

import glob
import json
import re

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from polyp_utils.common.exceptions import DataError
from polyp_utils.data.layout import find_pairs, match_pairs
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
    "CVC-ColonDB": ("CVC-ColonDB/{}.tiff", "CVC-ColonDB/p{}.tiff"),
    "a folder of a set above": ("Kvasir-SEG/images/{}.jpg", "Kvasir-SEG/masks/{}.jpg"),
    "downloaded twice": ("Kvasir-SEG (1)/Kvasir-SEG/images/{}.jpg",) * 2,
    "from GitHub": ("kvasir-seg-master/Kvasir-SEG/images/{}.jpg",) * 2,
    "one folder named SEG": ("Kvasir-SEG/{}.jpg", "Kvasir-SEG/{}_mask.png"),
    "camel case": ("TrainImages/{}.jpg", "TrainGroundTruth/{}_segmentation.png"),
    "below a shared name": ("images/original/{}.png", "masks/original/{}.png"),
    "PICCOLO": ("train/polyps/{}.png", "train/masks/{}_Corrected.tif"),
    "VOC": ("VOC2012/JPEGImages/{}.jpg", "VOC2012/SegmentationClass/{}.png"),
    "two extensions": ("img/{}.jpg", "ann/{}.jpg.png"),
}
LAYOUTS = {
    name: (image, mask.replace("images", "masks") if image == mask else mask)
    for name, (image, mask) in LAYOUTS.items()
}


UNDECIDABLE = {(name, "only") for name in ("ETIS", "CVC-ColonDB", "PICCOLO", "two extensions")}
UNDECIDABLE |= {("CVC-ColonDB", "cju1x")}  # whether p belongs to the name
CLUTTER = ("README.txt", ".DS_Store", "__MACOSX/images/a.jpg", "images/Thumbs.db", "LICENSE")
CLUTTER += ("images/._1.jpg", "desktop.ini", "@eaDir/images/1.jpg")


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
        if (layout, stems[-1]) not in UNDECIDABLE
    ],
)
def test_layouts(layout, stems, tmp_path):
    image, mask = LAYOUTS[layout]
    pairs = [(touch(tmp_path / image.format(s)), touch(tmp_path / mask.format(s))) for s in stems]
    for clutter in (*CLUTTER, f"{image.rpartition('/')[0]}/@eaDir/1.jpg"):
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


def made(folder, paths):
    for path in paths:
        touch(folder / path)
    return find_pairs(folder)


BUNDLES = {
    "PolypGen": (
        ["data_C{0}/images_C{0}/{1}.jpg", "data_C{0}/masks_C{0}/{1}_mask.jpg"],
        ["data_C{0}/bbox_image_C{0}/{1}.jpg", "seq/negativeOnly/seq{0}_neg/{1}.jpg"],
        ["data_C1/images_C1/1", "data_C6/images_C6/2"],
        ["4 files .* other pictures.*: data_C1/bbox_image_C1, data_C6", "4 files .* polyp-free"],
    ),
    "SUN-SEG": (
        ["Test/Seen/Frame/case{0}_1/{1}.jpg", "Test/Seen/GT/case{0}_1/{1}.png"],
        [f"Test/Seen/{k}/case{{0}}_1/{{1}}.png" for k in ("Edge", "Polygon", "Detection")],
        ["Test/Seen/case1_1/1", "Test/Seen/case6_1/2"],
        ["12 files .* Test/Seen/Detection/case1_1, .* and 3 more"],
    ),
    "HyperKvasir": (
        ["segmented-images/images/{0}{1}.jpg", "segmented-images/masks/{0}{1}.jpg"],
        ["labeled-images/polyps/{0}{1}.jpg", "unlabeled-images/images/{0}{1}.jpg", "v/{0}{1}.avi"],
        ["11", "62"],
        ["4 files .*videos", "8 files .* classification"],
    ),
    "Endoscapes": (
        ["{0}/{1}{0}.jpg", "semseg/{1}{0}.png"],
        ["insseg/{1}{0}.npy", "{0}/{1}{0}-not-annotated.jpg"],
        ["1/11", "6/26"],
        ["4 files .*npy", "4 files .*of 8, without a mask in semseg"],
    ),
    "VOC": (
        ["JPEGImages/{0}{1}.jpg", "SegmentationClass/{0}{1}.png"],
        ["SegmentationObject/{0}{1}.png", "JPEGImages/{0}{1}-boxes.jpg"],
        ["11", "62"],
        ["4 files .*single objects", "4 files .*of 8, without a mask"],
    ),
    "PICCOLO": (
        ["{0}/polyps/{1}.png", "{0}/masks/{1}_Corrected.tif"],
        ["{0}/void/{1}_void.tif"],
        ["1/polyps/1", "6/polyps/2"],
        ["4 files .* other pictures.*1/void"],
    ),
    "parts below roles": (
        ["images/Part{0}/{1}.jpg", "masks/part{0}/{1}.png"],
        ["images/test/{0}{1}.jpg"],
        ["Part1/1", "Part6/2"],
        ["4 files .* for testing.*images/test"],
    ),
    "roles below parts": (
        ["part{0}/images/{1}.jpg", "part{0}/masks/{1}.png"],
        ["part{0}/edge/{1}.png"],
        ["part1/1", "part6/2"],
        ["4 files .*outlines.*: part1/edge, part6/edge"],
    ),
    "one folder per part": (
        ["part{0}/{1}.jpg", "part{0}/{1}_mask.png"],
        ["part{0}/{1}_contour.png"],
        ["part1/1", "part6/2"],
        ["2 files .*1_contour", "2 files"],
    ),
    "a folder per frame": (
        ["{0}{1}/image.png", "{0}{1}/mask.png"],
        [],
        ["11/image", "62/image"],
        [],
    ),
}


@pytest.mark.parametrize("name", BUNDLES)
def test_bundles_leave_nothing_aside_without_a_note(name, tmp_path):
    paths, aside, ends, notes = BUNDLES[name]
    places = [(one, two) for one in (1, 6) for two in (1, 2)]
    found = made(tmp_path, [p.format(*place) for p in (*paths, *aside) for place in places])
    assert found.problems == ()
    ids = list(found.pairs)
    assert (ids[0], ids[-1], len(ids)) == (*ends, 4)
    image, mask = ({tmp_path / p.format(*place) for place in places} for p in paths)
    assert {pair[0] for pair in found.pairs.values()} == image
    assert {pair[1] for pair in found.pairs.values()} == mask
    assert len(found.notes) == len(notes)
    for note, expected in zip(found.notes, notes, strict=True):
        assert re.match(expected, note)


NNUNET = ["imagesTr/case_1_0000.png", "imagesTr/case_2_0000.png", "imagesTs/case_9_0000.png"]
NNUNET += ["labelsTr/case_1.png", "labelsTr/case_2.png"]


@pytest.mark.parametrize(
    ("labels", "value", "message"),
    [
        ({"background": 0, "polyp": 1}, 1, None),
        ({"0": "background", "1": "adenoma"}, 1, None),
        ({"background": 0, "tool": 1, "polyp": 2}, 2, None),
        (None, 255, None),
        ({}, 255, None),
        ({}, 1, "class indices 0, 1, and dataset.json does not say which is polyp"),
        ({"background": 0, "tool": 1}, 1, "its labels: 0 background, 1 tool"),
        ({"background": 0, "no polyp": 1}, 1, "does not say which is polyp"),
        ({"background": 0, "polyp": 1}, 255, "holds 255, which dataset.json does not name"),
        ({"background": 0, "polyp": 1, "ignore": 2}, 2, "6 pixels of label 2, ignore"),
        ({"polyp": [1, 2]}, 1, "does not say what the values of the masks mean"),
        (None, 1, "holds only levels 0 to 1"),
    ],
)
def test_the_labels_of_nnunet_say_which_index_is_polyp(labels, value, message, tmp_path):
    for path in NNUNET:
        write(tmp_path / path, mask=value if "labels" in path else False)
    if labels is not None:
        (tmp_path / "dataset.json").write_text(json.dumps({"labels": labels}))
    if message:
        with pytest.raises(DataError, match=message):
            FolderSource(tmp_path).read_mask("case_1")
        return
    source = FolderSource(tmp_path)
    assert source.ids == ("case_1", "case_2")
    assert source.notes == ("1 file is left aside (frames without masks, for testing): imagesTs",)
    mask = source.read_mask("case_1")
    assert sorted(np.unique(mask)) == [0, 255]
    assert (mask == 255).sum() == 6


def test_other_labels_of_nnunet_are_other_data(tmp_path):
    for path in NNUNET:
        write(tmp_path / path, mask=1 if "labels" in path else False)
    prints = set()
    for labels in ({"background": 0, "polyp": 1}, {"polyp": 0, "background": 1}):
        (tmp_path / "dataset.json").write_text(json.dumps({"labels": labels}))
        source = FolderSource(tmp_path)
        prints |= {source.fingerprint(), source.stamp()}
    assert len(prints) == 4


def test_channels_in_files_of_their_own_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"case_1_0001\.png is channel 1 .* case_1_0000\.png"):
        made(tmp_path, [*NNUNET, "imagesTr/case_1_0001.png", "imagesTr/case_2_0001.png"])


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        ("Annotations/a.xml", "<object><bndbox><xmin>1", r"boxes \(VOC\), as in .*a\.xml"),
        ("labels/a.txt", "0 0.5 0.5 0.1 0.1\n", r"boxes \(YOLO\)"),
        ("labels/a.txt", "0 0.5 0.5 0.1 0.1 0.2 0.2\n", r"outlines \(YOLO\)"),
        ("Annotation/a.txt", "1\n10 20 30 40\n", r"boxes \(text\)"),
        ("x.json", '{"images": [1], "annotations": [{"bbox": [1, 2, 3, 4]}]}', r"boxes \(COCO\)"),
        ("x.json", '{"images": [1], "annotations": [{"segmentation": [[1]]}]}', "outlines "),
        ("images/a.json", '{"shapes": []}', r"outlines \(LabelMe\)"),
        ("kavsir_bboxes.json", '{"a": {"bbox": []}}', "boxes "),
        ("boxes.csv", "name,xmin,ymin\n", r"boxes \(CSV\)"),
    ],
)
def test_boxes_and_lists_of_points_are_refused_as_such(path, content, message, tmp_path):
    touch(tmp_path / path).write_text(content)
    with pytest.raises(DataError, match=f"holds images with {message}.*, but no masks"):
        made(tmp_path, ["images/a.jpg", "images/b.jpg"])


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "a b c d e", "0 0.5", "<html>"])
def test_other_side_files_are_no_boxes(content, tmp_path):
    for name in ("a.txt", "a.json", "a.xml", "a.csv"):
        touch(tmp_path / name).write_text(content)
    with pytest.raises(DataError, match="holds images but no masks"):
        made(tmp_path, ["images/a.jpg"])


def test_a_broken_link_is_one_error(tmp_path):
    made(tmp_path, [f"{role}/{i}.png" for role in ("images", "masks") for i in (1, 2)])
    (tmp_path / "images/3.png").symlink_to(tmp_path / "gone.png")
    touch(tmp_path / "masks/3.png")
    found = find_pairs(tmp_path)
    assert list(found.pairs) == ["1", "2"]
    (problem,) = found.problems
    assert re.fullmatch(
        r".*images/3\.png is a link to .*gone\.png, which does not exist: .*", problem
    )
    (tmp_path / "labels").symlink_to(tmp_path / "gone")
    with pytest.raises(DataError, match=r"labels is a link to .* 1 more such errors"):
        FolderSource(tmp_path)


def test_files_that_would_share_an_id_are_never_dropped(tmp_path):
    paths = [f"{place}/{i}.png" for place in ("a", "b") for i in (1, 2)]
    for path in (*(f"images/{p}" for p in paths), "masks/1.png", "masks/2.png"):
        touch(tmp_path / path)
    with pytest.raises(DataError, match="images/a has no counterpart"):  # which 1 is masks/1?
        find_pairs(tmp_path)


def test_patterns_name_images_and_masks_of_any_layout(tmp_path):
    for place in ("p", "q"):
        for i in (1, 2):
            for path in (f"{place}/photo/{i}_frame.png", f"{place}/outcome/{i}_truth.png"):
                touch(tmp_path / "set" / path)
    touch(tmp_path / "set/p/photo/notes.txt")
    root = tmp_path / "set"
    found = match_pairs(f"{root}/*/photo/*", f"{root}/*/outcome/*.png")
    assert found.problems == ()
    assert list(found.pairs) == [f"{p}/photo/{i}_frame" for p in "pq" for i in (1, 2)]
    for image, mask in found.pairs.values():
        assert mask == image.parents[1] / "outcome" / image.name.replace("frame", "truth")
    one = match_pairs(f"{root}/p/photo", f"{root}/p/outcome/**")
    assert list(one.pairs) == ["1_frame", "2_frame"]


@pytest.mark.parametrize(
    ("images", "masks", "message"),
    [
        ("*.jpg", "*.gif", r"b\.gif is in an unsupported format"),
        ("*.jpg", "*.bmp", r"\*\.bmp matches no image files"),
        ("*.txt", "*.png", r"\*\.txt matches no image files .*, only 1 \.txt"),
        ("*", "*.png", "match 2 files alike"),
        ("*/i/*.png", "*/m/x/*.png", "which belong together is not certain: p/i, q/i and p/m/x"),
    ],
)
def test_patterns_that_do_not_settle_it_are_refused(images, masks, message, tmp_path):
    for path in ("a.jpg", "a.png", "b.png", "b.gif", "n.txt"):
        touch(tmp_path / path)
    for path in ("p/i/1.png", "q/i/1.png", "p/m/x/1.png", "r/m/x/1.png"):
        touch(tmp_path / path)
    with pytest.raises(DataError, match=message):
        match_pairs(f"{tmp_path}/{images}", f"{tmp_path}/{masks}")


def test_a_pattern_below_a_folder_with_signs(tmp_path):
    for path in ("images/1.jpg", "masks/1.png"):
        touch(tmp_path / "set [v1]" / path)
    root = glob.escape(str(tmp_path / "set [v1]"))
    assert list(match_pairs(f"{root}/images/*", f"{root}/masks/*").pairs) == ["1"]


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
        (
            ("images/a.jpg", "masks/a.png", "pred/a.png"),
            "pred has no counterpart. Found: images (im",
        ),
        (("images/a.jpg", "edge/a.png"), "holds images but no masks"),
        (
            ("images/a.jpg", "edge/a.png"),
            "1 file is left aside (boxes, outlines or other pictures)",
        ),
        (("bbox/a.jpg",), "holds boxes or outlines (bbox) but no images"),
        (("a.jpg", "a.png"), "--images 'GLOB' --masks 'GLOB'"),
        (
            ("imagesTr/a_0000.nii.gz",),
            "holds no image files (.jpg, .jpeg, .png, .bmp, .tif, .tiff), on",
        ),
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
    pixels[1:3, 1:4] = (255 if mask is True else mask) if mask else (200, 120, 90)
    Image.fromarray(pixels[..., 0] if type(mask) is int else pixels).save(path)


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
