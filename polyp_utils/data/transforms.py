"""From frames of any size to what the network sees: one way to resize, one way to scale."""

import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

_MASK_MODE = v2.InterpolationMode.NEAREST_EXACT


def resize_image(image_CHW: Tensor, size: tuple[int, int]) -> Tensor:
    """Antialiased bilinear resize of uint8 or float images (…, C, H, W) to (…, C, *size)."""
    return F.resize(image_CHW, list(size), antialias=True)


def resize_mask(mask_HW: Tensor, size: tuple[int, int]) -> Tensor:
    """Nearest-exact resize of mask levels or class indices (…, H, W): no new values appear."""
    return F.resize(mask_HW.unsqueeze(-3), list(size), interpolation=_MASK_MODE).squeeze(-3)


def to_input(images: Tensor, device: torch.device) -> Tensor:
    """uint8 (B, 3, H, W) -> float32 in [0, 1] on ``device``, channels last in memory."""
    images = to_device(images, device)
    return F.to_dtype(images, torch.float32, scale=True).to(memory_format=torch.channels_last)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on ``device``; CUDA fetches it from pinned memory while the host goes on."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
