"""Which image belongs to which mask, in a folder of any layout or between two patterns.

Folders are paired by place and name (``images``/``masks``, ``Original``/``Ground Truth``,
``train``/``train_gt``, …), files by stem. Ambiguity is an error that lists what was found. What is
left aside by rule (boxes, outlines, frames that come without masks) is counted in a note: no file
is dropped silently.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from polyp_utils.common.exceptions import DataError, few
from polyp_utils.common.names import unfit
from polyp_utils.common.paths import common_folder
from polyp_utils.data.boxes import describe_annotations
from polyp_utils.data.folders import (
    BY_PATTERNS,
    IMAGES,
    MASKS,
    NEITHER,
    OTHER,
    FolderPair,
    aside_notes,
    left_aside,
    pair_folders,
    place_of,
    prefix_of,
    role_of,
)
from polyp_utils.data.label_map import find_labels
from polyp_utils.data.listing import SUFFIXES, Listing, files_of, sort_files, walk_files
from polyp_utils.data.stems import case_names, fits, holds_both, pair_files, tell_apart


@dataclass(frozen=True)
class Pairs:
    """The pairs of a folder.

    Attributes:
        pairs: id -> (image, mask), in the order of the ids. The id is the image's stem, preceded by
            its place (``Kvasir/1``) if there are several folders of images.
        problems: a message for each file without a partner, with a shared stem, or in an
            unsupported format, and for each broken link and each image whose id is `unfit`.
        notes: a sentence for each kind of file that is left aside by rule.
        labels: class index -> name, if a ``dataset.json`` says that masks hold indices; else None.
    """

    pairs: dict[str, tuple[Path, Path]]
    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()
    labels: dict[int, str] | None = None


def find_pairs(folder: Path, ignore: Iterable[str] = ()) -> Pairs:
    """Pairs images and masks below a folder.

    Args:
        folder: the data set's folder.
        ignore: names of sub-folders to skip, for example one without masks.

    Raises:
        DataError: no folder, no image files, folders that cannot be paired with certainty, or
            annotations that are no masks.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} does not exist: give a folder that holds images and masks")
    paths = list(walk_files(folder, set(ignore)))
    side = sort_files(paths, folder)
    try:
        if not side.files:
            raise DataError(f"{folder} holds {_no_images(paths)}")
        folders = pair_folders(folder, side.files, holds_both, fits)
        if not folders.pairs:
            others = "".join(f". {note}" for note in aside_notes(folders, side.files))
            raise DataError(_why_no_pairs(folder, paths, side.files) + others)
    except DataError:
        if side.problems:  # a broken link or an unsupported format best explains why nothing fits
            raise DataError(side.problems[0]) from None
        raise
    side.notes += aside_notes(folders, side.files)
    return _pair(folder, side, [_unit(pair, side) for pair in folders.pairs])


def match_pairs(images: str, masks: str) -> Pairs:
    """Pairs the files that one pattern matches with those that another does.

    Args:
        images: a pattern as of `glob`, ``**`` for folders of any depth; or a folder.
        masks: another one.

    Raises:
        DataError: a pattern that matches nothing, both the same files, or file names that occur in
            several folders which cannot be paired with certainty.
    """
    root = common_folder(images, masks)
    matched = [files_of(pattern) for pattern in (images, masks)]
    if both := set(matched[0]) & set(matched[1]):
        raise DataError(
            f"{images} and {masks} match {len(both)} files alike, first {min(both)}: give patterns "
            "that tell images from masks, such as '*.jpg' and '*.png'"
        )
    sides = [sort_files(paths, root) for paths in matched]
    for pattern, paths, side in zip((images, masks), matched, sides, strict=True):
        if not side.files:
            problem = (
                f"{pattern} matches {_no_images(paths)}: correct the pattern; ** means folders "
                "of any depth"
            )
            raise DataError(side.problems[0] if side.problems else problem)
    one, other = sides
    union = Listing({}, one.broken | other.broken, one.problems + other.problems, [])
    union.notes = [*dict.fromkeys(one.notes + other.notes)]
    all_files = [[path for paths in side.files.values() for path in paths] for side in sides]
    if len(other.files) == 1 or all(len({p.stem for p in side}) == len(side) for side in all_files):
        return _pair(root, union, [_Unit(all_files[0], all_files[1])])
    places = [_places(side.files) for side in sides]
    if places[0].keys() != places[1].keys() or len(places[0]) < len(one.files):
        raise DataError(
            f"{images} and {masks} match files of the same names in several folders, and which "
            f"belong together is not certain: {few(map(str, one.files))} and "
            f"{few(map(str, other.files))} in {root}. Give patterns that match one folder each"
        )
    return _pair(root, union, [_Unit(places[0][at], places[1][at]) for at in places[0]])


