import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis.extra.numpy import arrays
from scipy.ndimage import distance_transform_edt

from polyp_utils.data.labels import (
    NEOPLASTIC,
    NON_NEOPLASTIC,
    SCHEMES,
    colour_levels,
    get_scheme,
    inner_rim,
    is_coloured,
    is_polyp,
    rim_width,
    undecided,
)

SIZES = [(96, 96), (256, 256), (128, 96), (300, 217)]


def grey(rows):
    return torch.tensor([rows], dtype=torch.uint8)


def edt_rim(polyp, rim_px):
    """The rim by SciPy; it sees only the frame, so the frame's edge is no boundary either."""
    if polyp.all():
        return np.zeros_like(polyp)
    return polyp & (distance_transform_edt(polyp) <= rim_px)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_rim_equals_the_distance_transform(height, width, blobs):
    masks = blobs(4, height, width)
    class_map = get_scheme("trimap").encode(torch.from_numpy(masks)).numpy()
    expected = [edt_rim(mask > 0, 3 * np.sqrt(height * width) / 256) for mask in masks]
    np.testing.assert_array_equal(class_map == 2, expected)
    assert (class_map == 2).any()


@pytest.mark.parametrize("rim_px", [1.0, 1.5, 2.9, 5.0])
def test_rim_equals_the_distance_transform_on_specks(rim_px):
    polyp = np.random.default_rng(1).random((3, 40, 50)) < 0.97  # holes of single pixels
    expected = [edt_rim(mask, rim_px) for mask in polyp]
    np.testing.assert_array_equal(inner_rim(torch.from_numpy(polyp), rim_px).numpy(), expected)


def test_rim_is_3_px_wide_at_256():
    assert rim_width(256, 256) == 3
    assert rim_width(512, 128) == 3
    assert rim_width(512, 512) == 6
    masks = torch.zeros(1, 256, 256, dtype=torch.uint8)
    masks[:, :, 100:] = 255
    row = get_scheme("trimap").encode(masks)[0, 128]
    assert row.tolist() == [0] * 100 + [2] * 3 + [1] * 153


def test_frame_edge_is_not_a_boundary():
    class_map = get_scheme("trimap").encode(torch.full((1, 256, 256), 255, dtype=torch.uint8))
    assert class_map.unique().tolist() == [1]


@pytest.mark.parametrize(
    ("name", "extra"), [("trimap", {2}), ("binary", set()), ("unused-third", set())]
)
@pytest.mark.parametrize("seed", range(5))
def test_merge_gives_the_mask_back(name, extra, seed, blobs):
    rng = np.random.default_rng(seed)
    binary = blobs(3, 100, 90, seed) > 0
    masks = np.where(binary, rng.integers(246, 256, binary.shape), rng.integers(0, 9, binary.shape))
    scheme = get_scheme(name)
    class_map = scheme.encode(torch.from_numpy(masks.astype(np.uint8)))
    assert class_map.dtype == torch.int64
    assert set(class_map.unique().tolist()) == {0, 1} | extra
    np.testing.assert_array_equal(scheme.merge(class_map).numpy(), binary)
    np.testing.assert_array_equal(scheme.merge(class_map.to(torch.uint8)).numpy(), binary)


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("axis", [-1, -2])
def test_flipping_the_mask_flips_the_classes(name, axis, blobs):
    masks, scheme = torch.from_numpy(blobs(2, 128, 97)), get_scheme(name)
    assert torch.equal(scheme.encode(masks.flip(axis)), scheme.encode(masks).flip(axis))


def test_jpeg_levels_by_hand():
    class_map = get_scheme("jpeg-levels").encode(grey([[0, 1, 8], [246, 254, 255]]))
    assert class_map.tolist() == [[[0, 2, 2], [2, 2, 1]]]


def test_neopolyp_by_hand():
    class_map = get_scheme("neopolyp").encode(grey([[0, 127, 128, 191, 222, 223, 255]]))
    assert class_map.tolist() == [[[0, 0, 2, 2, 2, 1, 1]]]


def test_nearest_colours_by_hand():
    """JPEG red, green and black; halfway from black to red is undecided."""
    rgb = [[(3, 0, 9), (240, 12, 7), (20, 230, 0)], [(126, 0, 0), (90, 0, 0), (80, 0, 0)]]
    levels, open_ = colour_levels(np.array(rgb, np.uint8))
    assert levels.tolist() == [[0, NEOPLASTIC, NON_NEOPLASTIC], [0, 0, 0]]
    assert open_.tolist() == [[False] * 3, [True, True, False]]
    assert levels.dtype == np.uint8


