"""Splits of any data set, grouped by near-duplicates and sequences, stratified by polyp."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd
import torch

from polyp_utils.data import duplicates
from polyp_utils.data.dataset import PolypDataset
from polyp_utils.data.known import known_pairs, known_sequences
from polyp_utils.data.labels import SPECK_SHARE, get_scheme, polyp_shares
from polyp_utils.data.pairs import near_duplicates
from polyp_utils.data.split import Split, grouped_parts

SEED = 42
VALIDATION_SHARE = 0.1  # of a training part that has to give a validation part
_AREA_BINS = 5
_SIZE = 256  # of the masks that areas are measured on, in pixels


def groups(dataset: PolypDataset) -> dict[str, int]:
    """Id -> group: near-duplicates, equal frames, those of one sequence, and what these link."""
    found = near_duplicates(dataset.source, dataset.info.name)
    return _linked(dataset, found, dataset.ids)


def known_groups(dataset: PolypDataset, ids: Sequence[str]) -> dict[str, int]:
    """`groups` of some frames by known near-duplicates, without a search.

    Only these frames' pixels are compared; frames that are not among them can still link them.
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


def frame_strata(dataset: PolypDataset) -> dict[str, str]:
    """Id -> stratum: the kinds of polyp that the frame shows, and the quintile of their area."""
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
        name: the data set's name, or its folder.
    """
    dataset = PolypDataset(name, _SIZE)
    parts = grouped_parts(groups(dataset), frame_strata(dataset), (0.8, 0.1, 0.1), SEED)
    return Split("grouped", *parts)


def with_validation(split: Split, name: str) -> Split:
    """The split with a validation part that is drawn from its training part, as in `grouped`.

    Args:
        split: has no validation part.
        name: the data set's name, or its folder.
    """
    dataset = PolypDataset(name, _SIZE)
    dataset.rows((*split.train, *split.test))
    found = known_pairs(name)
    if found is None:
        found = near_duplicates(dataset.source, dataset.info.name)
    linked = _linked(dataset, found, dataset.ids)
    shares = (1 - VALIDATION_SHARE, VALIDATION_SHARE)
    _, val = grouped_parts({i: linked[i] for i in split.train}, frame_strata(dataset), shares, SEED)
    return replace(split, train=tuple(i for i in split.train if i not in {*val}), val=val)


def folds(name: str, count: int) -> list[tuple[str, ...]]:
    """Equal parts of a data set for cross-validation, grouped and stratified as in `grouped`."""
    dataset = PolypDataset(name, _SIZE)
    return grouped_parts(groups(dataset), frame_strata(dataset), (1 / count,) * count, SEED)
