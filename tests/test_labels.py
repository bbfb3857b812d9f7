import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt

from polyp_utils.data.labels import SCHEMES, get_scheme, inner_rim, is_polyp, rim_width

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


def test_frame_edge_is_no_boundary():
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


def test_threshold_by_hand():
    assert is_polyp(grey([[0, 8, 127, 128, 246, 255]])).tolist() == [[[0, 0, 0, 1, 1, 1]]]


def test_polyp_probability_sums_the_polyp_classes():
    probabilities = torch.tensor([0.5, 0.25, 0.125]).reshape(1, 3, 1, 1)
    expected = {"trimap": 0.375, "unused-third": 0.25, "jpeg-levels": 0.25}
    for name, value in expected.items():
        assert get_scheme(name).polyp_probability(probabilities).tolist() == [[[value]]]


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=lambda scheme: scheme.name)
def test_schemes_are_consistent(scheme):
    assert scheme.logits == (1 if len(scheme.classes) == 2 else len(scheme.classes))
    assert set(scheme.polyp) <= set(range(1, len(scheme.classes)))


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
def test_encode_refuses_other_tensors(name, masks, seen):
    with pytest.raises(ValueError, match=rf"masks are {seen}; give levels uint8 \(B, H, W\)"):
        get_scheme(name).encode(masks)


def test_unknown_scheme():
    with pytest.raises(ValueError, match=r"unknown scheme 'trimp': did you mean 'trimap'\?"):
        get_scheme("trimp")
