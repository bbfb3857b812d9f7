"""Splits of any data set that keep near-duplicates, sequences and kinds of polyp in order."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import torch

from polyp_utils.common.exceptions import DataError
from polyp_utils.common.files import write_csv
from polyp_utils.common.paths import cache_root
from polyp_utils.data import duplicates
from polyp_utils.data.catalog import get_info
from polyp_utils.data.dataset import PolypDataset
from polyp_utils.data.labels import SPECK_SHARE, get_scheme, polyp_shares
from polyp_utils.data.sources import Source, open_source
from polyp_utils.data.splits import Split, grouped_parts, known_pairs, known_sequences

SEED = 42
_AREA_BINS = 5
_SIZE = 256  # at which areas are taken
_VERSION = 1  # of the search; another one looks anew


def near_duplicates(
    source: Source, name: str, features: Sequence[duplicates.Features] = ()
) -> pd.DataFrame:
    """`find_near_duplicates` of a source at its original size, kept in the cache.

    Args:
        source: of the frames.
        name: of the data set, for the cache.
        features: of the frames, in the order of their ids, if they are at hand.
    """
    path = _cache(source, name)
    if path.is_file():
        return _read(path)
    features = features or duplicates.extract_all(source.read_image, source.ids)
    pairs = duplicates.find_near_duplicates(source.ids, features)
    write_csv(path, pairs)
    return pairs


def cached_pairs(name: str) -> pd.DataFrame | None:
    """The near-duplicates of a data set if they have been looked for here, else None."""
    info = get_info(name)
    try:
        source = open_source(info)
    except (FileNotFoundError, DataError):  # not here, or not whole
        return None
    path = _cache(source, info.name)
    return _read(path) if path.is_file() else None


def _cache(source: Source, name: str) -> Path:
    state = f"{_VERSION} {source.fingerprint()} {' '.join(source.ids)}"
    return cache_root() / f"{name}-pairs-{hashlib.sha256(state.encode()).hexdigest()[:16]}.csv"


def _read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype={"id_a": str, "id_b": str})


def groups(dataset: PolypDataset) -> dict[str, int]:
    """Id -> group: near-duplicates, equal frames, those of one sequence, and what these link."""
    found = near_duplicates(dataset.source, dataset.info.name)
    return _linked(dataset, found, dataset.ids)


def known_groups(dataset: PolypDataset, ids: Sequence[str]) -> dict[str, int]:
    """The same of some frames with the near-duplicates that are known, without a search.

    Only the frames asked for are looked at, and what links them may lie outside of them.
    """
    linked = _linked(dataset, known_pairs(dataset.name), ids)
    return {frame_id: linked[frame_id] for frame_id in ids}


def _linked(
    dataset: PolypDataset, found: pd.DataFrame | None, ids: Sequence[str]
) -> dict[str, int]:
    pairs = pd.DataFrame(found, columns=["id_a", "id_b"])
    images = (dataset.images[row].numpy() for row in dataset.rows(ids))
    frames = zip(ids, images, strict=True)
    pixels = {frame_id: hashlib.sha256(image.data).digest() for frame_id, image in frames}
    same = [_links(known) for known in (pixels, known_sequences(dataset.info.name))]
    return duplicates.group(dataset.ids, pd.concat([pairs, *same]))


def _links(labels: Mapping[str, object]) -> pd.DataFrame:
    """Rows ``id_a``, ``id_b`` that link each id to the first one with its label."""
    first: dict[object, str] = {}
    rows = [(frame_id, first.setdefault(label, frame_id)) for frame_id, label in labels.items()]
    return pd.DataFrame(rows, columns=["id_a", "id_b"])


def strata(dataset: PolypDataset) -> dict[str, str]:
    """Id -> which kinds of polyp the frame shows and its fifth of the polyp area."""
    masks = dataset.masks
    kinds = (get_scheme("neopolyp").encode(part).flatten(1) for part in masks.split(64))
    shares = [torch.stack([(part == k).float().mean(dim=1) for k in (1, 2)]) for part in kinds]
    shown = torch.cat(shares, dim=1) > SPECK_SHARE
    area = pd.Series(polyp_shares(masks).numpy())
    fifth = (area.rank(method="first") - 1) * _AREA_BINS // len(area)
    rows = zip(dataset.ids, *(kind.tolist() for kind in shown), fifth, strict=True)
    return {frame_id: f"{one} {other} {bin_:.0f}" for frame_id, one, other, bin_ in rows}


def grouped(name: str) -> Split:
    """The split ``grouped`` of a data set, 80/10/10, from its frames.

    Args:
        name: of the data set, or its folder.
    """
    dataset = PolypDataset(name, _SIZE)
    parts = grouped_parts(groups(dataset), strata(dataset), (0.8, 0.1, 0.1), SEED)
    return Split("grouped", *parts)


def folds(name: str, count: int) -> list[tuple[str, ...]]:
    """Equal parts of a data set for cross-validation, grouped and alike as in `grouped`."""
    dataset = PolypDataset(name, _SIZE)
    return grouped_parts(groups(dataset), strata(dataset), (1 / count,) * count, SEED)
