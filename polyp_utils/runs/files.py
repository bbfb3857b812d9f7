"""Which file of a folder of predictions is for which frame."""

import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from polyp_utils.common.exceptions import DataError, few
from polyp_utils.data.listing import walk_files

Naming = tuple[dict[str, Path], list[str]]
FORMATS = (".png", ".tif", ".tiff", ".bmp", ".jpg", ".jpeg", ".webp", ".gif", ".npy")


def prediction_files(
    folder: Path, ids: Sequence[str] = (), known: Sequence[str] = ()
) -> tuple[dict[str, Path], list[str]]:
    """The files of frames by their ids, and what was made of the others, in words.

    A file is named after its frame: ``0.png``, in folders where the id has some (``ETIS/0.png`` for
    ``ETIS/0``), below this folder or below one that holds all. The last parts of an id suffice
    where they are all that is there, or no other known id ends so. All names may add the same to
    the ids: ``0_pred.png``.

    Args:
        folder: searched through as `walk_files` does, so links are followed.
        ids: frames that need a file, in this order; empty: a frame per file.
        known: ids of the whole data set, of which ``ids`` are some, to recognise names by.

    Raises:
        DataError: a frame without a file, two files for one frame, or no file at all.
    """
    there = _by_id(folder)
    if there and not ids:
        return there, []
    ways = _namings(folder, there, ids, known)
    fitting = (way for way in ways if not way[0].keys().isdisjoint(ids))
    files, notes = next(fitting, (there, []))
    missing = [frame_id for frame_id in ids if frame_id not in files]
    if missing or not ids:
        held = f"it holds {few(files, 3)}" if files else "it holds none"
        first = f"first {missing[0]} ({held})" if missing else held
        raise DataError(
            f"{folder} lacks {len(missing)} of {len(ids)} predictions, {first}: write one "
            f"file <id>.png per frame ({', '.join(FORMATS)})"
        )
    found = {frame_id: files[frame_id] for frame_id in ids}
    if extra := sorted(set(there.values()) - set(found.values())):
        notes.append(f"{len(extra)} more files are not scored (first {extra[0]})")
    return found, notes


def _by_id(folder: Path) -> dict[str, Path]:
    """The files by their paths without suffix, in the folder."""
    files: dict[str, Path] = {}
    for path in walk_files(folder):
        if path.suffix.lower() in FORMATS:
            frame_id = path.relative_to(folder).with_suffix("").as_posix()
            if frame_id in files:
                raise DataError(f"{files[frame_id]} and {path} are both for {frame_id}: keep one")
            files[frame_id] = path
    return files


def _namings(
    folder: Path, there: dict[str, Path], ids: Sequence[str], known: Sequence[str]
) -> Iterator[Naming]:
    """Ways to read the names, from the plainest on: files by id, and what is to be said."""
    yield there, []
    inside = os.path.commonpath([path.parent for path in there.values()] or [folder])
    below = {p.relative_to(inside).with_suffix("").as_posix(): p for p in there.values()}
    yield below, []
    last = {frame_id.rpartition("/")[2]: frame_id for frame_id in ids}
    if len(last) == len(ids) and last.keys() == below.keys():
        yield {last[name]: path for name, path in below.items()}, []
    yield _by_ending(there, known), []
    ways = _additions(below, ids)
    if len(ways) > 1:
        several = few((f"{before}{ids[0]}{after}" for before, after in ways), 3)
        raise DataError(f"{folder} holds several files per frame ({several}): leave one for each")
    for before, after in ways:
        files = {frame_id: below[f"{before}{frame_id}{after}"] for frame_id in ids}
        yield files, [f"names add {before}…{after} to the ids"]


def _by_ending(names: dict[str, Path], known: Sequence[str]) -> dict[str, Path]:
    """The files by the one id that ends with their name, from a folder's name on."""
    ends: dict[str, set[str]] = defaultdict(set)
    for frame_id in known:
        parts = frame_id.split("/")
        for start in range(len(parts)):
            ends["/".join(parts[start:])].add(frame_id)
    found: dict[str, Path] = {}
    for name, path in names.items():
        fitting = ends.get(name, set())
        if len(fitting) == 1:
            (frame_id,) = fitting
            if frame_id in found:
                raise DataError(f"{found[frame_id]} and {path} are both for {frame_id}: keep one")
            found[frame_id] = path
    return found


def _additions(names: Collection[str], ids: Sequence[str]) -> list[tuple[str, str]]:
    """What all ids must be preceded and followed by to be among the names; no digits to digits."""
    ways = []
    for name in names:
        for match in re.finditer(re.escape(ids[0]), name):
            before, after = name[: match.start()], name[match.end() :]
            if all(
                f"{before}{i}{after}" in names
                and not (before[-1:].isalnum() and before[-1:].isdigit() == i[0].isdigit())
                and not (after[:1].isalnum() and after[:1].isdigit() == i[-1].isdigit())
                for i in ids
            ):
                ways.append((before, after))
    return sorted(set(ways))
