"""Which image file belongs to which mask file, by their stems."""

import itertools
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from polyp_utils.common.exceptions import DataError
from polyp_utils.data.folders import says_mask, says_other, without_role

_NNUNET = re.compile(r"images?(tr|ts|val)", re.IGNORECASE)
_CHANNEL = re.compile(r"(.+)_(\d{4})")  # nnU-Net's: `polyp_001_0000`


@dataclass(frozen=True)
class Matched:
    """Files paired by stem.

    Attributes:
        pairs: (image, mask) each.
        alone_images, alone_masks: files without a partner.
        problems: a message for each file that shares its stem with another.
    """

    pairs: list[tuple[Path, Path]]
    alone_images: list[Path]
    alone_masks: list[Path]
    problems: list[str]


def pair_files(
    images: Sequence[Path], masks: Sequence[Path], name: Callable[[Path], str] | None = None
) -> Matched:
    """Pairs files of equal stems, or of stems that are equal without what all of a side share.

    Args:
        images: the images.
        masks: the masks.
        name: gives the stem of an image; None: as it is.
    """
    problems: list[str] = []
    of_image = _by_stem(images, name or _stem, problems)
    of_mask = _by_stem(masks, _stem, problems)
    if not of_image.keys() & of_mask.keys():  # `1.tif` and `p1.tif`, `a.jpg` and `a_mask.png`
        of_image, of_mask = _by_core(of_image), _by_core(of_mask)
    return Matched(
        [(of_image[key], of_mask[key]) for key in sorted(of_image.keys() & of_mask.keys())],
        [of_image[key] for key in sorted(of_image.keys() - of_mask.keys())],
        [of_mask[key] for key in sorted(of_mask.keys() - of_image.keys())],
        problems,
    )


def fits(images: Sequence[Path], masks: Sequence[Path]) -> bool:
    """Whether images of different stems have masks among these."""
    different = len({path.stem for path in images}) == len(images)
    return different and bool(pair_files(images, masks).pairs)


def tell_apart(paths: Sequence[Path]) -> tuple[list[Path], list[Path], list[Path]]:
    """Images, masks and other pictures in one folder: `1.jpg`, `1_mask.png`, `1_edge.png`.

    Without a word for mask in any stem, `p1.tiff` is the mask of `1.tiff`, as in CVC-ColonDB.
    """
    other = [path for path in paths if says_other(path.stem)]
    masks = [path for path in paths if says_mask(path.stem) and path not in set(other)]
    if not masks:
        stems = {path.stem for path in paths}
        numbered = all(re.fullmatch(r"p?\d+", stem) for stem in stems)
        masks = [p for p in paths if numbered and p.stem[0] == "p" and p.stem[1:] in stems]
        other = []
    taken = {*other, *masks}
    return [path for path in paths if path not in taken], masks, other


def holds_both(paths: Sequence[Path]) -> bool:
    """Whether a folder holds images with their masks beside them, see `tell_apart`."""
    return all(tell_apart(paths)[:2])


def case_names(images: Sequence[Path]) -> Callable[[Path], str] | None:
    """For images of nnU-Net, ``<case>_0000``, the function that gives the case; None for others.

    Raises:
        DataError: several channels per case.
    """
    found = [_CHANNEL.fullmatch(path.stem) for path in images]
    if not all(found) or not all(_NNUNET.fullmatch(path.parent.name) for path in images):
        return None
    for path, match in zip(images, found, strict=True):
        if match and match[2] != "0000":
            raise DataError(
                f"{path} is channel {int(match[2])} of its frame, in a file of its own: save each "
                f"frame as one RGB image, {match[1]}_0000{path.suffix}, and remove the others"
            )
    return lambda path: path.stem.removesuffix("_0000")


def _stem(path: Path) -> str:
    return path.stem


def _by_stem(
    paths: Sequence[Path], name: Callable[[Path], str], problems: list[str]
) -> dict[str, Path]:
    stems: dict[str, Path] = {}
    for path in paths:
        stem = unicodedata.normalize("NFC", name(path))  # as typed; macOS takes accents apart
        if stem in stems:
            problems.append(f"{stems[stem]} and {path} share a stem: keep one")
        stems.setdefault(stem, path)
    return stems


def _by_core(stems: dict[str, Path]) -> dict[str, Path]:
    """Files by name without the prefix and suffix common to all; digits are never cut off."""
    names = list(stems)
    if len(names) == 1:  # nothing to compare with
        return {without_role(names[0]): stems[names[0]]}
    start = _shared(names)
    end = min(_shared([name[::-1] for name in names]), min(map(len, names), default=0) - start)
    return {name[start : len(name) - end]: path for name, path in stems.items()}


def _shared(names: list[str]) -> int:
    """Length of the digit-free prefix that all names share."""
    columns = itertools.takewhile(
        lambda letters: len(set(letters)) == 1 and not letters[0].isdigit(),
        zip(*names, strict=False),
    )
    return len(list(columns))
