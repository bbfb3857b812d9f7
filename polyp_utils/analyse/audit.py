"""Audits a data set: checks every file and compares every pair of frames.

`audit` does not stop at a bad file but reports it and continues, so that one call shows everything
to fix. A finding is an ``error`` (`PolypDataset` refuses the file), a ``doubt`` (the masks may not
be what they should be: training says and records it) or a ``note``.
"""

import hashlib
import math
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from polyp_utils.analyse.frames import has_text, overlay
from polyp_utils.analyse.mask_findings import Finding, mask_findings, mask_row, set_findings
from polyp_utils.common.exceptions import DataError
from polyp_utils.common.files import write_csv
from polyp_utils.data import duplicates
from polyp_utils.data.catalog import get_info
from polyp_utils.data.pairs import near_duplicates
from polyp_utils.data.plausibility import ADVICE
from polyp_utils.data.sources import Source, open_source

OUTLIER_Z = 3.5  # robust z-score, Iglewicz and Hoaglin 1993

_COLUMNS = ["id", "height", "width", "border_share", "brightness", "overlay", "text"]
_COLUMNS += ["polyp_share", "outline_share", "levels", "brightest"]
_COLUMNS += ["specks", "speck_px", "traces_px", "undecided_px"]
_COLUMNS += ["same_bytes", "same_pixels"]


@dataclass(frozen=True)
class Audit:
    """The result of `audit`.

    Attributes:
        title: title of the data set.
        source: source of its frames.
        frames: one row per readable frame: ``id``, ``height`` and ``width`` (px), ``border_share``
            and ``brightness`` (mean lightness L*, 0–100, inside the black border),
            ``overlay``, ``text``, ``polyp_share``, ``outline_share`` (of the frame's outline that
            is polyp), ``levels`` (number of different levels or colours in the mask file),
            ``brightest`` (level of the mask file), ``specks`` and ``speck_px``, ``traces_px``
            (mask pixels of no pure colour), ``undecided_px``, ``same_bytes`` and ``same_pixels``
            (hashes of the image).
        findings: one row each: ``check``, ``severity`` (error, doubt or note), ``id``, ``detail``,
            ``suggestion``.
        pairs: near-duplicates, see `find_near_duplicates`.
        seconds: duration of the audit.
    """

    title: str
    source: Source
    frames: pd.DataFrame
    findings: pd.DataFrame
    pairs: pd.DataFrame
    seconds: float

    @property
    def summary(self) -> pd.DataFrame:
        """One row per check: severity, numbers of findings and frames, example, suggestion."""
        rows = []
        for check, (severity, suggestion) in CHECKS.items():
            found = self.findings[self.findings["check"] == check]
            example = "; ".join(found["id"].iloc[:1] + ": " + found["detail"].iloc[:1])
            ids = set(found["id"])
            if check == "near-duplicate":
                ids = {*self.pairs["id_a"], *self.pairs["id_b"]}
            row = {"check": check, "severity": severity, "findings": len(found)}
            row |= {"frames": len(ids), "for example": example, "suggestion": suggestion}
            rows.append(row)
        return pd.DataFrame(rows)

    @property
    def masks(self) -> str:
        """What the masks hold, in a sentence: levels and polyp shares."""
        share, levels = self.frames["polyp_share"], self.frames["levels"]
        if not len(share):
            return "no mask can be read"
        white = f"{self.frames['brightest'].min()} to {self.frames['brightest'].max()}"
        return (
            f"masks hold {levels.min()} to {levels.max()} levels or colours (median "
            f"{levels.median():.0f}), the brightest of each {white}; polyp covers "
            f"{share.min():.1%} to {share.max():.1%} of a frame, {share.mean():.1%} of all"
        )

    def of_severity(self, severity: str) -> pd.DataFrame:
        """The errors, doubts or notes: ``check``, ``id``, ``detail``, ``suggestion``."""
        columns = ["check", "id", "detail", "suggestion"]
        of = self.findings["severity"] == severity
        return self.findings.loc[of, columns].reset_index(drop=True)

    @property
    def errors(self) -> pd.DataFrame:
        """The findings that prevent training."""
        return self.of_severity("error")

    def save(self, folder: Path) -> None:
        """Writes ``frames.csv``, ``findings.csv`` and ``pairs.csv``, each atomically."""
        for name in ("frames", "findings", "pairs"):
            write_csv(folder / f"{name}.csv", getattr(self, name))


_LOOK = "look at the frame; leave it out by a split of your own if it does not belong"
CHECKS = {
    "pairing": ("error", "put the missing file there, or remove the one without a partner"),
    "unreadable": ("error", "do what the message says"),
    "size mismatch": ("error", "save the mask at the size of its image"),
    "values outside the scheme": ("error", "save polyp as 255 and everything else as 0"),
    **{check: ("doubt", advice) for check, advice in ADVICE.items()},
    "another white": ("doubt", "save polyp as 255 in all masks"),
    "left aside": ("note", "nothing, unless these files should count"),
    "EXIF orientation": ("note", "turn the pixels once and remove the entry"),
    "undecided mask pixels": ("note", "nothing, if they are soft edges or JPEG artefacts"),
    "stray specks": ("note", "erase them, unless they are polyps"),
    "empty mask": ("note", "nothing, if the frame shows no polyp"),
    "same bytes": ("note", "keep one, or let a split keep them together"),
    "same pixels": ("note", "keep one, or let a split keep them together"),
    "near-duplicate": ("note", "use split grouped, which keeps them together"),
    "resolution outlier": ("note", _LOOK),
    "brightness outlier": ("note", _LOOK),
    "black block": ("note", "a network may learn it: compare scores with and without"),
    "green box": ("note", "a network may learn it: compare scores with and without"),
    "text": ("note", "check that it names nobody"),
}


