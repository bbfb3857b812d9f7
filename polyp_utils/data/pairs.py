"""The near-duplicate pairs of a data set, kept in the cache."""

import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from polyp_utils.common.files import read_csv, remove_leftovers, write_csv
from polyp_utils.common.paths import cache_root
from polyp_utils.data import duplicates
from polyp_utils.data.catalog import get_info
from polyp_utils.data.sources import Source, open_source

_VERSION = 1  # of the search; a new one searches again


def near_duplicates(
    source: Source, name: str, features: Sequence[duplicates.Features] = ()
) -> pd.DataFrame:
    """`find_near_duplicates` for a source at its original size; the result is cached.

    Args:
        source: where the frames come from.
        name: the data set's name, for the cache.
        features: the frames' features in the order of their ids, if already extracted.
    """
    path = _cache(source, name)
    if (known := _read(path)) is not None:
        return known
    features = features or duplicates.extract_all(source.read_image, source.ids)
    pairs = duplicates.find_near_duplicates(source.ids, features)
    try:
        remove_leftovers(path.parent.glob(f".{path.name}.*.tmp"))
        write_csv(path, pairs)
    except OSError as error:
        why = error.__cause__ or error
        warnings.warn(f"cache {path} not written ({why}); set POLYP_CACHE", stacklevel=2)
    return pairs


def cached_pairs(name: str) -> pd.DataFrame | None:
    """The near-duplicates of a data set if a search's result is in the cache, else None."""
    try:
        info = get_info(name)
        source = open_source(info)
    except (FileNotFoundError, ValueError):  # absent or incomplete
        return None
    return _read(_cache(source, info.name))


def _cache(source: Source, name: str) -> Path:
    state = f"{_VERSION} {source.fingerprint()} {' '.join(source.ids)}"
    return cache_root() / f"{name}-pairs-{hashlib.sha256(state.encode()).hexdigest()[:16]}.csv"


def _read(path: Path) -> pd.DataFrame | None:
    """The table in a file of the cache; None if it is not there or damaged."""
    if not path.is_file():
        return None
    try:
        pairs = read_csv(path, "id_a", "id_b")
        if not {"id_a", "id_b"} <= set(pairs):
            raise ValueError("it lists no pairs")
        return pairs
    except (OSError, ValueError) as error:
        warnings.warn(f"cache {path} is damaged ({error}): not used", stacklevel=3)
        return None
