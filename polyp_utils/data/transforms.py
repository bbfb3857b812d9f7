"""From frames of any size to network input: one way to resize, one way to scale.

Resizing is PyTorch's own, in integers for integer pixels: the same digits as torchvision's v2
(which imports PyTorch's compiler, seconds at every start), and the same on every kind of CPU.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def resize_image(image_CHW: Tensor, size: tuple[int, int]) -> Tensor:
    """Antialiased bilinear resize of uint8 or float images (…, C, H, W) to (…, C, *size)."""
    images = image_CHW.reshape(-1, *image_CHW.shape[-3:])
    resized = F.interpolate(images, size, mode="bilinear", antialias=True)
    return resized.reshape(*image_CHW.shape[:-2], *size)


def resize_mask(mask_HW: Tensor, size: tuple[int, int]) -> Tensor:
    """Nearest-exact resize of mask levels or class indices (…, H, W): no new values appear."""
    masks = mask_HW.reshape(-1, 1, *mask_HW.shape[-2:]).float()  # PyTorch lacks it for integers
    resized = F.interpolate(masks, size, mode="nearest-exact").to(mask_HW.dtype)
    return resized.reshape(*mask_HW.shape[:-2], *size)


def to_input(images: Tensor, device: torch.device) -> Tensor:
    """uint8 (B, 3, H, W) -> float32 in [0, 1] on ``device``, channels last in memory."""
    scaled = to_device(images, device).to(torch.float32).mul_(1 / 255)
    return scaled.to(memory_format=torch.channels_last)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on ``device``; CUDA copies it from pinned memory while the host continues."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