def audit(name: str) -> Audit:
    """Checks every file of a data set and compares all frames.

    Args:
        name: a name in the catalogue, a folder, or ``IMAGES::MASKS``, see `get_info`.

    Raises:
        ValueError: the name is unknown.
        FileNotFoundError: the data set is not on disk and cannot be downloaded.
        DataError: the folders of images and masks cannot be paired at all.
    """
    start = time.perf_counter()
    info = get_info(name)
    source = open_source(info, strict=False)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        looks = list(pool.map(lambda frame_id: _look(source, frame_id), source.ids))
    frames = pd.DataFrame([look.row for look in looks if look.row], columns=_COLUMNS)
    features = [look.features for look in looks if look.features]
    if len(features) == len(source.ids):
        pairs = near_duplicates(source, info.name, features)
    else:  # some files cannot be read, so the pairs are not cached
        pairs = duplicates.find_near_duplicates(frames["id"].tolist(), features)
    found = [("pairing", "", problem) for problem in source.problems]
    found += [("left aside", "", note) for note in source.notes]
    found += [finding for look in looks for finding in look.findings]
    found += [*set_findings(frames), *_compared(frames, pairs)]
    order = {check: i for i, check in enumerate(CHECKS)}
    found = sorted(found, key=lambda finding: order[finding[0]])
    rows = [
        (check, CHECKS[check][0], frame_id, detail, CHECKS[check][1])
        for check, frame_id, detail in found
    ]
    columns = ["check", "severity", "id", "detail", "suggestion"]
    findings = pd.DataFrame(rows, columns=columns)
    return Audit(info.title, source, frames, findings, pairs, time.perf_counter() - start)


@dataclass(frozen=True)
class _Look:
    """One frame: its row (empty if it cannot be read), findings and features."""

    row: dict[str, Any]
    findings: list[Finding]
    features: duplicates.Features | None


def _look(source: Source, frame_id: str) -> _Look:
    findings: list[Finding] = []
    try:
        image = source.read_image(frame_id)
        mask = source.read_mask_file(frame_id)
    except DataError as error:
        return _Look({}, [("unreadable", frame_id, str(error))], None)
    if (orientation := source.orientation(frame_id)) != 1:
        detail = f"EXIF orientation {orientation}: programs that ignore it see another view"
        findings.append(("EXIF orientation", frame_id, detail))
    row = {"id": frame_id, "height": image.shape[0], "width": image.shape[1]}
    row |= _image_row(image) | {"same_bytes": source.file_hash(frame_id)}
    size = mask.levels.shape
    if size != image.shape[:2]:
        detail = f"mask {size[1]}×{size[0]}, image {image.shape[1]}×{image.shape[0]} px"
        findings.append(("size mismatch", frame_id, detail))
    try:
        mask.check()
    except DataError as error:
        findings.append(("values outside the scheme", frame_id, str(error)))
    row |= mask_row(mask)
    findings += mask_findings(mask, row)
    findings += [
        (what, frame_id, "lower left corner" if what != "text" else "two lines or more")
        for what in (row["overlay"], "text" if row["text"] else "none")
        if what != "none"
    ]
    return _Look(row, findings, duplicates.extract(image))


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _image_row(image: np.ndarray) -> dict[str, Any]:
    small = duplicates.reduce(image)
    value = small.max(axis=-1)
    outside = border(value)
    lightness = cv2.cvtColor(small, cv2.COLOR_RGB2LAB)[..., 0] / 2.55
    return {
        "border_share": outside.mean(),
        "brightness": lightness[~outside].mean() if not outside.all() else np.nan,
        "overlay": overlay(small),
        "text": has_text(image),
        "same_pixels": _hash(repr(image.shape).encode() + image.tobytes()),
    }


def border(value: np.ndarray) -> np.ndarray:
    """Dark pixels connected to the frame's edge, bool (H, W)."""
    dark = np.pad((value < 30).astype(np.uint8), 1, constant_values=1)
    return cv2.connectedComponents(dark, connectivity=4)[1][1:-1, 1:-1] == 1


def _compared(frames: pd.DataFrame, pairs: pd.DataFrame) -> Iterator[Finding]:
    """Yields the findings that need all frames."""
    if frames.empty:
        return
    for what, column in (("same bytes", "same_bytes"), ("same pixels", "same_pixels")):
        for _, same in frames.groupby(column):
            for frame_id in same["id"].iloc[1:]:
                yield what, str(frame_id), f"as {same['id'].iloc[0]}"
    for pair in pairs.itertuples():
        detail = f"{pair.inliers} features agree with {pair.id_b}, scale {pair.scale:.2f}, "
        detail += f"rotation {pair.rotation:.0f}°{', mirrored' if pair.mirrored else ''}"
        yield "near-duplicate", str(pair.id_a), detail
    sizes = frames["width"].astype(str) + "×" + frames["height"].astype(str) + " px"
    pixels, light = (frames["height"] * frames["width"]).map(math.log), frames["brightness"]
    for what, values, least, details in (
        ("resolution outlier", pixels, math.log(2), sizes),
        ("brightness outlier", light, 10, light.round().astype(str)),
    ):
        apart = (values - values.median()).abs() > least  # where all are alike
        far = apart & (robust_z(values).abs() > OUTLIER_Z)
        yield from zip(repeat(what), frames.loc[far, "id"], details[far], strict=False)


def robust_z(values: pd.Series) -> pd.Series:
    """Distance from the median in robust SDs (from the MAD, or the mean deviation if it is 0)."""
    distance = values - values.median()
    spread = 1.4826 * distance.abs().median() or 1.2533 * distance.abs().mean()
    return distance / spread if spread else distance * 0
