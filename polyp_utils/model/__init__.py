"""The U-Net, its losses, its predictions and its weights files.

It may import from `common` and `data`.
"""

from polyp_utils.model.unet import UNet

__all__ = ["UNet"]
