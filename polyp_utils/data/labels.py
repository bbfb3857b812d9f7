"""Label schemes: from the grey levels of a mask to class indices, and back to "polyp".

The cache keeps a mask as it is on disk, uint8 grey levels (B, H, W); polyp is what is above
``THRESHOLD``. A scheme is applied to a batch, after any geometry, so that a rim is always true
to its width. Every scheme merges back to the binary mask that the literature scores, but for
``jpeg-levels``, whose third class mixes both sides of the threshold: it exists to show that.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from polyp_utils.config import unknown

THRESHOLD = 127  # JPEG masks hold 0–8 and 246–255: any value between gives the same mask
RIM_PX = 3.0  # at 256×256; scales with √(H·W)


@dataclass(frozen=True)
class Scheme:
    """What the class indices mean.

    Attributes:
        classes: name per index; index 0 is background.
        polyp: the indices that together are polyp.
        logits: output channels of a network for this scheme (1 = one sigmoid logit for polyp).
        note: one sentence for tables and model cards.
    """

    name: str
    classes: tuple[str, ...]
    polyp: tuple[int, ...]
    logits: int
    note: str
    _encode: Callable[[Tensor], Tensor]

    def encode(self, masks: Tensor) -> Tensor:
        """Grey levels uint8 (B, H, W) -> class indices int64 (B, H, W), on the same device."""
        if masks.dtype != torch.uint8 or masks.ndim != 3:
            raise ValueError(
                f"masks are {masks.dtype} {tuple(masks.shape)}; give grey levels uint8 (B, H, W)"
            )
        return self._encode(masks)

    def merge(self, class_map: Tensor) -> Tensor:
        """Class indices (any shape) -> bool, true where a polyp class stands."""
        return torch.isin(class_map, torch.tensor(self.polyp, device=class_map.device))

    def polyp_probability(self, probabilities: Tensor) -> Tensor:
        """Class probabilities (B, C, H, W) -> P(any polyp class), (B, H, W)."""
        return probabilities[:, list(self.polyp)].sum(dim=1)


def is_polyp(masks: Tensor) -> Tensor:
    """Grey levels uint8 -> bool: the thresholded mask."""
    return masks > THRESHOLD


def rim_width(height: int, width: int) -> float:
    """Width of the boundary class in pixels: 3 at 256×256, in proportion elsewhere, at least 1."""
    return max(1.0, RIM_PX * math.sqrt(height * width) / 256)


def inner_rim(polyp_BHW: Tensor, rim_px: float) -> Tensor:
    """Polyp pixels within ``rim_px`` (Euclidean, pixel centres) of background, bool (B, H, W).

    The frame's edge is no boundary of the polyp: what lies outside does not count as background.
    """
    reach = math.floor(rim_px)
    offset = torch.arange(-reach, reach + 1, device=polyp_BHW.device, dtype=torch.float32)
    disk = (offset[:, None] ** 2 + offset**2 <= rim_px**2).float()
    background = (~polyp_BHW).float().unsqueeze(1)
    near_background = F.conv2d(background, disk[None, None], padding=reach).squeeze(1) > 0.5
    return polyp_BHW & near_background


def _binary(masks: Tensor) -> Tensor:
    return is_polyp(masks).long()


def _trimap(masks: Tensor) -> Tensor:
    polyp = is_polyp(masks)
    return polyp.long() + inner_rim(polyp, rim_width(*masks.shape[-2:])).long()


def _jpeg_levels(masks: Tensor) -> Tensor:
    return torch.where(masks == 0, 0, torch.where(masks == 255, 1, 2))


SCHEMES: dict[str, Scheme] = {
    scheme.name: scheme
    for scheme in (
        Scheme(
            "trimap",
            ("background", "polyp", "boundary"),
            (1, 2),
            3,
            "boundary is the inner rim of the mask, 3·√(H·W)/256 px wide",
            _trimap,
        ),
        Scheme(
            "binary",
            ("background", "polyp"),
            (1,),
            1,
            "one sigmoid logit for polyp",
            _binary,
        ),
        Scheme(
            "unused-third",
            ("background", "polyp", "unused"),
            (1,),
            3,
            "three channels, the third never occurs in the masks",
            _binary,
        ),
        Scheme(
            "jpeg-levels",
            ("level 0", "level 255", "other levels"),
            (1,),
            3,
            "raw JPEG levels 0, 255, anything else: what a loader that trusts the pixels sees",
            _jpeg_levels,
        ),
    )
}


def get_scheme(name: str) -> Scheme:
    """The scheme of that name.

    Raises:
        ValueError: unknown name, with the nearest valid one.
    """
    if name not in SCHEMES:
        raise unknown("scheme", name, SCHEMES)
    return SCHEMES[name]
