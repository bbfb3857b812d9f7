import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from polyp_utils.data.transforms import resize_image, resize_mask, to_input

SIZES = [
    ((96, 120), (32, 40)),
    ((351, 487), (64, 64)),
    ((40, 30), (128, 160)),
    ((64, 64), (64, 64)),
]
CPU = torch.device("cpu")


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_resize_mask_equals_pillow_nearest(old, new):
    mask = noise(*old)
    expected = Image.fromarray(mask).resize(new[::-1], Image.Resampling.NEAREST)
    np.testing.assert_array_equal(resize_mask(torch.from_numpy(mask), new), np.array(expected))


@pytest.mark.parametrize(("old", "new"), SIZES)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_resize_mask_makes_no_new_values(old, new, dtype):
    mask = torch.from_numpy(np.random.default_rng(0).choice([0, 3, 250, 255], (2, *old)))
    resized = resize_mask(mask.to(dtype), new)
    assert (resized.dtype, resized.shape) == (dtype, (2, *new))
    assert set(resized.unique().tolist()) <= {0, 3, 250, 255}


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_resize_image_equals_pillow_bilinear(old, new):
    image = noise(*old, 3)
    expected = Image.fromarray(image).resize(new[::-1], Image.Resampling.BILINEAR)
    resized = resize_image(torch.from_numpy(image).permute(2, 0, 1), new).permute(1, 2, 0)
    assert resized.dtype == torch.uint8
    np.testing.assert_allclose(resized.numpy().astype(int), np.array(expected).astype(int), atol=1)


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_resizing_equals_torchvision_to_the_digit(old, new):
    image = torch.from_numpy(noise(*old, 3)).permute(2, 0, 1)
    expected = v2.functional.resize(image, new, antialias=True)
    difference = resize_image(image, new).int() - expected.int()
    # without AVX2 torchvision rounds what it resized in float32; ours is the same everywhere
    assert difference.abs().max() <= (torch.backends.cpu.get_cpu_capability() == "DEFAULT")
    nearest = {"interpolation": v2.InterpolationMode.NEAREST_EXACT}
    assert torch.equal(resize_mask(image, new), v2.functional.resize(image, new, **nearest))
    scaled = v2.functional.to_dtype(image[None], torch.float32, scale=True)
    assert torch.equal(to_input(image[None], CPU), scaled)


@pytest.mark.parametrize(("old", "new"), SIZES)
@pytest.mark.parametrize("axis", [-1, -2])
def test_resizing_a_flipped_frame_flips_the_result(old, new, axis):
    image, mask = torch.from_numpy(noise(3, *old)), torch.from_numpy(noise(*old))
    flipped = resize_image(image.flip(axis), new).flip(axis)
    torch.testing.assert_close(flipped.int(), resize_image(image, new).int(), atol=1, rtol=0)
    # (351, 487) → 64 and the others have no pixel centre half-way between two source pixels
    assert torch.equal(resize_mask(mask.flip(axis), new).flip(axis), resize_mask(mask, new))


def test_to_input_by_hand():
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(1, 3, 1, 1).repeat(2, 1, 4, 5)
    scaled = to_input(images, CPU)
    assert (scaled.dtype, scaled.shape) == (torch.float32, (2, 3, 4, 5))
    assert scaled.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(scaled[1, :, 3, 4], torch.tensor([0.0, 0.2, 1.0]))