@given(arrays(np.uint8, (4, 5, 3)))
def test_nearest_colour_is_the_nearest(rgb):
    palette = {0: (0, 0, 0), NEOPLASTIC: (255, 0, 0), NON_NEOPLASTIC: (0, 255, 0)}
    levels, open_ = colour_levels(rgb)
    for index in np.ndindex(4, 5):
        near = sorted((math.dist(rgb[index], colour), level) for level, colour in palette.items())
        assert math.dist(rgb[index], palette[int(levels[index])]) == near[0][0]
        assert open_[index] == (near[1][0] ** 2 < 4 * near[0][0] ** 2 - 1e-9)


def test_undecided_greys_by_hand():
    found = undecided(np.array([0, 8, 85, 86, 127, 169, 170, 246], np.uint8))
    assert found.tolist() == [False, False, False, True, True, True, False, False]


def test_coloured_masks_are_distinguished_from_grey_ones():
    assert not is_coloured(np.full((2, 2, 3), (250, 246, 255), np.uint8))
    assert is_coloured(np.array([[(0, 0, 0), (200, 5, 5)]], np.uint8))


@pytest.mark.parametrize("name", SCHEMES)
@given(masks=arrays(np.uint8, (2, 9, 7)))
def test_merging_gives_back_the_polyp(name, masks):
    """Exact for every mask and scheme, except the third class of jpeg-levels, which is both."""
    masks, scheme = torch.from_numpy(masks), get_scheme(name)
    class_map = scheme.encode(masks)
    decided = torch.ones_like(class_map, dtype=torch.bool)
    if name == "jpeg-levels":
        decided = class_map != scheme.classes.index("other levels")
    assert torch.equal(scheme.merge(class_map)[decided], is_polyp(masks)[decided])
    one_hot = torch.nn.functional.one_hot(class_map, len(scheme.classes)).permute(0, 3, 1, 2)
    assert torch.equal(scheme.polyp_probability(one_hot.float()) > 0.5, scheme.merge(class_map))


def test_kinds_need_masks_that_distinguish_them():
    scheme, grey_mask = get_scheme("neopolyp"), grey([[0, 255, 254]])
    with pytest.raises(ValueError, match=r"that tell neoplastic from non-neoplastic \(red"):
        scheme.check(grey_mask, "Kvasir-SEG")
    scheme.check(grey([[0, NEOPLASTIC, NON_NEOPLASTIC]]), "NeoPolyp")
    for other in SCHEMES.values():
        if other.name != "neopolyp":
            other.check(grey_mask, "Kvasir-SEG")


def test_threshold_by_hand():
    assert is_polyp(grey([[0, 8, 127, 128, 246, 255]])).tolist() == [[[0, 0, 0, 1, 1, 1]]]


def test_polyp_probability_sums_the_polyp_classes():
    probabilities = torch.tensor([0.5, 0.25, 0.125]).reshape(1, 3, 1, 1)
    expected = {"trimap": 0.375, "unused-third": 0.25, "jpeg-levels": 0.25, "neopolyp": 0.375}
    for name, value in expected.items():
        assert get_scheme(name).polyp_probability(probabilities).tolist() == [[[value]]]


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=lambda scheme: scheme.name)
def test_schemes_are_consistent(scheme):
    assert scheme.logits == (1 if len(scheme.classes) == 2 else len(scheme.classes))
    assert set(scheme.polyp) <= set(range(1, len(scheme.classes)))
    assert len(set(scheme.polyp)) == len(scheme.polyp), "a class is of one kind"


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize(
    ("masks", "seen"),
    [
        (torch.zeros(1, 8, 8), r"torch.float32 \(1, 8, 8\)"),
        (torch.zeros(1, 8, 8, dtype=torch.bool), r"torch.bool \(1, 8, 8\)"),
        (torch.zeros(8, 8, dtype=torch.uint8), r"torch.uint8 \(8, 8\)"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), r"torch.uint8 \(1, 3, 8, 8\)"),
    ],
)
def test_encode_rejects_other_tensors(name, masks, seen):
    with pytest.raises(ValueError, match=rf"masks are {seen}; give levels uint8 \(B, H, W\)"):
        get_scheme(name).encode(masks)


def test_unknown_scheme():
    with pytest.raises(ValueError, match=r"unknown scheme 'trimp': did you mean 'trimap'\?"):
        get_scheme("trimp")
