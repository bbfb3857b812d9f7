"""Known near-duplicates and video sequences of data sets, and the leakage that they cause.

``splits/<data set>/pairs.csv`` lists the near-duplicates that `duplicates` flags, ``sequences.csv``
the video sequence of each frame, if known, and ``kvasir-sessile.txt`` the ids of Kvasir-Sessile.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterable, Sequence
from importlib import resources
from typing import TYPE_CHECKING

from polyp_utils.data.catalog import CATALOG
from polyp_utils.data.split import PARTS, Split

if TYPE_CHECKING:
    import pandas as pd


FOLDER = resources.files("polyp_utils.data") / "splits"


def is_listed(dataset: str) -> bool:
    """Whether the package has splits and tables of a data set."""
    return dataset in CATALOG and (FOLDER / dataset).is_dir()


def listed_table(dataset: str, file: str) -> list[dict[str, str]]:
    """Rows of one of the package's tables; empty if it has no such table for the data set."""
    path = FOLDER / dataset / file
    if not is_listed(dataset) or not path.is_file():
        return []
    return list(csv.DictReader(path.read_text().splitlines()))


def known_pairs(dataset: str) -> pd.DataFrame | None:
    """The near-duplicates of a data set, from the package's list or from a search in the cache.

    Returns:
        ``id_a``, ``id_b``, ``mirrored``, ``inliers``, ``scale``, ``rotation``; None if the data set
        has not been searched.
    """
    rows = _listed_pairs(dataset)
    if rows is None:
        from polyp_utils.data.pairs import cached_pairs  # imports the search

        return cached_pairs(dataset)
    import pandas as pd  # slow, and training needs only the ids

    columns = ["id_a", "id_b", "mirrored", "inliers", "scale", "rotation"]
    table = pd.DataFrame(rows, columns=columns, dtype=object)
    numbers = {"inliers": int, "scale": float, "rotation": float}
    return table.astype(numbers).assign(mirrored=table["mirrored"] == "True")


def _listed_pairs(dataset: str) -> list[dict[str, str]] | None:
    """Rows of the package's lists for `known_pairs`; None if it has no list for any of the sets."""
    names = [name for name in _sets(dataset) if is_listed(name)]
    return [row for name in names for row in listed_table(name, "pairs.csv")] if names else None


def known_ids(dataset: str) -> list[tuple[str, str]] | None:
    """The pairs of ids in `known_pairs`; None as there."""
    rows = _listed_pairs(dataset)
    if rows is not None:
        return [(row["id_a"], row["id_b"]) for row in rows]
    pairs = known_pairs(dataset)
    return None if pairs is None else list(zip(pairs["id_a"], pairs["id_b"], strict=True))


def known_sequences(dataset: str) -> dict[str, str]:
    """Id -> video sequence; empty if the data set has none on record."""
    rows = itertools.chain.from_iterable(
        listed_table(name, "sequences.csv") for name in _sets(dataset)
    )
    return {row["id"]: row["sequence"] for row in rows}


def _sets(dataset: str) -> tuple[str, ...]:
    """The data set itself, or those whose frames it joins."""
    return (CATALOG[dataset].joins if dataset in CATALOG else ()) or (dataset,)


def leaks(split: Split, dataset: str) -> dict[str, tuple[int, int]]:
    """Leakage: how many known near-duplicate pairs and video sequences cross a split, of how many.

    Pairs count if both frames are in the split, sequences by those of their frames that are.
    """
    found, pairs = {}, known_ids(dataset)
    if pairs is not None:
        crossing, inside = split.crossing_pairs(pairs)
        found["near-duplicate pairs"] = crossing.total(), inside
    part = {i for name in PARTS for i in split.part(name)}
    sequences = {i: s for i, s in known_sequences(dataset).items() if i in part}
    found["video sequences"] = split.crossing(sequences).total(), len(set(sequences.values()))
    return {what: numbers for what, numbers in found.items() if numbers[1]}


def seen_before(
    seen: Iterable[str], seen_of: str, test: Iterable[str], test_of: str
) -> tuple[int, int | None]:
    """How many test frames an earlier training has seen, and how many more by a near-duplicate.

    Args:
        seen: ids of the frames in that training.
        seen_of: their data set.
        test: ids of the test frames.
        test_of: their data set.

    Returns:
        Both are 0 for two sets of the catalogue that share no frames; the second is None if nobody
        has searched for near-duplicates, as between a folder and another set.
    """
    catalogued = {seen_of, test_of} <= CATALOG.keys()
    if catalogued and not set(_sets(seen_of)) & set(_sets(test_of)):
        return 0, 0
    before, held_out = set(seen), set(test)
    same, pairs = before & held_out, known_ids(test_of)
    if pairs is None or not (catalogued or seen_of == test_of):
        return len(same), None
    both_ways = [*pairs, *((b, a) for a, b in pairs)]
    return len(same), len({b for a, b in both_ways if a in before and b in held_out - same})


def sessile_ids() -> frozenset[str]:
    """The 196 ids of Kvasir-Sessile: small, flat, sessile polyps of Kvasir-SEG."""
    return frozenset((FOLDER / "kvasir-seg/kvasir-sessile.txt").read_text().split())


def listed_groups(dataset: str, ids: Sequence[str]) -> dict[str, int]:
    """Id -> group, by known near-duplicates and sequences; needs no frames."""
    import pandas as pd

    from polyp_utils.data.duplicates import group  # imports OpenCV

    sequences, first = known_sequences(dataset), dict[str, str]()
    rows = [(i, first.setdefault(sequences.get(i, i), i)) for i in ids]
    tables = (known_pairs(dataset), rows)
    return group(ids, pd.concat(pd.DataFrame(t, columns=["id_a", "id_b"]) for t in tables))
