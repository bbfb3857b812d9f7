"""Masks of class indices, as of nnU-Net, whose ``dataset.json`` says which index is polyp."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from polyp_utils.common.exceptions import DataError, few
from polyp_utils.data.masks import MaskFile, mask_file
from polyp_utils.data.pixels import Pixels

_POLYP = {"polyp", "polyps", "lesion", "lesions", "adenoma", "adenomas", "neoplastic", "serrated"}
_POLYP |= {"hyperplastic", "foreground"}


def find_labels(folder: Path) -> dict[int, str] | None:
    """Class index -> name, as ``dataset.json`` of a folder says; empty if it names none.

    Returns:
        None if there is no such file.

    Raises:
        DataError: not JSON, or labels of another form than ``{"background": 0, "polyp": 1}`` and,
            in version 1, ``{"0": "background", "1": "polyp"}``.
    """
    path = folder / "dataset.json"
    if not path.is_file():
        return None
    try:
        labels = json.loads(path.read_text(encoding="utf-8-sig")).get("labels", {})
        named = {
            int(key if str(key).isdecimal() else value): str(value if str(key).isdecimal() else key)
            for key, value in labels.items()
        }
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} does not say what the values of the masks mean ({error}): write its labels as "
            '{"background": 0, "polyp": 1}'
        ) from error
    return named


def labelled_mask(pixels: Pixels, labels: Mapping[int, str]) -> MaskFile:
    """A mask of class indices, unless it is black and white and no label is known.

    Args:
        pixels: of the mask's file.
        labels: class index -> name, see `find_labels`.

    Raises:
        DataError: colours or transparency, or indices that `levels_of_indices` refuses.
    """
    indices, alpha = pixels.values if pixels.indices is None else pixels.indices, pixels.alpha
    if indices.ndim == 3 and (indices == indices[..., :1]).all():
        indices = indices[..., 0]
    if indices.ndim == 3 or (alpha is not None and alpha.min() < alpha.max()):
        raise DataError(
            f"{pixels.path} has colours or transparency, but dataset.json announces class indices: "
            "save it as a grey PNG"
        )
    if not labels and np.isin(indices, (0, 255)).all():
        return mask_file(pixels)
    levels = levels_of_indices(indices, labels, pixels.path)
    return MaskFile(pixels.path, levels, np.zeros(levels.shape, bool), levels.copy())


def levels_of_indices(indices: np.ndarray, labels: Mapping[int, str], path: Path) -> np.ndarray:
    """Mask levels, 0 or 255, uint8 (H, W), from class indices (H, W).

    Args:
        indices: the mask as on disk.
        labels: class index -> name, see `find_labels`.
        path: the mask's file, for messages.

    Raises:
        DataError: no label is one of a polyp, or the mask holds an index without a name, or one
            that says that its pixels are not annotated.
    """
    values = [int(value) for value in np.unique(indices)]
    polyp = [index for index, name in labels.items() if _is_polyp(name)]
    listed = ", ".join(f"{index} {name}" for index, name in sorted(labels.items())) or "none"
    if not polyp:
        raise DataError(
            f"{path} holds the class indices {few(map(str, values))}, and dataset.json does not "
            f"say which is polyp (its labels: {listed}): write them as "
            '{"background": 0, "polyp": 1}'
        )
    ignored = [index for index in values if labels.get(index) == "ignore"]
    if ignored:
        raise DataError(
            f"{path} holds {(indices == ignored[0]).sum()} pixels of label {ignored[0]}, ignore: "
            "whether they are polyp is not known; label them, or remove the frame"
        )
    if unknown := [value for value in values if value not in labels]:
        raise DataError(
            f"{path} holds {few(map(str, unknown))}, which dataset.json does not name (its "
            f"labels: {listed}): correct the one that is wrong"
        )
    return np.isin(indices, polyp).astype(np.uint8) * 255


def _is_polyp(name: str) -> bool:
    words = set(re.findall(r"[a-z]+", name.lower()))
    denied = words & {"no", "non", "not", "free"} and "neoplastic" not in words
    return bool(words & _POLYP) and not denied
