from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from scipy import ndimage
from skimage.measure import label

from polyp_utils.data import phantom

N = 60


@pytest.fixture(scope="module")
def frames():
    return [phantom.draw_phantom(index, seed=7) for index in range(N)]


def test_format(frames):
    for image, mask in frames:
        assert image.dtype == mask.dtype == np.uint8
        assert image.shape == (*mask.shape, 3)
        assert 240 <= min(mask.shape) <= max(mask.shape) <= 360
        assert set(np.unique(mask)) <= {0, 255}
    assert len({mask.shape for _, mask in frames}) > N / 2


def test_same_index_and_seed_give_same_frame_in_any_order_and_thread(frames):
    indices = [41, 3, 17]
    with ThreadPoolExecutor(3) as pool:
        again = list(pool.map(lambda index: phantom.draw_phantom(index, seed=7), indices))
    for index, (image, mask) in zip(indices, again, strict=True):
        np.testing.assert_array_equal(image, frames[index][0])
        np.testing.assert_array_equal(mask, frames[index][1])


def test_index_and_seed_both_matter():
    images = [phantom.draw_phantom(*key)[0] for key in [(1, 0), (2, 0), (1, 1), (2, 1), (0, 2)]]
    assert len({image.tobytes() for image in images}) == len(images)


def test_global_random_state_is_neither_read_nor_moved(frames):
    np.random.seed(123)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    image, _ = phantom.draw_phantom(5, seed=7)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    np.testing.assert_array_equal(image, frames[5][0])


def test_negative_index_is_refused():
    with pytest.raises(ValueError, match="non-negative"):
        phantom.draw_phantom(-1)


def test_polyp_counts_and_areas_resemble_kvasir(frames):
    counts = np.array([label(mask).max() for _, mask in frames])
    share = np.array([np.mean(mask > 0) for _, mask in frames])
    assert 1 <= np.sum(counts == 0) <= 0.15 * N
    assert np.sum(counts == 1) > 0.75 * N
    assert np.sum(counts == 2) >= 1
    low, median, high = np.quantile(share[share > 0], [0.05, 0.5, 0.95])
    assert low < 0.05
    assert 0.07 < median < 0.16
    assert 0.3 < high < 0.6


def test_some_polyps_touch_the_edge_of_the_visible_area(frames):
    """A polyp next to black (corner, box) or to the picture's border is cut by it."""
    touching = []
    for image, mask in frames:
        seen = ndimage.binary_closing(image.max(-1) > 0)
        inner = ndimage.binary_erosion(seen, iterations=3)  # what lies off the picture is unseen
        touching.append(bool(np.any((mask > 0) & ~inner)))
    assert 0.05 * N < np.sum(touching) < 0.6 * N


@pytest.mark.parametrize("index", range(8))
def test_a_polyp_changes_the_relief_only_on_its_support(index):
    rng = np.random.default_rng(index)
    grid = phantom._grid(rng)
    wall = phantom._wall(rng, grid)
    nothing = np.zeros(grid.shape, bool)
    scene, support = phantom._add_polyp(rng, grid, phantom._margin(rng, grid), 0.1j, wall, nothing)
    np.testing.assert_array_equal(scene.relief[~support], wall.relief[~support])
    assert np.mean(scene.relief[support] != wall.relief[support]) > 0.99
    assert np.mean(scene.albedo[:, support] != wall.albedo[:, support]) > 0.99
    around = scene.albedo[:, ~support] / wall.albedo[:, ~support]
    assert around.max() < 1 + 1e-5  # only shadow, never light
    assert around.min() > 0.2


@pytest.mark.parametrize("index", range(8))
def test_picture_changes_where_the_mask_is(index):
    """The same frame drawn without polyps differs on the mask, and around it only by shadow."""
    image, mask = phantom.draw_phantom(index, seed=7)
    bare, nothing = phantom.draw_phantom(index, seed=7, with_polyps=False)
    assert not nothing.any()
    change = np.abs(image.astype(int) - bare).max(-1)
    inside = mask > 0
    # sensor, overlay and black corners are the same in both: the wall far away is untouched
    far = ndimage.distance_transform_edt(~inside) > 0.5 * min(mask.shape)
    assert not change[far].any()
    if inside.any():
        assert np.mean(change[inside] > 2) > 0.9
        # what is black in both (corners, box) is never polyp
        assert not np.any(inside & (image.max(-1) == 0) & (bare.max(-1) == 0))


GOLDEN_MEANS = [[66.52, 4.55], [84.32, 26.99], [90.15, 6.52]]


def test_the_drawing_has_changed_only_with_its_version():
    """Means of three frames and masks; if this fails, raise VERSION and write the new ones."""
    means = [[float(part.mean()) for part in phantom.draw_phantom(index)] for index in (0, 1, 2)]
    assert phantom.VERSION == 1
    np.testing.assert_allclose(means, GOLDEN_MEANS, atol=0.3)
