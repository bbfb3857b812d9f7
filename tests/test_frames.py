"""Frame properties, on synthetic frames with known properties; overlays of Kvasir-SEG."""

from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from polyp_utils.analyse import dataset_tables, frames
from polyp_utils.analyse.dataset_tables import class_share_table, polyp_frequency, rim_study
from polyp_utils.analyse.frames import frame_properties, frame_table, mask_files, overlay
from polyp_utils.analyse.gallery import frames_of
from polyp_utils.data.catalog import CATALOG
from polyp_utils.data.dataset import PolypDataset
from polyp_utils.data.labels import SCHEMES
from polyp_utils.data.masks import MaskFile
from polyp_utils.data.regions import components
from polyp_utils.data.split import Split

IDS = tuple(f"frame-{index}" for index in range(8))


def grey(level, height=200, width=300):
    return np.full((height, width, 3), level, np.uint8)


def box(rows, columns, height=200, width=300):
    mask = np.zeros((height, width), np.uint8)
    mask[slice(*rows), slice(*columns)] = 255
    return mask


def lightness(level):
    """L* of an sRGB grey level above 22, by the definitions of sRGB and CIELAB."""
    luminance = ((level / 255 + 0.055) / 1.055) ** 2.4
    return 116 * luminance ** (1 / 3) - 16


@pytest.fixture
def drawn(kvasir_like, monkeypatch):
    """Eight synthetic frames with JPEG masks, opened as Kvasir-SEG."""
    monkeypatch.setitem(CATALOG, "kvasir-seg", replace(CATALOG["kvasir-seg"], count=8))
    return PolypDataset("kvasir-seg", 64)


def made_of(masks):
    """Masks uint8 (N, S, S) as a data set whose ids are 0 … N − 1."""
    return SimpleNamespace(masks=torch.as_tensor(masks), rows=lambda ids: torch.tensor([*ids]))


# --- one frame -----------------------------------------------------------------------------------


def test_area_and_centre_of_a_box():
    found = frame_properties(grey(100), box((20, 60), (30, 180)))
    assert found["area_share"] == pytest.approx(40 * 150 / (200 * 300))
    assert (found["centre_x"], found["centre_y"]) == pytest.approx((105 / 300, 40 / 200))
    assert found["off_centre"] == pytest.approx(np.hypot(0.15, 0.3) / np.hypot(0.5, 0.5))
    assert found["n_polyps"] == 1


@pytest.mark.parametrize(
    ("rows", "columns", "off_centre"),
    [
        ((90, 110), (140, 160), 0.0),
        ((0, 2), (0, 2), 0.99),
        ((198, 200), (0, 2), 0.99),
        ((90, 110), (298, 300), 0.70),
    ],
)
def test_distance_from_the_centre_ends_at_one_in_the_corner(rows, columns, off_centre):
    assert frame_properties(grey(100), box(rows, columns))["off_centre"] == pytest.approx(
        off_centre, abs=0.005
    )


@pytest.mark.parametrize(
    ("rows", "columns", "touches"),
    [
        ((2, 50), (2, 50), False),  # 1 % of 200 px: the outer two rows and columns are the border
        ((1, 50), (2, 50), True),
        ((2, 50), (1, 50), True),
        ((150, 198), (250, 298), False),
        ((150, 199), (250, 298), True),
        ((150, 198), (250, 299), True),
    ],
)
def test_contact_with_the_border(rows, columns, touches):
    assert frame_properties(grey(100), box(rows, columns))["touches_border"] is touches


@pytest.mark.parametrize("level", [60, 119, 255])
def test_brightness_is_the_lightness_without_the_black_border(level):
    image = grey(level)
    image[:, :100] = 5
    found = frame_properties(image, box((90, 110), (140, 160)))
    assert found["brightness"] == pytest.approx(lightness(level), abs=0.05)
    assert np.isnan(frame_properties(grey(5), box((90, 110), (140, 160)))["brightness"])


@pytest.mark.parametrize(("polyp", "wall", "far"), [(200, 100, 30), (60, 180, 250)])
def test_contrast_is_between_the_polyp_and_its_ring(polyp, wall, far):
    """The ring is 8 px wide at 128 px; pixels farther away or black do not count."""
    mask = box((60, 100), (100, 160))
    image = grey(far)
    image[40:120, 80:180] = wall
    image[60:100, 140:180] = 0  # a black corner at the polyp's right side
    image[mask > 0] = polyp
    found = frame_properties(image, mask)["contrast"]
    assert found == pytest.approx(abs(lightness(polyp) - lightness(wall)), abs=0.05)


@pytest.mark.filterwarnings("error")
def test_a_frame_without_polyp_has_no_polyp_properties():
    found = frame_properties(grey(119), box((0, 0), (0, 0)))
    absent = {"centre_x", "centre_y", "off_centre", "contrast"}
    assert {key for key, value in found.items() if value != value} == absent
    assert (found["area_share"], found["n_polyps"], found["touches_border"]) == (0, 0, False)
    assert found.keys() == frame_properties(grey(119), box((90, 110), (140, 160))).keys()


