"""Which image belongs to which mask, in a folder of any layout.

Folders are paired by place and name (``images``/``masks``, ``Original``/``Ground Truth``,
``train``/``train_gt``, …), files by stem. Ambiguity is an error that lists what was found: no file
is dropped silently.
"""

import itertools
import os
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from polyp_utils.common.exceptions import DataError
from polyp_utils.common.names import unfit

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff")
_SIDE_FILES = {".txt", ".md", ".json", ".csv", ".tsv", ".xml", ".yaml", ".yml", ".html", ".pdf"}
_SIDE_FILES |= {".zip", ".tar", ".gz", ".7z", ".rar", ".xlsx", ".xls", ".py", ".m", ".ipynb"}
_CLUTTER = {"thumbs.db", "desktop.ini", "__macosx"}  # and anything that begins with a dot
_MOST_WAYS = 16  # to a folder, by links: two that lead to each other make more
_IMAGE_WORDS = {"image", "images", "img", "imgs", "original", "originals", "frames", "bbdd"}
_MASK_WORDS = {"mask", "masks", "gt", "groundtruth", "ground", "truth", "label", "labels"}
_MASK_WORDS |= {"annotation", "annotations", "segmentation", "segmentations", "seg", "gtpolyp"}


@dataclass(frozen=True)
class Pairs:
    """The pairs of a folder.

    Attributes:
        pairs: id -> (image, mask), in the order of the ids. The id is the image's stem, preceded by
            its place (``Kvasir/1``) if the folder holds several pairs of folders.
        problems: a message for each file without a partner, with a shared stem, or in an
            unsupported format, and for each image whose name is `unfit`.
    """

    pairs: dict[str, tuple[Path, Path]]
    problems: tuple[str, ...]


