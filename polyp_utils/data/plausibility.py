"""Whether the masks of a set can be masks of polyps: what no single file shows.

What is usual comes from the 2,612 masks of Kvasir-SEG, CVC-ClinicDB and NeoPolyp-Small at their
original size: polyp covers 0.054 (NeoPolyp) to 0.154 (Kvasir-SEG) of a set and at most 0.814 of a
frame, and at most 0.49 of the outline of a frame.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from polyp_utils.common.exceptions import few

MOST_OF_SET, MOST_OF_FRAME, MOST_OF_OUTLINE = 0.31, 0.82, 0.5  # 0.31: twice that of Kvasir-SEG
FULL_MASK, INVERTED, LARGE = "full mask", "inverted mask", "large polyp"
SET_SHARE, NONE = "polyp share of the set", "no polyp at all"
ADVICE = {
    FULL_MASK: "polyp must be white or opaque there and everything else black",
    INVERTED: "if polyp is black there, invert the masks",
    LARGE: "look at these masks",
    SET_SHARE: "look at the masks",
    NONE: "check that these are the masks",
}
_FULL = 0.999
_SHOWN = 3  # ids


class Doubt(NamedTuple):
    """A reason to doubt the masks of a set.

    Attributes:
        check: what is doubtful, in a few words.
        ids: the frames concerned.
        seen: how many they are and what was measured, with examples.
    """

    check: str
    ids: tuple[str, ...]
    seen: str

    def __str__(self) -> str:
        return f"{self.check}: {self.seen}; {ADVICE[self.check]}"


def outline_pixels(polyp: np.ndarray) -> np.ndarray:
    """The pixels of a mask bool (H, W) on the outline of the frame, bool (2·(H + W),)."""
    return np.concatenate([polyp[0], polyp[-1], polyp[:, 0], polyp[:, -1]])


def _range(shares: np.ndarray) -> str:
    low, high = f"{shares.min():.0%}", f"{shares.max():.0%}"
    return low if low == high else f"{low} to {high}"


def doubts(ids: Sequence[str], shares: np.ndarray, outlines: np.ndarray) -> list[Doubt]:
    """What is doubtful about the masks of a set, with numbers and examples.

    Args:
        ids: of the frames.
        shares: share of each frame that is polyp, float (N,).
        outlines: share of each frame's outline that is polyp, float (N,).
    """
    count, found = len(ids), []

    def add(check: str, rows: np.ndarray, beside: str = "") -> None:
        chosen, covered = [ids[int(row)] for row in np.flatnonzero(rows)], shares[rows]
        if chosen:
            seen = (
                f"in {len(chosen)} of {count} masks ({few(chosen, _SHOWN)}) polyp covers "
                f"{_range(covered)} of the frame{beside}"
            )
            found.append(Doubt(check, tuple(chosen), seen))

    full = shares >= _FULL
    inverted = (outlines > MOST_OF_OUTLINE) & ~full
    usual = f"where masks of the known sets have at most {MOST_OF_OUTLINE:.0%}"
    add(FULL_MASK, full)
    add(INVERTED, inverted, f" and most of its outline, {usual}")
    usual = f", where masks of the known sets have at most {MOST_OF_FRAME:.0%}"
    add(LARGE, (shares > MOST_OF_FRAME) & ~full & ~inverted, usual)
    mean = float(shares.mean()) if count else 0.0
    if mean > MOST_OF_SET and not (full | inverted).any():
        seen = f"polyp covers {mean:.0%} of the {count} frames, in the known sets 5 to 15 %"
        found.append(Doubt(SET_SHARE, (), seen))
    if count and not shares.any():
        found.append(Doubt(NONE, tuple(ids), f"none of the {count} masks has a polyp pixel"))
    return found
