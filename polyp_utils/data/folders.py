"""Which folder of images belongs to which folder of masks, by their names.

The deepest part of a path that names a role decides: in ``Kvasir-SEG/images`` it is ``images``.
Two folders belong together if their paths are equal without the words for their roles
(``train/images`` and ``train/masks``, ``images_C1`` and ``masks_C1``), or if they are the only two
of their parent that are left.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from polyp_utils.common.exceptions import DataError, few

IMAGES, MASKS, INSTANCES, NEITHER = "images", "masks", "instance masks", "left aside"

_IMAGE_WORDS = {"image", "images", "img", "imgs", "original", "originals", "frame", "frames"}
_IMAGE_WORDS |= {"input", "inputs", "bbdd"}
_MASK_WORDS = {"mask", "masks", "gt", "groundtruth", "ground", "truth", "label", "labels"}
_MASK_WORDS |= {"annotation", "annotations", "ann", "anns", "annot", "annots", "gtpolyp"}
_MASK_WORDS |= {"segmentation", "segmentations", "seg", "semseg", "target", "targets"}
_INSTANCE_WORDS = {"insseg", "instance", "instances"}
_OTHER_WORDS = {"edge", "edges", "boundary", "boundaries", "contour", "contours", "outline"}
_OTHER_WORDS |= {"outlines", "bbox", "bboxes", "box", "boxes", "scribble", "scribbles", "overlay"}
_OTHER_WORDS |= {"overlays", "heatmap", "heatmaps", "skeleton", "skeletons", "thumbnail", "vis"}
_OTHER_WORDS |= {"thumbnails", "preview", "previews", "visualization", "visualisation", "depth"}
_OTHER_WORDS |= {"polygon", "polygons", "npy", "void", "gtvoid", "gtlumen", "gtspecular"}
_OTHER_ALONE = {"detection", "classification"}  # beside other words they name a data set
_KINDS = {"jpeg", "jpg", "png", "tif", "tiff", "bmp", "class", "classes", "object", "objects"}
_KINDS |= {"semantic"}  # words beside a role that do not tell two places apart
_ALONE = {  # what frames are, by a word in their path, if they come without masks beside others
    "polyp-free": {"negative", "negatives", "neg"},
    "for testing": {"test", "testing", "ts"},
    "for classification": {"labeled", "labelled", "unlabeled", "unlabelled"},
}

OTHER = "boxes, outlines or other pictures"
BY_PATTERNS = "--images 'GLOB' --masks 'GLOB', in a notebook dataset 'GLOB::GLOB'"

Files = Mapping[PurePosixPath, Sequence[Path]]


@dataclass(frozen=True)
class FolderPair:
    """Folders of images and their folder of masks; the same one if it holds both.

    Attributes:
        images: several share one folder of masks.
        masks: the folder of their masks.
    """

    images: tuple[PurePosixPath, ...]
    masks: PurePosixPath

    @property
    def partial(self) -> bool:
        """Whether by custom only some of the images have masks, as in VOC and Endoscapes."""
        words = set(_words(self.masks.name))
        return "semseg" in words or {"segmentation", "class"} <= words


@dataclass
class Folders:
    """The pairs, and the folders left aside by what they hold."""

    pairs: list[FolderPair] = field(default_factory=list)
    aside: dict[PurePosixPath, str] = field(default_factory=dict)


def pair_folders(
    folder: Path,
    files: Files,
    holds_both: Callable[[Sequence[Path]], bool],
    fits: Callable[[Sequence[Path], Sequence[Path]], bool],
) -> Folders:
    """Pairs the folders of images with those of masks.

    Args:
        folder: the data set's, for messages.
        files: image files by folder, relative to it.
        holds_both: whether the files of one folder are images with their masks beside them.
        fits: whether images of several folders have their masks among those of one.

    Raises:
        DataError: a folder without a counterpart, or with several.
    """
    found, alone = Folders(), _Roles()
    for place, group in sorted(_by_place(files).items()):
        masks = group[MASKS] or group[INSTANCES]
        found.aside |= dict.fromkeys(group[NEITHER], OTHER)
        if group[MASKS]:
            found.aside |= dict.fromkeys(group[INSTANCES], "masks of single objects")
        if not (group[IMAGES] and masks):
            alone[IMAGES] += group[IMAGES]
            alone[MASKS] += masks
        elif len(group[IMAGES]) == len(masks) == 1:
            found.pairs.append(FolderPair((group[IMAGES][0],), masks[0]))
        else:
            more = group[IMAGES] if len(group[IMAGES]) > 1 else masks
            several = " and ".join(map(str, more))
            raise _ambiguous(folder, files, f"{several} both belong to {place!r}")
    _pair_alone(alone, files, found.pairs, holds_both, fits)
    if found.pairs and not alone[MASKS]:
        for path in list(alone[IMAGES]):
            if kind := _without_masks(path):
                found.aside[path] = f"frames without masks, {kind}"
                alone[IMAGES].remove(path)
    left = alone[IMAGES] + alone[MASKS]
    if left and (found.pairs or (alone[IMAGES] and alone[MASKS])):
        raise _ambiguous(folder, files, f"{left[0]} has no counterpart")
    return found


class _Roles(defaultdict[str, list[PurePosixPath]]):
    """Folders by role."""

    def __init__(self) -> None:
        super().__init__(list)


def _pair_alone(
    alone: _Roles,
    files: Files,
    pairs: list[FolderPair],
    holds_both: Callable[[Sequence[Path]], bool],
    fits: Callable[[Sequence[Path], Sequence[Path]], bool],
) -> None:
    """Pairs what places leave over; takes it out of ``alone``."""
    for path in alone[IMAGES] + alone[MASKS]:
        if holds_both(files[path]):  # `1.jpg` beside `1_mask.png`
            pairs.append(FolderPair((path,), path))
            alone[IMAGES if path in alone[IMAGES] else MASKS].remove(path)
    for parent in sorted({path.parent for path in alone[MASKS]}):  # `ETIS/` and `Ground Truth/`
        images, masks = ([p for p in alone[r] if p.parent == parent] for r in (IMAGES, MASKS))
        if len(images) == len(masks) == 1:
            pairs.append(FolderPair((images[0],), masks[0]))
            alone[IMAGES].remove(images[0])
            alone[MASKS].remove(masks[0])
    if alone[IMAGES] and len(alone[MASKS]) == 1:  # `train/`, `val/` and one `semseg/`
        frames = [frame for folder in alone[IMAGES] for frame in files[folder]]
        if fits(frames, files[alone[MASKS][0]]):
            pairs.append(FolderPair(tuple(alone[IMAGES]), alone[MASKS][0]))
            alone.clear()


def _by_place(files: Files) -> dict[str, _Roles]:
    """Folders by place and role; parts that all folders of a place share tell no roles."""
    places: dict[str, list[PurePosixPath]] = defaultdict(list)
    for path in sorted(files):
        places[place_of(path)].append(path)
    groups = {}
    for place, paths in places.items():
        shared = set.intersection(*(set(path.parts) for path in paths)) if paths[1:] else set()
        groups[place] = _Roles()
        for path in paths:
            groups[place][role_of(path, shared)].append(path)
    return groups


def role_of(path: PurePosixPath, shared: Collection[str] = ()) -> str:
    """The role that the deepest part names, apart from shared ones; images if none does."""
    parts = [part for part in path.parts if part not in shared] or path.parts
    return next(filter(None, map(_role, reversed(parts))), IMAGES)


def says_mask(name: str) -> bool:
    """Whether a file's stem has a word for mask."""
    return any(word.lower() in _MASK_WORDS for word in re.findall(r"[^\W_]+", name))


