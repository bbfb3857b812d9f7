"""Reads the files of a run folder, and refuses what is damaged by the file's name."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from polyp_utils.common.exceptions import RunError
from polyp_utils.common.files import read_csv

if TYPE_CHECKING:
    import pandas as pd

RESTORE = "restore it from a copy, or train the run again under another name"
_EVALUATE = "evaluate the run again"


def read_json(path: Path, keys: Iterable[str] = (), cure: str = RESTORE) -> dict[str, Any]:
    """The object that a JSON file holds.

    Args:
        path: the file.
        keys: that the object must have.
        cure: what to do if it is not so, for the message.

    Raises:
        RunError: missing, damaged, or without one of the keys.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunError(f"{path} is missing: {cure}") from error
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path} is damaged ({error}): {cure}") from error
    if not isinstance(content, dict) or not content.keys() >= set(keys):
        raise RunError(f"{path} lacks {' and '.join(keys) or 'its entries'}: {cure}")
    return content


def read_run_table(path: Path, *texts: str) -> pd.DataFrame:
    """The table in a CSV file, some columns as texts, see `read_csv`.

    Raises:
        RunError: missing or damaged.
    """
    try:
        return read_csv(path, *texts)
    except FileNotFoundError as error:
        raise RunError(f"{path} is missing: {RESTORE}") from error
    except ValueError as error:  # those of pandas' parser too
        raise RunError(f"{path} is damaged ({error}): {RESTORE}") from error


def read_scores(path: Path, frames: int | None) -> pd.DataFrame:
    """A table of scores per image, size and class.

    Args:
        path: the CSV file.
        frames: how many it must hold; None: any number.

    Raises:
        RunError: missing, damaged, not whole, or not a table of scores.
    """
    table, key = read_run_table(path, "id"), ["id", "size", "class"]
    if missing := [name for name in (*key, "dice") if name not in table]:
        raise RunError(f"{path} has no column {missing[0]}: {_EVALUATE}")
    for name in table.columns.difference(key):
        if table[name].dtype.kind not in "fiub":
            seen = table.loc[~table[name].map(_is_number), name].iloc[0]
            raise RunError(f"{path}, column {name} holds {seen!r}, not a number: {_EVALUATE}")
    if (again := table.loc[table.duplicated(key), "id"]).any():
        raise RunError(f"{path} holds {again.iloc[0]} twice: {_EVALUATE}")
    if frames not in (None, table["id"].nunique()):
        seen = f"{table['id'].nunique()} frames, but {frames} were scored"
        raise RunError(f"{path} holds {seen}: {_EVALUATE}")
    return table


def _is_number(cell: object) -> bool:
    try:
        float(str(cell))
    except ValueError:
        return False
    return True


def decode_levels(path: Path, data: bytes, classes: int, side: int) -> np.ndarray:
    """The levels of a stored prediction, uint8 (classes - 1, S, S).

    Args:
        path: where the PNG lies or would lie, for messages.
        data: its bytes.
        classes: of the scheme, the background included.
        side: S in pixels; nothing of another size is decoded, as it might fill the memory.

    Raises:
        RunError: damaged, or another size or number of classes.
    """
    again = "restore it from a copy, or train the run again"
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            if image.size != (side, side):
                size = f"{image.width}×{image.height} px"
                raise RunError(f"{path} has {size}, the run predicts {side}×{side}: {again}")
            image.verify()
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            pixels = np.array(image)
    except RunError:
        raise
    except Exception as error:  # Pillow raises a dozen kinds
        seen = "no image" if isinstance(error, UnidentifiedImageError) else error
        raise RunError(f"{path} is damaged ({seen}): {again}") from error
    levels = pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)
    if len(levels) != classes - 1 or levels.dtype != np.uint8:
        raise RunError(
            f"{path} holds {len(levels) + 1} classes in {levels.dtype}; the scheme has {classes}, "
            f"in 8 bits: {again}"
        )
    return levels