def test_a_mirrored_frame_has_a_mirrored_description():
    rng = np.random.default_rng(0)
    image = rng.integers(40, 255, (127, 96, 3), np.uint8)
    mask = box((10, 50), (5, 30), 127, 96)
    plain, mirrored = frame_properties(image, mask), frame_properties(image[::-1], mask[::-1])
    assert mirrored.pop("centre_y") == pytest.approx(1 - plain.pop("centre_y"))
    assert mirrored == pytest.approx(plain, abs=1e-9)


def octagon(corner):
    """A lit frame with its four corners cut off, as endoscopes show it."""
    y, x = np.abs(np.linspace(-1, 1, 256))[:, None], np.abs(np.linspace(-1, 1, 320))
    return np.where((x + y < 2 - corner)[..., None], grey(120, 256, 320), 0).astype(np.uint8)


def with_patch(image, colour, height=0.35, width=0.3):
    """A frame with a patch in the lower left corner, its size given as shares of the frame."""
    image = image.copy()
    image[int(-height * image.shape[0]) :, : int(width * image.shape[1])] = colour
    return image


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (grey(120), "none"),
        (grey(0), "none"),
        (octagon(0.4), "none"),
        (octagon(0.8), "none"),  # black where a block would be, but on both sides
        (with_patch(grey(120), (10, 90, 20)), "green box"),
        (with_patch(octagon(0.4), (60, 120, 60)), "green box"),
        (with_patch(grey(120), (10, 90, 20), height=0.1, width=0.1), "none"),
        (with_patch(grey(120), (90, 90, 20)), "none"),  # yellow
        (with_patch(grey(120), 0), "black block"),
        (with_patch(octagon(0.4), 12), "black block"),
        (with_patch(grey(120), 0)[:, ::-1], "none"),  # Kvasir has them on the left
        (with_patch(grey(120), 60), "none"),  # a shadow is not black
        (with_patch(grey(120), 0, height=0.1), "none"),
    ],
)
def test_overlays_by_hand(image, expected):
    assert overlay(image) == expected
    assert frame_properties(image, box((0, 0), (0, 0), *image.shape[:2]))["overlay"] == expected


def test_components_are_8_connected_and_without_specks():
    mask = np.zeros((100, 100), bool)
    mask[10:20, 10:20] = mask[20:30, 20:30] = True  # these meet at a corner
    mask[50, 50:55] = True  # 5 px = 0.05 %
    mask[70, 70:74] = True  # a speck
    found = components(mask)
    assert [region.sum() for region in found] == [200, 5]
    assert (np.logical_or.reduce(found) == mask).sum() == 100 * 100 - 4
    assert components(np.zeros((9, 9), bool)) == []


# --- a whole data set ----------------------------------------------------------------------------


def test_frame_table_has_a_row_per_frame_with_its_part_and_size(drawn, kvasir_like):
    split = Split("s", train=IDS[2:], val=IDS[1:2], test=IDS[:1])
    table = frame_table(drawn, split).set_index("id")
    assert table["part"].to_dict() == dict.fromkeys(IDS, "train") | {
        "frame-1": "val",
        "frame-0": "test",
    }
    for frame_id in IDS:
        with Image.open(kvasir_like / "masks" / f"{frame_id}.jpg") as mask:
            assert tuple(table.loc[frame_id, ["width", "height"]]) == mask.size
            share = (np.array(mask.convert("L")) > 127).mean()
        assert table.loc[frame_id, "area_share"] == pytest.approx(share, abs=0.01)
    assert table["area_share"].nunique() > 4


def test_grey_levels_of_mask_files_are_counted(drawn, kvasir_like):
    expected = np.zeros(256, int)
    for frame_id in IDS[:5]:
        with Image.open(kvasir_like / "masks" / f"{frame_id}.jpg") as mask:
            expected += np.bincount(np.array(mask.convert("L")).ravel(), minlength=256)
    found, naive = mask_files(drawn, IDS[:5])
    np.testing.assert_array_equal(found, expected)
    assert found[1:9].sum() > 0  # JPEG artefacts
    assert ((naive > 0.5) & (naive < 1)).all()  # they are polyp for `mask > 0`


def test_frames_of_shows_originals_with_their_masks(drawn):
    frames = frames_of(drawn, IDS[1:3])
    assert [frame.title for frame in frames] == ["frame-1", "frame-2"]
    for frame, size in zip(frames, drawn.sizes[1:3].tolist(), strict=True):
        assert frame.image.shape == (*size, 3)
        assert frame.truth.shape == tuple(size)
        assert frame.truth.dtype == bool
        assert frame.prediction is frame.probability is None


