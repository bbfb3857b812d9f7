"""Annotations that are no masks: boxes, and outlines as lists of points."""

import csv
import itertools
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

_LOOKED_AT = 5  # files of each format
_MAX_BYTES = 100_000_000  # of a JSON file
_NUMBER = re.compile(r"-?\d+(\.\d*)?([eE]-?\d+)?")


def describe_annotations(paths: Iterable[Path]) -> str:
    """What annotates the images among these files, with an example; empty if nothing is known.

    Knows VOC (XML), COCO, LabelMe and Kvasir-SEG (JSON), YOLO (text) and tables of boxes (CSV).
    """
    of_suffix: dict[str, list[Path]] = defaultdict(list)
    for path in paths:
        of_suffix[path.suffix.lower()].append(path)
    for suffix, look in _LOOKS.items():
        for path in of_suffix[suffix][:_LOOKED_AT]:
            try:
                kind = look(path)
            except (OSError, ValueError, csv.Error):  # not what the suffix says
                continue
            if kind:
                return f"{kind}, as in {path}"
    return ""


def _xml(path: Path) -> str:
    with path.open("rb") as file:
        return "boxes (VOC)" if b"<bndbox" in file.read(100_000) else ""


def _json(path: Path) -> str:
    if path.stat().st_size > _MAX_BYTES:
        return "annotations (JSON)"
    content = json.loads(path.read_text(encoding="utf-8-sig"))
    if not isinstance(content, dict):
        return ""
    found = content.get("annotations")
    if isinstance(found, list) and content.get("images"):
        outlines = any(isinstance(each, dict) and each.get("segmentation") for each in found)
        return "outlines (COCO)" if outlines else "boxes (COCO)"
    if isinstance(content.get("shapes"), list):
        return "outlines (LabelMe)"
    first = next(iter(content.values()), None)
    return "boxes (JSON)" if isinstance(first, dict) and "bbox" in first else ""


def _text(path: Path) -> str:
    with path.open(encoding="utf-8") as file:
        rows = [line.split() for line in itertools.islice(file, 20) if line.strip()]
    sizes = {len(row) for row in rows}
    if not all(_NUMBER.fullmatch(word) for row in rows for word in row):
        return ""
    if sizes == {5}:
        return "boxes (YOLO)"
    if sizes == {1, 4} and len(rows[0]) == 1:  # LDPolypVideo: their number, then the boxes
        return "boxes (text)"
    return "outlines (YOLO)" if sizes and min(sizes) >= 7 else ""


def _csv(path: Path) -> str:
    with path.open(encoding="utf-8", newline="") as file:
        columns = {name.strip().lower() for name in next(csv.reader(file), ())}
    return "boxes (CSV)" if columns & {"xmin", "x_min", "bbox", "x1"} else ""


_LOOKS: dict[str, Callable[[Path], str]] = {
    ".xml": _xml,
    ".json": _json,
    ".txt": _text,
    ".csv": _csv,
}
