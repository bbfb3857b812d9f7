"""The files of a folder or a pattern: images, and what else people keep beside them."""

import glob
import os
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from polyp_utils.common.exceptions import DataError
from polyp_utils.common.paths import common_folder
from polyp_utils.data.folders import INSTANCES, NEITHER, OTHER, left_aside, role_of

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff")
VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".mpg", ".mpeg", ".m4v", ".webm", ".wmv")
_SIDE_FILES = {".txt", ".md", ".json", ".csv", ".tsv", ".xml", ".yaml", ".yml", ".html", ".pdf"}
_SIDE_FILES |= {".zip", ".tar", ".gz", ".7z", ".rar", ".xlsx", ".xls", ".py", ".m", ".ipynb"}
_SIDE_FILES |= {".rst", ".log", ".doc", ".docx", ".bib", ".sh", ".ini", ".cfg", ".names", ".cache"}
_SIDE_FILES |= {".md5", ".sha256", ".url", ".jsonl"}
_SIDE_NAMES = {"license", "licence", "readme", "copying", "citation", "version", "sha256sums"}
_CLUTTER = {"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir", "#recycle"}
_CLUTTER |= {"$recycle.bin", "system volume information", "lost+found"}  # and what begins with "."

_MOST_WAYS = 16  # to a folder, by links: two that lead to each other make more


@dataclass
class Listing:
    """Files below a folder, images or masks or both: by relative folder, and what else is there."""

    files: dict[PurePosixPath, list[Path]]
    broken: set[Path]
    problems: list[str]
    notes: list[str]


def sort_files(paths: Iterable[Path], root: Path) -> Listing:
    """Image files by folder, with a message for each broken link and unsupported format.

    Only side files (text, tables, archives) are skipped silently.
    """
    side, aside = Listing(defaultdict(list), set(), [], []), defaultdict[str, list[str]](list)
    for path in paths:
        folder, suffix = (
            PurePosixPath(path.parent.relative_to(root).as_posix()),
            path.suffix.lower(),
        )
        if path.is_symlink() and not path.exists():
            target = os.readlink(path)
            side.problems.append(
                f"{path} is a link to {target}, which does not exist: restore that file, or remove "
                "the link"
            )
            side.broken.add(path)
        if suffix in SUFFIXES:
            side.files[folder].append(path)
        elif suffix in VIDEOS:
            aside["videos"].append(path.name)
        elif path in side.broken or _is_side_file(path):
            continue
        elif role_of(folder) in (INSTANCES, NEITHER):
            aside[OTHER].append(path.name)
        else:
            side.problems.append(
                f"{path} is in an unsupported format: save it as PNG, or remove it"
            )
    side.notes += [left_aside(names, len(names), kind) for kind, names in aside.items()]
    return side


def _is_side_file(path: Path) -> bool:
    return path.suffix.lower() in _SIDE_FILES or path.name.lower() in _SIDE_NAMES


def files_of(pattern: str) -> list[Path]:
    """Files that a pattern matches, or all below a folder; without clutter."""
    if Path(pattern).is_dir():
        return list(walk_files(Path(pattern)))
    paths = sorted(map(Path, glob.glob(pattern, recursive=True)))
    root = common_folder(pattern)
    return [
        path
        for path in paths
        if not (path.is_dir() or any(map(is_clutter, path.relative_to(root).parts)))
    ]


def walk_files(folder: Path, ignore: Collection[str] = ()) -> Iterator[Path]:
    """All files below a folder, sorted within each, without clutter and folders to ignore.

    Links to folders are followed, except those that lead back to a folder above them.

    Raises:
        DataError: a folder that may not be read, or to which links lead in more than `_MOST_WAYS`
            ways.
    """
    ways: Counter[Path] = Counter()
    for root, folders, names in os.walk(folder, followlinks=True, onerror=_unreadable):
        here = Path(root)
        ways[here.resolve()] += 1
        if ways[here.resolve()] > _MOST_WAYS:
            raise DataError(
                f"{here} is one of more than {_MOST_WAYS} ways to {here.resolve()}: remove the "
                "links that lead in circles"
            )
        folders[:] = sorted(
            name
            for name in folders
            if not (is_clutter(name) or name in ignore)
            and not here.resolve().is_relative_to((here / name).resolve())
        )
        yield from (here / name for name in sorted(names) if not is_clutter(name))


def _unreadable(error: OSError) -> None:
    raise DataError(f"{error.filename} cannot be read ({error.strerror}): change its permissions")


def is_clutter(name: str) -> bool:
    """Whether a file or folder is what an operating system leaves behind, by its name."""
    return name.startswith(".") or name.lower() in _CLUTTER
