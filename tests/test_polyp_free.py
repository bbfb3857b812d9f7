"""Polyp-free crops of frames, and what is marked in them."""

from types import SimpleNamespace

import numpy as np
import pytest

from polyp_utils.analyse.false_alarms import CROPS, MIN_SHARE, PHANTOMS, WITHIN
from polyp_utils.analyse.polyp_free import (
    MARGIN,
    MAX_ASPECT,
    alarm_frames,
    alarm_table,
    find_crop,
    largest_rectangle,
)
from polyp_utils.data import phantom
from polyp_utils.data.catalog import get_info

HEIGHT, WIDTH = 300, 400


def brute_force(free):
    """Area of the largest rectangle of true cells within the aspect ratio, by brute force."""
    areas = [0]
    for top, left in np.argwhere(free):
        for bottom in range(top + 1, free.shape[0] + 1):
            for right in range(left + 1, free.shape[1] + 1):
                height, width = bottom - top, right - left
                fits = max(height, width) <= MAX_ASPECT * min(height, width)
                if fits and free[top:bottom, left:right].all():
                    areas.append(height * width)
    return max(areas)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.8, 0.95, 1.0])
def test_the_largest_rectangle_agrees_with_brute_force(share):
    rng = np.random.default_rng(0)
    for shape in [(1, 1), (1, 9), (9, 1), (7, 8), (10, 6), (8, 8)] * 3:
        free = rng.random(shape) < share
        top, left, height, width = largest_rectangle(free)
        assert height * width == brute_force(free)
        assert free[top : top + height, left : left + width].sum() == height * width
        assert max(height, width) <= MAX_ASPECT * min(height, width)


def test_a_long_strip_is_cut_from_both_ends():
    free = np.zeros((10, 20), bool)
    free[3:5] = True
    assert largest_rectangle(free) == (3, 8, 2, 4)


def frame(polyp=(120, 40, 60, 60)):
    """Grey mucosa between 40 px black borders left and right, and a mask with one box."""
    image = np.full((HEIGHT, WIDTH, 3), 150, np.uint8)
    image[:, :40] = image[:, -40:] = 3
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    top, left, height, width = polyp
    mask[top : top + height, left : left + width] = 255
    return image, mask


def test_a_crop_keeps_clear_of_polyp_border_and_box():
    image, mask = frame()
    image[200:, 250:360] = (20, 150, 100)  # as green as a ScopeGuide box
    rows, columns = find_crop(image, mask)
    gap = MARGIN * np.hypot(HEIGHT, WIDTH)
    cell = WIDTH / 256
    assert columns.start == pytest.approx(100 + gap, abs=2 * cell)  # beside the polyp
    assert columns.stop == pytest.approx(WIDTH - 40, abs=2 * cell)  # the border
    assert rows.start == 0
    assert rows.stop == pytest.approx(200 - 2 * cell, abs=2 * cell)  # above the box
    assert not mask[rows, columns].any()


def test_a_frame_full_of_polyp_has_no_crop_and_a_polyp_free_one_is_its_own_crop():
    assert find_crop(*frame((0, 0, HEIGHT, 300))) is None
    image, mask = frame()
    rows, columns = find_crop(image, np.zeros_like(mask))
    assert rows == slice(0, HEIGHT)
    assert (columns.start, columns.stop) == pytest.approx((40, WIDTH - 40), abs=2)


@pytest.fixture
def dataset():
    frames = {"a": frame(), "full": frame((0, 0, HEIGHT, 300)), "b": frame((120, 300, 60, 60))}
    return SimpleNamespace(original=frames.get, info=get_info("phantom"))


def mark(image):
    """Marks a tenth of a crop, in two boxes, and nothing in whole frames and phantoms."""
    polyp = np.zeros(image.shape[:2], bool)
    if image.shape[:2] != (HEIGHT, WIDTH) and image.max() == 150:
        height, width = polyp.shape
        polyp[: height // 10, : width // 2] = polyp[-(height // 10) :, : width // 2] = True
    return polyp


def test_the_table_has_one_row_per_view(dataset):
    table = alarm_table(mark, dataset, {"a": 7, "full": 7, "b": 9}, phantoms=2)
    assert table["frames"].tolist() == [CROPS, WITHIN, CROPS, CROPS, WITHIN, PHANTOMS, PHANTOMS]
    assert table["id"].tolist() == ["a", "a", "full", "b", "b", "0", "1"]
    assert table["group"].tolist() == [7, 7, 7, 9, 9, 0, 1]
    crops = table[table["frames"] == CROPS].set_index("id")
    assert crops.loc[["a", "b"], "objects"].tolist() == [2, 2]
    assert crops.loc["a", "share"] == pytest.approx(0.1, abs=0.01)
    assert crops.loc["full", ["top", "of_frame", "objects", "share"]].isna().all()
    assert crops["of_frame"].min() >= MIN_SHARE
    top, left, height, width = crops.loc["a", ["top", "left", "height", "width"]]
    assert (slice(top, top + height), slice(left, left + width)) == find_crop(*frame())
    assert table[table["frames"] != CROPS]["objects"].eq(0).all()  # by `mark`


def test_the_gallery_shows_the_crop_and_what_is_marked_in_it(dataset):
    table = alarm_table(mark, dataset, {"a": 0, "full": 1, "b": 2}, phantoms=0)
    frames = alarm_frames(table, mark, dataset, 9)
    assert sorted(f.title.partition("\n")[0] for f in frames) == ["a", "b"]
    assert {frame.dataset for frame in frames} == {"phantom"}
    for shown in frames:
        assert shown.title.endswith("\n10 % of the crop")
        assert shown.image.shape == (HEIGHT, WIDTH, 3)
        assert not (shown.second & shown.truth).any()
        assert not (shown.prediction & ~shown.second).any()
        assert shown.prediction.sum() == pytest.approx(0.1 * shown.second.sum(), rel=0.1)
    assert alarm_frames(table[table["objects"] != 2], mark, dataset, 9) == []


def test_polyp_free_phantoms_differ_from_those_for_training(dataset):
    seen = []
    alarm_table(lambda image: seen.append(image) or mark(image), dataset, {}, phantoms=2)
    trained_on = [phantom.draw_phantom(index, with_polyps=False)[0] for index in range(2)]
    assert not any(np.array_equal(*pair) for pair in zip(seen, trained_on, strict=True))
