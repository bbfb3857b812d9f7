"""Label schemes: from the levels of a mask to class indices, and back to "polyp".

Masks are stored without a scheme as uint8 levels (B, H, W): grey masks as on disk, coloured ones as
the nearest colour's level (`colour_levels`). Levels above ``THRESHOLD`` are polyp. A scheme is
applied per batch, after any geometry, so that a rim always has its width. Every scheme merges back
to the binary mask that the literature scores, except ``jpeg-levels``, whose third class mixes both
sides of the threshold: it exists to show that.

Tables need only the class names, so PyTorch is imported where pixels become classes.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from polyp_utils.common.exceptions import unknown

if TYPE_CHECKING:
    from torch import Tensor

THRESHOLD = 127  # JPEG masks hold 0–8 and 246–255: any threshold between gives the same mask
SPECK_SHARE = 5e-4  # of the frame: smaller regions are specks (JPEG artefacts), not polyps
RIM_PX = 3.0  # at 256×256; scales with √(H·W)
NEOPLASTIC, NON_NEOPLASTIC = 255, 191  # levels of red and green; both are above the threshold
POLYP = "polyp (merged)"  # all polyp classes of a scheme together: what the literature scores
MISSED = "missed"  # the "predicted kind" of a polyp that is not found
_COLOURS = np.array([(0, 0, 0), (255, 0, 0), (0, 255, 0)])
_LEVELS = np.array([0, NEOPLASTIC, NON_NEOPLASTIC], dtype=np.uint8)


@dataclass(frozen=True)
class Scheme:
    """What the class indices mean.

    Attributes:
        classes: name per index; index 0 is background.
        kinds: kind of polyp -> its class indices; a lesion is of one kind.
        logits: output channels of a network for this scheme (1 = one sigmoid logit for polyp).
        note: one sentence for tables and model cards.
        levels: mask levels that a data set must hold for this scheme to make sense.
    """

    name: str
    classes: tuple[str, ...]
    kinds: dict[str, tuple[int, ...]]
    logits: int
    note: str
    _encode: Callable[[Tensor], Tensor]
    levels: tuple[int, ...] = ()

    @property
    def polyp(self) -> tuple[int, ...]:
        """The class indices that together make up polyp."""
        return tuple(index for indices in self.kinds.values() for index in indices)

    def encode(self, masks: Tensor) -> Tensor:
        """Levels uint8 (B, H, W) -> class indices int64 (B, H, W), on the same device."""
        import torch

        if masks.dtype != torch.uint8 or masks.ndim != 3:
            raise ValueError(
                f"masks are {masks.dtype} {tuple(masks.shape)}; give levels uint8 (B, H, W)"
            )
        return self._encode(masks)

    def fits(self, masks: Tensor) -> bool:
        """Whether masks (levels) hold every level that the scheme distinguishes."""
        return all(any((part == level).any() for part in masks.split(64)) for level in self.levels)

    def check(self, masks: Tensor, title: str) -> None:
        """Rejects a data set whose masks (levels) lack a level that the scheme distinguishes.

        Raises:
            ValueError: the masks do not fit; the message names the schemes that do.
        """
        if not self.fits(masks):
            fit = ", ".join(scheme.name for scheme in SCHEMES.values() if not scheme.levels)
            raise ValueError(
                f"scheme {self.name} needs masks that tell {' from '.join(self.kinds)} (red from "
                f"green); those of {title} do not: use one of {fit}, or dataset neopolyp"
            )

    def merge(self, class_map: Tensor) -> Tensor:
        """Class indices (any shape) -> bool, true for polyp classes."""
        return functools.reduce(operator.or_, (class_map == index for index in self.polyp))

    def polyp_probability(self, probabilities: Tensor) -> Tensor:
        """Class probabilities (B, C, H, W) -> P(any polyp class), (B, H, W)."""
        return probabilities[:, list(self.polyp)].sum(dim=1)


def is_polyp(masks: Tensor) -> Tensor:
    """Levels uint8 -> bool: the thresholded mask."""
    return masks > THRESHOLD


def polyp_shares(masks: Tensor) -> Tensor:
    """Levels uint8 (N, H, W) -> share of each mask that is polyp, float32 (N,)."""
    import torch

    return torch.cat([is_polyp(part).flatten(1).float().mean(dim=1) for part in masks.split(64)])


def undecided(grey: np.ndarray) -> np.ndarray:
    """Grey levels -> bool: the farther of 0 and 255 is less than twice as far as the nearer.

    JPEG artefacts (0–8, 246–255) and soft edges leave few; an interpolated mask, or one with class
    labels as grey levels, has many.
    """
    return (grey > 85) & (grey < 170)


def colour_levels(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coloured mask uint8 (H, W, 3) -> levels uint8 (H, W), and which pixels are undecided.

    Each pixel gets the level of the nearest colour (Euclidean, RGB): black 0, red 255 (neoplastic),
    green 191 (non-neoplastic). It is undecided if the second nearest is less than twice as far.
    """
    squared = np.stack([_squared_distance(rgb, colour) for colour in _COLOURS])
    first, second = np.partition(squared, 1, axis=0)[:2]
    return _LEVELS[squared.argmin(axis=0)], second < 4 * first