def says_other(name: str) -> bool:
    """Whether a file's stem has a word for a box, an outline, or another picture of a frame."""
    return any(word.lower() in _OTHER_WORDS for word in re.findall(r"[^\W_]+", name))


def without_role(name: str) -> str:
    """A file's stem without words for image and mask."""
    words = re.findall(r"[^\W_]+", name)
    return "_".join(word for word in words if word.lower() not in _IMAGE_WORDS | _MASK_WORDS)


def place_of(path: PurePosixPath) -> str:
    """The path without words for roles: the same for both folders of a pair."""
    deciding = next((part for part in reversed(path.parts) if _role(part)), None)
    extra = _OTHER_WORDS | _OTHER_ALONE | _INSTANCE_WORDS | _KINDS
    parts = []
    for part in path.parts:
        role = _IMAGE_WORDS | _MASK_WORDS | (extra if part == deciding else set())
        parts.append(" ".join(word for word in _words(part) if word not in role))
    return "/".join(filter(None, parts))


def prefix_of(path: PurePosixPath) -> str:
    """What precedes the ids of a folder of images where there are several: ``Kvasir/``."""
    return "".join(f"{part}/" for part in path.parts if place_of(PurePosixPath(part)))


def _role(part: str) -> str | None:
    words = set(_words(part))
    if words & _OTHER_WORDS or (words and words <= _OTHER_ALONE):
        return NEITHER
    if words & _INSTANCE_WORDS or (words & _MASK_WORDS and words & {"object", "objects"}):
        return INSTANCES
    if words & _MASK_WORDS:
        return MASKS
    return IMAGES if words & _IMAGE_WORDS else None


def _words(name: str) -> list[str]:
    """Words in lower case: of ``imagesTr``, ``JPEGImages`` and ``masks_C1`` too."""
    borders = r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|(?<=\D)(?=\d)|(?<=\d)(?=\D)"
    return [word.lower() for word in re.findall(r"[^\W_]+", re.sub(borders, " ", name))]


def _without_masks(path: PurePosixPath) -> str:
    words = {word for part in path.parts for word in _words(part)}
    return next((kind for kind, names in _ALONE.items() if words & names), "")


def _ambiguous(folder: Path, files: Files, why: str) -> DataError:
    groups = _by_place(files).values()
    roles = {path: role for group in groups for role in group for path in group[role]}
    kinds = [f"{path} ({roles[path]})" for path in sorted(files)]
    return DataError(
        f"{folder}: cannot tell which folders belong together: {why}. Found: {few(kinds, 12)}. "
        "Give a folder that holds one pair, such as images/ and masks/, or say which files are "
        f"which: {BY_PATTERNS}"
    )


def aside_notes(found: Folders, files: Files) -> list[str]:
    """A sentence for each kind of folder that is left aside."""
    kinds: dict[str, list[PurePosixPath]] = defaultdict(list)
    for path, kind in sorted(found.aside.items()):
        kinds[kind].append(path)
    return [
        left_aside(map(str, paths), sum(len(files[path]) for path in paths), kind)
        for kind, paths in kinds.items()
    ]


def left_aside(places: Iterable[str], count: int, kind: str) -> str:
    """The note on files that are left aside by rule; ``places`` names them or their folders."""
    files = "1 file is" if count == 1 else f"{count} files are"
    return f"{files} left aside ({kind}): {few(places, 3)}"
