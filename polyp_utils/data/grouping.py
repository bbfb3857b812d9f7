"""Splits of any data set that keep near-duplicates, sequences and kinds of polyp in order."""

import pandas as pd
import torch

from polyp_utils.config import cache_root
from polyp_utils.data import duplicates
from polyp_utils.data.dataset import PolypDataset
from polyp_utils.data.labels import get_scheme, is_polyp
from polyp_utils.data.splits import Split, grouped_parts, known_sequences
from polyp_utils.files import write_csv

SEED = 42
_AREA_BINS = 5
_SIZE = 256  # at which areas are taken
_SPECK = 5e-4  # of the frame: fewer pixels of a kind are traces of JPEG
_VERSION = 1  # of the search; another one looks anew


def near_duplicates(dataset: PolypDataset) -> pd.DataFrame:
    """`find_near_duplicates` of a data set at its original size, kept in the cache."""
    path = cache_root() / f"pairs-{_VERSION}-{dataset.info.name}-{dataset.fingerprint}.csv"
    if path.is_file():
        return pd.read_csv(path, dtype={"id_a": str, "id_b": str})
    features = duplicates.extract_all(dataset.source.read_image, dataset.ids)
    pairs = duplicates.find_near_duplicates(dataset.ids, features)
    write_csv(path, pairs)
    return pairs


def groups(dataset: PolypDataset) -> dict[str, int]:
    """Id -> group: near-duplicates, frames of one sequence, and what these link, together."""
    sequences = pd.Series(known_sequences(dataset.info.name), dtype=str)
    first = sequences.groupby(sequences).transform(lambda ids: ids.index[0])
    links = pd.DataFrame({"id_a": sequences.index, "id_b": first.to_numpy()})
    return duplicates.group(dataset.ids, pd.concat([near_duplicates(dataset), links]))


def strata(dataset: PolypDataset) -> dict[str, str]:
    """Id -> which kinds of polyp the frame shows and its fifth of the polyp area."""
    masks = dataset.masks
    kinds = torch.stack([get_scheme("neopolyp").encode(part[None])[0] for part in masks])
    shown = [(kinds == kind).flatten(1).float().mean(dim=1) > _SPECK for kind in (1, 2)]
    area = pd.Series(is_polyp(masks).flatten(1).float().mean(dim=1).numpy())
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
