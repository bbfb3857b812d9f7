"""Random geometry and colour for a batch, drawn per frame: one implementation for CPU and GPU.

A frame's augmentation depends only on (seed, epoch, its index), so order, batch size and resuming
do not matter. Image and mask share the geometry; label schemes are applied after it, so a rim keeps
its width. Presets:

- ``mirror``: flips along both axes.
- ``light``: flips along both axes, rotation ±15°, zoom 0.9–1.1, shift 5 %, brightness and contrast
  ±15 %.
- ``strong``: flips along both axes, any rotation, zoom 0.7–1.4, shift 10 %, shear ±10°, brightness,
  contrast and saturation ±35 %, hue ±0.02, blur: the kinds of augmentation that FCBFormer
  (Sanderson and Matuszewski 2022) uses.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from polyp_utils.common.exceptions import unknown
from polyp_utils.data.dataset import PolypDataset
from polyp_utils.data.labels import is_polyp
from polyp_utils.data.transforms import to_device, to_input


@dataclass(frozen=True)
class Preset:
    """Ranges from which parameters are drawn uniformly, per frame.

    Attributes:
        rotation, shear: largest angle in degrees, both signs.
        zoom: largest factor; uniform in its logarithm, so as likely below 1 as above.
        shift: largest share of the side, both signs, both axes.
        brightness, contrast, saturation: largest distance of the factor from 1.
        hue: largest share of the colour circle, both signs.
        blur: largest standard deviation in pixels at 256×256; half of the frames get none.
    """

    rotation: float
    zoom: float
    shift: float
    shear: float
    brightness: float
    contrast: float
    saturation: float
    hue: float
    blur: float


PRESETS = {
    "mirror": Preset(0, 1, 0, 0, 0, 0, 0, 0, 0),
    "light": Preset(15, 1.1, 0.05, 0, 0.15, 0.15, 0, 0, 0),
    "strong": Preset(180, 1.4, 0.1, 10, 0.35, 0.35, 0.35, 0.02, 1.5),
}


def draw_parameters(preset: Preset, seed: int, epoch: int, rows: list[int]) -> dict[str, Tensor]:
    """Parameters of a batch, each float32 (B,), determined by (seed, epoch, row) alone."""
    columns = {}
    uniform = np.stack([np.random.default_rng([seed, epoch, r]).uniform(-1, 1, 12) for r in rows])
    draws = iter(torch.from_numpy(uniform.T.astype(np.float32)))
    for name, largest in (("rotation", preset.rotation), ("shear", preset.shear)):
        columns[name] = next(draws) * math.radians(largest)
    columns["zoom"] = (next(draws) * math.log(preset.zoom)).exp()
    columns["mirror_x"], columns["mirror_y"] = next(draws).sign(), next(draws).sign()
    columns["shift_x"], columns["shift_y"] = (next(draws) * 2 * preset.shift for _ in range(2))
    for name in ("brightness", "contrast", "saturation"):
        columns[name] = 1 + next(draws) * getattr(preset, name)
    columns["hue"] = next(draws) * preset.hue
    columns["blur"] = next(draws).clamp(min=0) * preset.blur
    return columns


def augmented_copies(
    dataset: PolypDataset, frame_id: str, preset: str, count: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """A frame and ``count`` − 1 augmentations of it, as a network sees them in as many epochs.

    Args:
        dataset: holds the frame.
        frame_id: the frame's id.
        preset: name of one of `PRESETS`.
        count: images to return, the first of them the unchanged frame.
        seed: seed of the augmentations.

    Returns:
        Images float32 (count, S, S, 3) in [0, 1], polyp masks bool (count, S, S).

    Raises:
        ValueError: unknown preset or id.
    """
    if preset not in PRESETS:
        raise unknown("augment", preset, PRESETS)
    row = dataset.rows([frame_id])
    image, mask = to_input(dataset.images[row], torch.device("cpu")), dataset.masks[row]
    drawn = [
        augment(image, mask, draw_parameters(PRESETS[preset], seed, epoch, row.tolist()))
        for epoch in range(count - 1)
    ]
    images, masks = (torch.cat(list(parts)) for parts in zip((image, mask), *drawn, strict=True))
    return images.permute(0, 2, 3, 1).numpy(), is_polyp(masks).numpy()


def augment(images: Tensor, masks: Tensor, parameters: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Applies drawn parameters; the area outside the frame becomes black background.

    All small matrices are made on the CPU and sent to a GPU without waiting for it.

    Args:
        images: float (B, 3, H, W) in [0, 1].
        masks: levels uint8 (B, H, W).
        parameters: from `draw_parameters`, on the CPU.

    Returns:
        New images and masks, of the same types and on the same device.
    """
    p, device = parameters, images.device
    height, width = images.shape[-2:]
    matrices = to_device(_matrices(p, width / height), device)
    grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, mode="bilinear", align_corners=False)
    levels = F.grid_sample(masks[:, None].float(), grid, mode="nearest", align_corners=False)
    blurred = _blur(moved, p["blur"] * math.sqrt(height * width) / 256)
    factors = torch.stack([p["brightness"], p["contrast"], p["saturation"]])
    turns = to_device(_hue_matrices(p["hue"]), device)
    coloured = _colour(blurred, to_device(factors, device), turns)
    inside = F.grid_sample(torch.ones_like(images[:, :1]), grid, align_corners=False)
    coloured = (coloured * inside).contiguous(memory_format=torch.channels_last)
    return coloured, levels[:, 0].round().to(torch.uint8)


