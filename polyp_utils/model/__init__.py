"""The U-Net, what it minimises, and what it says of frames.

It may import from `common` and `data`.
"""

from polyp_utils.model.unet import UNet

__all__ = ["UNet"]
