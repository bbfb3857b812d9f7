"""Which frame of a data set an entry of a split file means: an id, a file name, a path, a number.

Only what is certain is matched: one frame fits, or the split is refused.
"""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import PurePosixPath

from polyp_utils.common.exceptions import DataError, few
from polyp_utils.data.layout import SUFFIXES
from polyp_utils.data.split import PARTS, Split
from polyp_utils.data.split_files import Entry

_NAME, _NUMBER = "by file name", "by number, as leading zeros differ"


def match_entries(
    name: str, entries: Sequence[Entry], ids: Sequence[str], title: str
) -> tuple[Split, str]:
    """The split that entries mean, with ids as the data set has them.

    Args:
        name: of the split.
        entries: see `polyp_utils.data.split_files.read_entries`.
        ids: of the data set; empty: not known, and the entries are taken as ids.
        title: of the data set, for messages.

    Returns:
        The split, which may lack a part, and how ids were matched if not as they stand.

    Raises:
        DataError: an entry that means no frame or several, or two entries that mean the same one.
    """
    frames = _Frames(ids)
    found: dict[str, Entry] = {}
    absent, unclear, twice = [], [], []
    ways: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for entry in entries:
        candidates, way = frames.meant(entry.text) if ids else ([entry.text], "")
        if len(candidates) > 1:
            unclear.append(f"{entry.text!r} ({entry.where}) may be {few(candidates, 3)}")
        elif not candidates:
            absent.append(f"{entry.text!r} ({entry.where})")
        elif (first := found.setdefault(candidates[0], entry)) is not entry:
            parts = first.part if first.part == entry.part else f"{first.part} and {entry.part}"
            twice.append(f"{candidates[0]} in {parts} ({first.where}; {entry.where})")
        elif way:
            ways[way] += 1
            examples.setdefault(way, f"{entry.text!r} for {candidates[0]}")
    if absent:
        raise DataError(
            f"split {name}: {len(absent)} of {len(entries)} ids are not in {title}: "
            f"{few(absent, 3)}. Its {len(ids)} frames run from {ids[0]} to {ids[-1]}: use a split "
            "of this data set, or write the ids as there"
        )
    if unclear:
        raise DataError(
            f"split {name}: {len(unclear)} of {len(entries)} ids fit several frames of {title}: "
            f"{few(unclear, 3)}. Write them with their folder, as the data set's ids are"
        )
    if twice:
        raise DataError(
            f"split {name} names {len(twice)} of its frames twice: {few(twice, 3)}. Keep one "
            "line of each: a frame belongs to one part"
        )
    ids_of = (tuple(i for i, entry in found.items() if entry.part == part) for part in PARTS)
    said = [f"ids matched {way}: {count}, such as {examples[way]}" for way, count in ways.items()]
    return Split(name, *ids_of), "; ".join(said)


class _Frames:
    """The ids of a data set, to be found by what people write instead of them."""

    def __init__(self, ids: Sequence[str]) -> None:
        self.ids = set(ids)
        self.by_name: dict[str, list[str]] = defaultdict(list)
        self.by_number: dict[str, list[str]] = defaultdict(list)
        for frame_id in ids:
            stem = _same(PurePosixPath(frame_id).name)
            self.by_name[stem].append(frame_id)
            if stem.isdecimal():
                self.by_number[stem.lstrip("0")].append(frame_id)

    def meant(self, text: str) -> tuple[list[str], str]:
        """The ids that a line may mean, and how they were found."""
        found, way = self._find(text)
        words = text.replace(",", " ").replace(";", " ").split()
        if found or len(words) < 2:
            return found, way
        found, way = self._find(words[0])  # `images/1.jpg masks/1.png`
        if not found and not all(word.lower().endswith(SUFFIXES) for word in words):
            return [], ""  # `99.jpg 1`: a frame that is not there, and its label
        for word in words[1:]:
            other, _ = self._find(word)
            if not other and not word.lower().endswith(SUFFIXES):
                return [], ""
            found += [frame_id for frame_id in other if frame_id not in found]
        return found, way

    def _find(self, text: str) -> tuple[list[str], str]:
        if text in self.ids:
            return [text], ""
        path = PurePosixPath(_same(text.replace("\\", "/")))
        stem = path.stem if path.suffix.lower() in SUFFIXES else path.name
        number = self.by_number.get(stem.lstrip("0"), ()) if stem.isdecimal() else ()
        for ids, way in ((self.by_name.get(stem, ()), _NAME), (number, _NUMBER)):
            if found := [frame_id for frame_id in ids if _may_lie_in(frame_id, path)]:
                return found, way
        return [], ""


def _same(name: str) -> str:
    """The name in one of the forms that Unicode has for letters with accents."""
    return unicodedata.normalize("NFC", name)


def _may_lie_in(frame_id: str, path: PurePosixPath) -> bool:
    """Whether a path, if it has folders, has all those of an id, in this order."""
    folders = iter(path.parts[:-1])
    return len(path.parts) == 1 or all(
        _same(folder) in folders for folder in PurePosixPath(frame_id).parts[:-1]
    )
