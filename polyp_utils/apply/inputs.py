"""Which files are looked at, and what the results of each are called."""

import glob
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from polyp_utils.common.exceptions import DataError
from polyp_utils.common.names import unfit
from polyp_utils.data.listing import SUFFIXES, VIDEOS, is_clutter, walk_files

IMAGES = (*SUFFIXES, ".webp", ".gif")


class Input(NamedTuple):
    """A file to be looked at.

    Attributes:
        path: of the file.
        name: of its results: the path below the folder that was given, without the suffix.
    """

    path: Path
    name: str

    @property
    def is_video(self) -> bool:
        """Whether it is a video, by its suffix."""
        return self.path.suffix.lower() in VIDEOS


def find_inputs(paths: Iterable[str | Path], out: Path) -> list[Input]:
    """The images and videos among files, folders (searched through) and glob patterns.

    Args:
        paths: what was asked for. The names of files of one of several folders begin with that
            folder's.
        out: where results go; it may not lie in a folder that is searched, or hold one.

    Raises:
        DataError: nothing was given, or is there; a file of another kind; a folder without images
            or videos; a name that is `unfit`, or two inputs of one; or results that would lie
            among the inputs.
    """
    given = [path for text in paths for path in _expanded(str(text))]
    if not given:
        raise DataError("no input: name images, videos, folders or patterns such as 'frames/*.png'")
    folders = [path for path in given if path.is_dir()]
    for folder in folders:
        here, there = folder.resolve(), out.resolve()
        if there.is_relative_to(here) or here.is_relative_to(there):
            raise DataError(
                f"the results ({out}) and the input {folder} lie within each other: a second run "
                "would take results for frames; name another folder with --out"
            )
    found: list[Input] = []
    for path in given:
        if path.is_dir():
            below = path.resolve().name if len(folders) > 1 else ""
            found += _in_folder(path, below)
        elif path.suffix.lower() in (*IMAGES, *VIDEOS):
            found.append(Input(path, path.stem))
        else:
            raise DataError(
                f"{path} is neither an image nor a video ({', '.join(IMAGES + VIDEOS)})"
            )
    return _of_different_names(found)


def _expanded(text: str) -> list[Path]:
    path = Path(text).expanduser()
    if path.exists():
        return [path]
    if glob.has_magic(text):
        there = sorted(map(Path, glob.glob(str(path), recursive=True)))
        there = [path for path in there if not is_clutter(path.name)]
        files = [p for p in there if p.is_dir() or p.suffix.lower() in (*IMAGES, *VIDEOS)]
        if not files:
            raise DataError(f"the pattern {text} fits no image, video or folder")
        return files
    raise DataError(f"{text} does not exist")


def _in_folder(folder: Path, below: str) -> list[Input]:
    found = [
        Input(path, (Path(below) / path.relative_to(folder).with_suffix("")).as_posix())
        for path in walk_files(folder)
        if path.suffix.lower() in (*IMAGES, *VIDEOS)
    ]
    if not found:
        kinds = ", ".join(IMAGES + VIDEOS)
        raise DataError(f"{folder} holds no images or videos ({kinds}), in no folder of it")
    return found


def _of_different_names(inputs: list[Input]) -> list[Input]:
    """The inputs, each path once; on some systems names that differ in case alone are one file."""
    once = list({each.path.resolve(): each for each in inputs}.values())
    names: dict[str, Input] = {}
    for each in once:
        why = "has no name" if each.name in (".", "..") else unfit(each.name)
        if why:
            raise DataError(f"{each.path} {why}: rename it")
        other = names.setdefault(each.name.casefold(), each)
        if other is not each:
            raise DataError(
                f"{other.path} and {each.path} would have results of one name, {each.name}: rename "
                "one, or name the inputs by a pattern such as 'frames/*.jpg'"
            )
    return once