def test_class_shares_are_those_of_the_masks(drawn):
    shares = class_share_table(drawn, IDS).set_index(["scheme", "class"])["share"]
    assert set(shares.index) == {
        (s.name, name) for s in SCHEMES.values() for name in s.classes if s.name != "neopolyp"
    }  # white masks have no kinds
    assert shares.groupby("scheme").sum().to_numpy() == pytest.approx(1)
    polyp = (drawn.masks.numpy() > 127).mean()
    assert shares["binary", "polyp"] == pytest.approx(polyp)
    assert shares["trimap", "polyp"] + shares["trimap", "boundary"] == pytest.approx(polyp)
    assert shares["trimap", "boundary"] > 0
    assert shares["unused-third", "unused"] == 0
    white = (drawn.masks.numpy() == 255).mean()
    assert shares["jpeg-levels", "level 255"] == pytest.approx(white)
    assert shares["jpeg-levels", "other levels"] > 0


def test_dice_of_the_naive_mask_by_hand():
    masks = np.zeros((4, 4, 4), np.uint8)
    masks[0, 0] = 255, 255, 250, 246  # no artefacts
    masks[1, 0], masks[1, 1] = 255, (3, 8, 0, 0)  # 4 px of polyp, 2 of artefacts: 8 / (4 + 6)
    masks[2, 2, :3] = 1  # artefacts only
    dataset = made_of(masks)
    dataset.source = SimpleNamespace(
        read_mask_file=lambda row: MaskFile("", masks[row], masks[row] > 999, masks[row])
    )
    dataset.original_mask = lambda row: masks[row]
    counts, naive = mask_files(dataset, range(4))
    assert naive.tolist() == pytest.approx([1, 0.8, 0])  # the frame with neither is left out
    assert counts[[0, 1, 3, 8, 246, 250, 255]].tolist() == [51, 3, 1, 1, 1, 1, 6]


def test_rim_study_by_hand():
    mask = np.zeros((1, 32, 32), np.uint8)
    mask[0, 8:24, 8:24] = 255  # 16×16; a rim of 1 px has 60 px
    row = rim_study(made_of(mask), [0], widths=(1, 4), shifts=(1,)).iloc[0]
    assert row["share"] == pytest.approx(60 / 1024)
    assert row["polyp_dice_1"] == pytest.approx(15 * 15 / 256)
    square = np.zeros((32, 32), bool)
    square[8:24, 8:24] = True
    square[9:23, 9:23] = False
    overlap = (square & np.roll(square, (1, 1), (0, 1))).sum()
    assert row["rim_dice_1"] == pytest.approx(overlap / 60)


def test_split_table_by_hand(monkeypatch):
    """Four frames, 10 to 40 % polyp; one pair within a part, one crossing, one not in the split."""
    masks = torch.zeros(5, 10, 10, dtype=torch.uint8)
    for row in range(5):
        masks[row, : row + 1] = 255
    ids = tuple("abcde")
    dataset = SimpleNamespace(masks=masks, ids=ids, name="mine")
    split = Split("one", ("a", "b"), ("c",), ("d",))
    monkeypatch.setattr(dataset_tables, "split_names", lambda name: ["one"])
    monkeypatch.setattr(dataset_tables, "load_split", lambda name, dataset: split)
    pairs = pd.DataFrame({"id_a": ["a", "b", "a"], "id_b": ["b", "d", "e"]})
    assert dataset_tables.split_table(dataset, pairs).to_dict("records") == [
        {
            "split": "one",
            "pairs": 2,
            "train and val": 0,
            "train and test": 1,
            "val and test": 0,
            "area": "15.0 / 30.0 / 40.0",
        }
    ]


def test_pairs_are_shown_side_by_side(drawn):
    row = {"id_a": "frame-1", "id_b": "frame-4", "mirrored": True, "inliers": 12}
    one, other = frames.pair_frames(
        drawn.source, pd.DataFrame([row | {"scale": 0.5, "rotation": 9.6}])
    )
    assert (one.title, other.title) == ("1: frame-1\n12 agree", "1: frame-4\n×0.50, 10°, mirrored")
    assert max(one.image.shape) == max(other.image.shape) == 256
    assert one.truth.shape == one.image.shape[:2]
    assert one.truth.any()


def test_position_map_is_the_mean_mask_and_flips_with_it(blobs):
    masks = torch.from_numpy(blobs(5, 32, 32))
    found = polyp_frequency(made_of(masks), range(5))
    assert found == pytest.approx((masks.numpy() > 127).mean(axis=0))
    assert 0 <= found.min() < found.max() <= 1
    assert (polyp_frequency(made_of(masks.flip(2)), range(5)) == found[:, ::-1]).all()
    assert set(np.unique(polyp_frequency(made_of(masks), [3]))) == {0, 1}


@pytest.mark.data
def test_overlays_of_kvasir_seg(kvasir_root):
    """13 green boxes, counted by eye; a black block in about half of the frames."""
    dataset = PolypDataset("kvasir-seg", 256)
    found = Counter(overlay(image) for image in dataset.images.permute(0, 2, 3, 1).numpy())
    assert found["green box"] == 13
    assert 400 <= found["black block"] <= 650
    assert pd.Series(found).sum() == 1000