def _squared_distance(rgb: np.ndarray, colour: np.ndarray) -> np.ndarray:
    return ((rgb.astype(np.int32) - colour) ** 2).sum(axis=-1)


def is_coloured(rgb: np.ndarray) -> bool:
    """Whether a mask uint8 (H, W, 3) is coloured: some pixel is far from grey."""
    low, high = rgb.min(axis=-1), rgb.max(axis=-1)
    return bool((high - low > THRESHOLD).any())


def rim_width(height: int, width: int) -> float:
    """Width of the boundary class in pixels: 3 at 256×256, proportional elsewhere, at least 1."""
    return max(1.0, RIM_PX * math.sqrt(height * width) / 256)


def inner_rim(polyp_BHW: Tensor, rim_px: float) -> Tensor:
    """Polyp pixels within ``rim_px`` (Euclidean, pixel centres) of background, bool (B, H, W).

    The frame's edge is not a boundary of the polyp: the outside does not count as background.
    """
    import torch

    reach = math.floor(rim_px)
    offset = torch.arange(-reach, reach + 1, device=polyp_BHW.device, dtype=torch.float32)
    disk = (offset[:, None] ** 2 + offset**2 <= rim_px**2).float()
    background = (~polyp_BHW).float().unsqueeze(1)
    near = torch.nn.functional.conv2d(background, disk[None, None], padding=reach).squeeze(1)
    return polyp_BHW & (near > 0.5)


def _binary(masks: Tensor) -> Tensor:
    return is_polyp(masks).long()


def _trimap(masks: Tensor) -> Tensor:
    polyp = is_polyp(masks)
    return polyp.long() + inner_rim(polyp, rim_width(*masks.shape[-2:])).long()


def _jpeg_levels(masks: Tensor) -> Tensor:
    return (masks != 0).long() + ((masks != 0) & (masks != 255)).long()


def _neopolyp(masks: Tensor) -> Tensor:
    between = (NEOPLASTIC + NON_NEOPLASTIC) // 2
    return is_polyp(masks).long() + (is_polyp(masks) & (masks < between)).long()


SCHEMES: dict[str, Scheme] = {
    scheme.name: scheme
    for scheme in (
        Scheme(
            "trimap",
            ("background", "polyp", "boundary"),
            {"polyp": (1, 2)},
            3,
            "boundary is the inner rim of the mask, 3·√(H·W)/256 px wide",
            _trimap,
        ),
        Scheme(
            "binary",
            ("background", "polyp"),
            {"polyp": (1,)},
            1,
            "one sigmoid logit for polyp",
            _binary,
        ),
        Scheme(
            "unused-third",
            ("background", "polyp", "unused"),
            {"polyp": (1,)},
            3,
            "three channels, the third never occurs in the masks",
            _binary,
        ),
        Scheme(
            "jpeg-levels",
            ("level 0", "level 255", "other levels"),
            {"polyp": (1,)},
            3,
            "raw JPEG levels 0, 255, anything else: what a loader that trusts the pixels sees",
            _jpeg_levels,
        ),
        Scheme(
            "neopolyp",
            ("background", "neoplastic", "non-neoplastic"),
            {"neoplastic": (1,), "non-neoplastic": (2,)},
            3,
            "the kind of polyp, from red and green masks",
            _neopolyp,
            levels=(NEOPLASTIC, NON_NEOPLASTIC),
        ),
    )
}


def get_scheme(name: str) -> Scheme:
    """The scheme of that name.

    Raises:
        ValueError: unknown name; the message suggests the nearest valid one.
    """
    if name not in SCHEMES:
        raise unknown("scheme", name, SCHEMES)
    return SCHEMES[name]