def _places(files: dict[PurePosixPath, list[Path]]) -> dict[str, list[Path]]:
    """Files by place: the words of their folders that are not for roles, or that differ."""
    shared = set.intersection(*(set(path.parts) for path in files)) if len(files) > 1 else set()
    parts = {path: [part for part in path.parts if part not in shared] for path in files}
    return {place_of(PurePosixPath(*parts[path])): paths for path, paths in files.items()}


@dataclass(frozen=True)
class _Unit:
    """Images, and where their masks are; ``partial``: some of the images may have none."""

    images: list[Path]
    masks: list[Path]
    partial: bool = False


def _unit(pair: FolderPair, side: Listing) -> _Unit:
    images = [path for folder in pair.images for path in side.files[folder]]
    if pair.images != (pair.masks,):
        return _Unit(images, side.files[pair.masks], pair.partial)
    images, masks, others = tell_apart(images)
    if others:
        side.notes.append(left_aside((path.name for path in others), len(others), OTHER))
    return _Unit(images, masks)


def _pair(root: Path, side: Listing, units: list[_Unit]) -> Pairs:
    pairs: dict[str, tuple[Path, Path]] = {}
    problems, notes, labels = list(side.problems), list(side.notes), list[dict[int, str] | None]()
    several = len({path.parent for unit in units for path in unit.images}) > 1
    for unit in units:
        case = case_names(unit.images)
        labels.append(find_labels(unit.images[0].parent.parent) if case else None)
        found = pair_files(unit.images, unit.masks, case)
        for image, mask in found.pairs:
            stem = case(image) if case else image.stem
            folder = PurePosixPath(image.parent.relative_to(root).as_posix())
            frame_id = f"{prefix_of(folder) if several else ''}{stem}"
            if frame_id in pairs:
                problems.append(
                    f"{pairs[frame_id][0]} and {image} share the id {frame_id}: keep one"
                )
            elif why := unfit(frame_id):
                problems.append(f"{image} {why}: rename it, and its mask")
            elif not {image, mask} & side.broken:
                pairs[frame_id] = image, mask
        problems += found.problems
        alone = [(found.alone_masks, unit.masks, "image", unit.images)]
        if unit.partial and found.alone_images:
            kind = f"of {len(unit.images)}, without a mask in {unit.masks[0].parent.name}"
            names = (path.name for path in found.alone_images)
            notes.append(left_aside(names, len(found.alone_images), kind))
        else:
            alone = [(found.alone_images, unit.images, "mask", unit.masks), *alone]
        problems += [
            f"{path} has no {what}, like {len(without)} of {len(among)} files: put the {what} into "
            f"{others[0].parent} or remove the file"
            for without, among, what, others in alone
            for path in without
            if path not in side.broken
        ]
    if any(each != labels[0] for each in labels):
        raise DataError(f"{root} holds sets with different labels: give the folder of one")
    return Pairs(dict(sorted(pairs.items())), tuple(problems), tuple(notes), labels[0])


def _no_images(paths: Iterable[Path]) -> str:
    others = Counter(path.suffix or "without suffix" for path in paths)
    kinds = few(f"{count} {suffix}" for suffix, count in others.most_common())
    return f"no image files ({', '.join(SUFFIXES)})" + (f", only {kinds}" if others else "")


def _why_no_pairs(folder: Path, paths: list[Path], files: dict[PurePosixPath, list[Path]]) -> str:
    """The message for a folder with images alone, or masks alone."""
    roles = {role_of(path): path for path in files}
    if IMAGES not in roles:
        role, path = max(roles.items(), key=lambda item: item[0] == MASKS)
        kind = "boxes or outlines" if role == NEITHER else "masks"
        return f"{folder} holds {kind} ({path}) but no images: put those beside it"
    if found := describe_annotations(paths):
        return (
            f"{folder} holds images with {found}, but no masks: this package needs the pixels of "
            "each polyp. Give masks, white on black, in a folder masks/ beside the images"
        )
    return (
        f"{folder} holds images but no masks: put masks into a folder masks/ beside the images, "
        "under their names, or into the same folder as <name>_mask; or say which files are which: "
        f"{BY_PATTERNS}"
    )