def _matrices(p: dict[str, Tensor], aspect: float) -> Tensor:
    """Affine maps from output to input coordinates in [-1, 1], (B, 2, 3).

    Rotation is in pixels even if the frame is not square: x is converted to the scale of y.
    """
    cos, sin = p["rotation"].cos(), p["rotation"].sin()
    rotation = _stack([[cos, -sin], [sin, cos]])
    one = torch.ones_like(cos)
    shear = _stack([[one, p["shear"].tan()], [0 * one, one]])
    scale = _stack([[p["mirror_x"] / p["zoom"], 0 * one], [0 * one, p["mirror_y"] / p["zoom"]]])
    linear = rotation @ shear @ scale
    stretch = torch.tensor([[1, 1 / aspect], [aspect, 1]])
    shift = torch.stack([p["shift_x"], p["shift_y"]], dim=1)[..., None]
    return torch.cat([linear * stretch, shift], dim=2)


def _stack(rows: list[list[Tensor]]) -> Tensor:
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def _colour(images: Tensor, factors: Tensor, hue_matrices: Tensor) -> Tensor:
    """Brightness, contrast, saturation and hue, in this order, each as in torchvision's v2.

    Args:
        images: float (B, 3, H, W) in [0, 1].
        factors: for the first three, (3, B).
        hue_matrices: (B, 3, 3).
    """
    brightness, contrast, saturation = factors[..., None, None, None]
    images = (images * brightness).clamp(0, 1)
    mean = _luma(images).mean(dim=(2, 3), keepdim=True)
    images = (mean + contrast * (images - mean)).clamp(0, 1)
    grey = _luma(images)
    images = (grey + saturation * (images - grey)).clamp(0, 1)
    return torch.einsum("bij,bjhw->bihw", hue_matrices, images).clamp(0, 1)


def _luma(images: Tensor) -> Tensor:
    red, green, blue = images.split(1, dim=1)
    return 0.299 * red + 0.587 * green + 0.114 * blue


def _hue_matrices(hue: Tensor) -> Tensor:
    """RGB -> RGB, (B, 3, 3): rotates chroma in YIQ by ``hue`` turns (B,).

    For small angles it matches a hue shift in HSV.
    """
    angle = -2 * math.pi * hue  # HSV turns the other way
    to_yiq = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
    cos, sin = angle.cos(), angle.sin()
    one, zero = torch.ones_like(cos), torch.zeros_like(cos)
    turn = _stack([[one, zero, zero], [zero, cos, -sin], [zero, sin, cos]])
    return torch.linalg.inv(to_yiq) @ turn @ to_yiq


def _blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur; standard deviations in px per frame, (B,) on the CPU; 0 changes nothing."""
    if not (sigma > 0).any():
        return images
    batch, channels, height, width = images.shape
    reach = math.ceil(3 * float(sigma.max()))
    offset = torch.arange(-reach, reach + 1)
    kernel = (-(offset**2) / (2 * sigma.clamp(min=1e-3)[:, None] ** 2)).exp()
    kernel = (kernel / kernel.sum(dim=1, keepdim=True)).repeat_interleave(channels, dim=0)
    kernel = to_device(kernel.to(images.dtype), images.device)
    flat = images.reshape(1, batch * channels, height, width)
    for shape, pad in (
        ((-1, 1, 1, 2 * reach + 1), (reach, reach, 0, 0)),
        ((-1, 1, 2 * reach + 1, 1), (0, 0, reach, reach)),
    ):
        padded = F.pad(flat, pad, mode="replicate")
        flat = F.conv2d(padded, kernel.view(shape), groups=batch * channels)
    return flat.view(batch, channels, height, width)
