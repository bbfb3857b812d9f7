"""What an audit finds in masks: in each, and in all of them together."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from skimage import measure

from polyp_utils.data.labels import SPECK_SHARE, THRESHOLD
from polyp_utils.data.masks import MaskFile
from polyp_utils.data.plausibility import doubts, outline_pixels

Finding = tuple[str, str, str]  # check, id, detail


def mask_row(mask: MaskFile) -> dict[str, Any]:
    """What the audit's table says of a mask."""
    polyp = mask.levels > THRESHOLD
    sizes = np.bincount(measure.label(polyp, connectivity=2).ravel())[1:]
    specks = sizes[sizes < SPECK_SHARE * polyp.size]
    return {
        "polyp_share": polyp.mean(),
        "outline_share": outline_pixels(polyp).mean(),
        "levels": mask.level_count,
        "brightest": int(mask.brightest.max()),
        "specks": len(specks),
        "speck_px": int(specks.sum()),
        "traces_px": int(mask.traces.sum()),
        "undecided_px": int(mask.undecided.sum()),
    }


def mask_findings(mask: MaskFile, row: dict[str, Any]) -> Iterator[Finding]:
    """Yields what is odd about one mask, whose row has the frame's ``id`` too."""
    frame_id = row["id"]
    if row["undecided_px"]:
        y, x = np.argwhere(mask.undecided)[0]
        value = mask.raw[y, x].tolist()
        detail = f"{row['undecided_px']} px, first {value} at row {y}, column {x}"
        yield "undecided mask pixels", frame_id, detail
    if row["specks"]:
        polyp = mask.levels > THRESHOLD
        regions = measure.regionprops(measure.label(polyp, connectivity=2))
        y, x = min(regions, key=lambda region: region.area).coords[0]
        specks = "1 speck" if row["specks"] == 1 else f"{row['specks']} specks"
        detail = f"{specks}, {row['speck_px']} px in all, the smallest at row {y}, column {x}"
        yield "stray specks", frame_id, detail
    if not row["polyp_share"]:
        yield "empty mask", frame_id, "no polyp pixel"


def set_findings(frames: pd.DataFrame) -> Iterator[Finding]:
    """Yields what the masks of all frames together leave in doubt."""
    shares, outlines = frames["polyp_share"].to_numpy(), frames["outline_share"].to_numpy()
    for doubt in doubts(frames["id"].tolist(), shares, outlines):
        for frame_id in doubt.ids or ("",):
            yield doubt.check, frame_id, doubt.seen
    bright = frames.loc[frames["brightest"] > THRESHOLD, ["id", "brightest"]]
    white = bright["brightest"].max()
    for frame_id, level in bright[bright["brightest"] < white - 9].itertuples(index=False):
        yield "another white", frame_id, f"its brightest level is {level}, elsewhere {white}"