def find_pairs(folder: Path, ignore: Iterable[str] = ()) -> Pairs:
    """Pairs images and masks below a folder.

    Args:
        folder: the data set's folder.
        ignore: names of sub-folders to skip, for example one without masks.

    Raises:
        DataError: no folder, no image files, or folders that cannot be paired with certainty.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} does not exist: give a folder that holds images and masks")
    files, problems = _list(folder, set(ignore))
    try:
        pairs, left_over = _pair(folder, files)
    except DataError:
        if problems:  # an unsupported format best explains why nothing fits
            raise DataError(problems[0]) from None
        raise
    odd = {i: why for i in pairs if (why := unfit(i))}
    problems += [f"{pairs[i][0]} {why}: rename it, and its mask" for i, why in odd.items()]
    used = {i: pair for i, pair in sorted(pairs.items()) if i not in odd}
    return Pairs(used, (*problems, *left_over))


def _pair(
    folder: Path, files: dict[PurePosixPath, list[Path]]
) -> tuple[dict[str, tuple[Path, Path]], list[str]]:
    """Id -> (image, mask), and a message for each file without a partner."""
    if not files:
        raise DataError(f"{folder} holds no image files ({', '.join(SUFFIXES)})")
    pairs, problems = {}, []
    places = _pair_folders(folder, sorted(files))
    for images, masks in places:
        named, wrong = _pair_files(files[images], files[masks], folder / images, folder / masks)
        problems += wrong
        place = [part for part in images.parts if _place(PurePosixPath(part))]
        prefix = "".join(f"{part}/" for part in place) if len(places) > 1 else ""
        pairs.update({f"{prefix}{stem}": pair for stem, pair in named.items()})
    return pairs, problems


def _list(folder: Path, ignore: set[str]) -> tuple[dict[PurePosixPath, list[Path]], list[str]]:
    """Image files by relative folder, and a message for each file in an unsupported format.

    Only side files (text, tables, archives) are skipped silently. Links to folders are followed,
    except those that lead back to a folder above them.
    """
    files: dict[PurePosixPath, list[Path]] = defaultdict(list)
    problems = []
    for path in walk_files(folder, ignore):
        if path.suffix.lower() in SUFFIXES:
            files[PurePosixPath(path.parent.relative_to(folder).as_posix())].append(path)
        elif path.suffix.lower() not in _SIDE_FILES:
            problems.append(f"{path} is in an unsupported format: save it as PNG, or remove it")
    return files, problems


def walk_files(folder: Path, ignore: Collection[str] = ()) -> Iterator[Path]:
    """All files below a folder, sorted within each, without clutter and folders to ignore.

    Links to folders are followed, except those that lead back to a folder above them.

    Raises:
        DataError: links lead to one folder in more than `_MOST_WAYS` ways.
    """
    ways: Counter[Path] = Counter()
    for root, folders, names in os.walk(folder, followlinks=True):
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


def is_clutter(name: str) -> bool:
    """Whether a file or folder is what an operating system leaves behind, by its name."""
    return name.startswith(".") or name.lower() in _CLUTTER


def _pair_folders(
    folder: Path, found: list[PurePosixPath]
) -> list[tuple[PurePosixPath, PurePosixPath]]:
    """(folder of images, folder of masks) for each pair of folders; a folder may be both."""
    if len(found) == 1:  # one folder: `1.jpg` beside `1_mask.png`
        if _is_mask_folder(found[0]):
            raise DataError(f"{folder} holds masks ({found[0]}) but no images: put those beside it")
        return [(found[0], found[0])]
    by_place: dict[str, tuple[list, list]] = defaultdict(lambda: ([], []))
    for path in found:
        by_place[_place(path)][_is_mask_folder(path)].append(path)
    alone = [group for group in by_place.values() if not all(group)]
    images, masks = ([path for group in alone for path in group[i]] for i in (0, 1))
    whole = {place: group for place, group in by_place.items() if all(group)}
    if len(images) == len(masks) == 1 and images[0].parent == masks[0].parent:
        whole[images[0].parent.as_posix()] = (images, masks)  # `ETIS/` beside `Ground Truth/`
    elif alone:
        raise DataError(_ambiguous(folder, found, f"{(images or masks)[0]} has no counterpart"))
    for place, group in whole.items():
        if len(group[0]) > 1 or len(group[1]) > 1:
            several = " and ".join(str(path) for path in max(group, key=len))
            raise DataError(_ambiguous(folder, found, f"{several} both belong to {place!r}"))
    return [(images[0], masks[0]) for _, (images, masks) in sorted(whole.items())]


def _ambiguous(folder: Path, found: list[PurePosixPath], why: str) -> str:
    listed = ", ".join(f"{p} ({'masks' if _is_mask_folder(p) else 'images'})" for p in found)
    return (
        f"{folder}: cannot tell which folders belong together: {why}. Found: {listed}. Give a "
        "folder that holds one pair, such as images/ and masks/, or remove the others"
    )


def _words(name: str) -> list[str]:
    return re.findall(r"[^\W_]+", name)


def _says_mask(name: str) -> bool:
    return any(word.lower() in _MASK_WORDS for word in _words(name))


def _is_mask_folder(path: PurePosixPath) -> bool:
    return any(map(_says_mask, path.parts))


def _place(path: PurePosixPath) -> str:
    """The path without words for image or mask: the same for both folders of a pair."""
    role = _IMAGE_WORDS | _MASK_WORDS
    parts = (" ".join(w for w in _words(p) if w.lower() not in role) for p in path.parts)
    return "/".join(part for part in parts if part)


def _pair_files(
    images: list[Path], masks: list[Path], image_folder: Path, mask_folder: Path
) -> tuple[dict[str, tuple[Path, Path]], list[str]]:
    """Stem -> (image, mask), and a message for each file without a partner."""
    if image_folder == mask_folder:
        masks = [path for path in images if _says_mask(path.stem)]
        images = [path for path in images if not _says_mask(path.stem)]
        if not masks:
            raise DataError(
                f"{image_folder} holds images but no masks: put masks into a folder masks/ beside "
                "it, under the images' names, or into the same folder as <name>_mask"
            )
    problems: list[str] = []
    keyed = [_by_stem(paths, problems) for paths in (images, masks)]
    if not keyed[0].keys() & keyed[1].keys():  # `1.tif` and `p1.tif`, `a.jpg` and `a_mask.png`
        keyed = [_by_core(stems) for stems in keyed]
    of_image, of_mask = keyed
    for one, other, what, where in (
        (of_image, of_mask, "mask", mask_folder),
        (of_mask, of_image, "image", image_folder),
    ):
        alone = sorted(one.keys() - other.keys())
        problems += [
            f"{one[key]} has no {what}, like {len(alone)} of {len(one)} files: put the {what} into "
            f"{where} or remove the file"
            for key in alone
        ]
    both = sorted(of_image.keys() & of_mask.keys())
    return {of_image[key].stem: (of_image[key], of_mask[key]) for key in both}, problems


def _by_stem(paths: list[Path], problems: list[str]) -> dict[str, Path]:
    stems: dict[str, Path] = {}
    for path in paths:
        if path.stem in stems:
            problems.append(f"{stems[path.stem]} and {path} share a stem: keep one")
        stems.setdefault(path.stem, path)
    return stems


def _by_core(stems: dict[str, Path]) -> dict[str, Path]:
    """Files by name without the prefix and suffix common to all; digits are never cut off."""
    names = list(stems)
    if len(names) == 1:  # nothing to compare with: drop words for image or mask only
        core = "_".join(w for w in _words(names[0]) if w.lower() not in _MASK_WORDS | _IMAGE_WORDS)
        return {core: stems[names[0]]}
    start = _shared(names)
    end = min(_shared([name[::-1] for name in names]), min(map(len, names)) - start)
    return {name[start : len(name) - end]: path for name, path in stems.items()}


def _shared(names: list[str]) -> int:
    """Length of the digit-free prefix that all names share."""
    columns = itertools.takewhile(
        lambda letters: len(set(letters)) == 1 and not letters[0].isdigit(),
        zip(*names, strict=False),
    )
    return len(list(columns))
