"""Augmentation: deterministic, per frame, image and mask together; against torchvision."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as F

from polyp_utils.data.augment import PRESETS, Preset, augment, augmented_copies, draw_parameters
from polyp_utils.data.dataset import PolypDataset
from polyp_utils.data.labels import get_scheme, inner_rim, is_polyp, rim_width

NOTHING = Preset(0, 1, 0, 0, 0, 0, 0, 0, 0)
ROWS = list(range(6))


def parameters(count, **values):
    """Parameters that change nothing, except for the values given."""
    found = draw_parameters(NOTHING, 0, 0, list(range(count)))
    found["mirror_x"], found["mirror_y"] = torch.ones(count), torch.ones(count)
    return found | {name: torch.full((count,), float(value)) for name, value in values.items()}


@pytest.fixture
def batch(blobs):
    masks = torch.from_numpy(blobs(6, 64, 64))
    noise = torch.rand(6, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    return noise, masks


def test_neutral_parameters_change_nothing(batch):
    images, masks = augment(*batch, parameters(6))
    torch.testing.assert_close(images, batch[0], atol=2e-3, rtol=0)
    assert torch.equal(masks, batch[1])
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert masks.dtype == torch.uint8


@pytest.mark.parametrize("preset", PRESETS)
def test_a_frame_is_drawn_alike_in_any_batch(preset, batch):
    whole = augment(*batch, draw_parameters(PRESETS[preset], 3, 7, ROWS))
    for rows in ([4, 1], [5]):
        part = augment(*(t[rows] for t in batch), draw_parameters(PRESETS[preset], 3, 7, rows))
        torch.testing.assert_close(part[0], whole[0][rows], atol=1e-5, rtol=0)
        assert torch.equal(part[1], whole[1][rows])
    again = augment(*batch, draw_parameters(PRESETS[preset], 3, 7, ROWS))
    assert torch.equal(again[0], whole[0])


@pytest.mark.parametrize("preset", ["light", "strong"])
def test_draws_differ_by_seed_epoch_and_frame(preset):
    seen = [
        draw_parameters(PRESETS[preset], *key)
        for key in ((0, 0, [0, 1]), (0, 1, [0, 1]), (1, 0, [0, 1]))
    ]
    for name in ("rotation", "zoom", "shift_x", "shift_y", "brightness", "contrast"):
        assert len({value for drawn in seen for value in drawn[name].tolist()}) == 6


@pytest.mark.parametrize("preset", PRESETS)
def test_draws_stay_in_their_ranges_and_reach_their_ends(preset):
    p, drawn = PRESETS[preset], draw_parameters(PRESETS[preset], 0, 0, list(range(4000)))
    ends = {
        "rotation": (-math.radians(p.rotation), math.radians(p.rotation)),
        "shear": (-math.radians(p.shear), math.radians(p.shear)),
        "zoom": (1 / p.zoom, p.zoom),
        "shift_x": (-2 * p.shift, 2 * p.shift),  # of a grid that is 2 wide
        "brightness": (1 - p.brightness, 1 + p.brightness),
        "saturation": (1 - p.saturation, 1 + p.saturation),
        "hue": (-p.hue, p.hue),
        "blur": (0, p.blur),
    }
    for name, (low, high) in ends.items():
        values = drawn[name]
        assert low - 1e-6 <= values.min() <= low + 0.01 * (high - low) + 1e-6
        assert high - 0.01 * (high - low) - 1e-6 <= values.max() <= high + 1e-6
    for axis in ("mirror_x", "mirror_y"):
        assert set(drawn[axis].tolist()) == {-1, 1}
        assert abs(drawn[axis].mean()) < 0.05
    if p.zoom > 1:
        assert (drawn["zoom"] > 1).float().mean() == pytest.approx(0.5, abs=0.03)
    if p.blur:
        assert (drawn["blur"] > 0).float().mean() == pytest.approx(0.5, abs=0.03)


def test_mirror_makes_only_mirror_images(batch):
    drawn = draw_parameters(PRESETS["mirror"], 0, 0, ROWS)
    signs = list(zip(drawn["mirror_x"], drawn["mirror_y"], strict=True))
    assert len(set(map(tuple, torch.tensor(signs).tolist()))) > 1
    for before, after in zip(batch, augment(*batch, drawn), strict=True):
        for frame, seen, (x, y) in zip(before, after, signs, strict=True):
            turned = frame.flip([d for d, sign in ((-1, x), (-2, y)) if sign < 0])
            torch.testing.assert_close(seen, turned, rtol=0, atol=1e-4)  # float32 positions


def test_image_and_mask_move_together(batch):
    """An image that shows its own mask still does, except for pixels along the outline."""
    masks = batch[1]
    images = is_polyp(masks).float()[:, None].repeat(1, 3, 1, 1)
    geometry = replace(PRESETS["strong"], brightness=0, contrast=0, saturation=0, hue=0, blur=0)
    moved, levels = augment(images, masks, draw_parameters(geometry, 0, 0, ROWS))
    shown, polyp = moved[:, 0] > 0.5, is_polyp(levels)
    assert polyp.any(dim=(1, 2)).all()
    assert (shown != polyp).float().mean() < 0.02
    assert set(levels.unique().tolist()) == {0, 255}  # no new levels


@pytest.mark.parametrize(("axis", "name"), [(-1, "mirror_x"), (-2, "mirror_y")])
def test_mirror_by_hand(axis, name, batch):
    images, masks = augment(*batch, parameters(6, **{name: -1}))
    torch.testing.assert_close(images, batch[0].flip(axis), atol=2e-3, rtol=0)
    assert torch.equal(masks, batch[1].flip(axis))


@pytest.mark.parametrize(("height", "width"), [(64, 64), (48, 96)])
def test_a_quarter_turn_by_hand(height, width):
    """In pixels even if the frame is not square: a centred square stays a square."""
    masks = torch.zeros(1, height, width, dtype=torch.uint8)
    top, left = height // 2 - 8, width // 2 - 8
    masks[0, top : top + 16, left : left + 16] = 255
    masks[0, top : top + 4, left : left + 16] = 191  # an upper stripe turns to one side
    images = torch.zeros(1, 3, height, width)
    turned = augment(images, masks, parameters(1, rotation=math.pi / 2))[1][0]
    inside = turned[top : top + 16, left : left + 16]
    assert (turned > 0).sum() == (inside > 0).sum() == 256
    assert inside.eq(191).sum() == 64
    assert inside.eq(191).all(dim=0).sum() == 4


def test_outside_is_black_background(batch):
    images, masks = augment(
        batch[0] + 0.5, batch[1], parameters(6, shift_x=1, brightness=1.3, contrast=0.5)
    )
    assert (images[..., 33:] == 0).all()  # moved by half the width
    assert (masks[..., 33:] == 0).all()
    assert (images[..., :31] > 0).float().mean() > 0.99


def test_the_rim_is_built_after_the_geometry(batch):
    levels = augment(batch[0], batch[1], draw_parameters(PRESETS["strong"], 0, 0, ROWS))[1]
    rim = get_scheme("trimap").encode(levels) == 2
    assert torch.equal(rim, inner_rim(is_polyp(levels), rim_width(64, 64)))


@pytest.mark.parametrize(
    ("name", "value", "oracle"),
    [
        ("brightness", 1.3, F.adjust_brightness),
        ("contrast", 0.6, F.adjust_contrast),
        ("saturation", 0.4, F.adjust_saturation),
    ],
)
def test_colours_are_those_of_torchvision(name, value, oracle, batch):
    images, _ = augment(*batch, parameters(6, **{name: value}))
    torch.testing.assert_close(images, oracle(batch[0], value), atol=4e-3, rtol=0)


def test_a_small_turn_of_hue_is_nearly_that_of_torchvision(batch):
    tissue = torch.tensor([0.7, 0.4, 0.3]).view(1, 3, 1, 1)
    muted = tissue + 0.1 * batch[0]  # nothing is clamped
    images, _ = augment(muted, batch[1], parameters(6, hue=0.02))
    expected = F.adjust_hue(muted, 0.02) - muted
    found = images - muted
    assert torch.corrcoef(torch.stack([found.flatten(), expected.flatten()]))[0, 1] > 0.8
    assert 0.5 < found.abs().mean() / expected.abs().mean() < 2
    grey = muted[:, :1].repeat(1, 3, 1, 1)
    torch.testing.assert_close(
        augment(grey, batch[1], parameters(6, hue=0.02))[0], grey, atol=2e-3, rtol=0
    )


def test_blur_is_that_of_torchvision(batch):
    sigma = 1.5 * 64 / 256
    kernel = 2 * math.ceil(3 * sigma) + 1
    images, _ = augment(*batch, parameters(6, blur=1.5))
    expected = F.gaussian_blur(batch[0], [kernel, kernel], [sigma, sigma])
    inner = (..., slice(4, -4), slice(4, -4))  # the border is padded differently
    torch.testing.assert_close(images[inner], expected[inner], atol=3e-3, rtol=0)


def test_augmented_copies_show_the_frame_and_its_draws():
    data = PolypDataset("phantom", 32)
    images, masks = augmented_copies(data, data.ids[3], "light", 5)
    assert images.shape == (5, 32, 32, 3)
    assert masks.shape == (5, 32, 32)
    np.testing.assert_allclose(images[0], data.images[3].permute(1, 2, 0) / 255, atol=1e-6)
    assert all(np.abs(images[i] - images[0]).mean() > 0.01 for i in range(1, 5))
    with pytest.raises(ValueError, match=r"unknown augment 'lite': did you mean 'light'\?"):
        augmented_copies(data, data.ids[3], "lite", 5)
