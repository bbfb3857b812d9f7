"""Immutable id lists per part, one CSV (``id,part``) each under ``splits/<data set>/``.

Published, or drawn once from numpy's ``default_rng(42)``:

- ``random-800-s42``: 800/100/100 of Kvasir-SEG's sorted ids, permuted; the model card names the
  sizes, not the lists.
- ``official-880``, ``pranet-kvasir`` (Kvasir-SEG), ``pranet-clinicdb`` (CVC-ClinicDB): published
  train and test lists. They have no validation part: 10 % of train was drawn (whole sequences in
  ClinicDB), and the test list is untouched.
- ``sklearn-42``: the "80/10/10" of ResUNet++ and FCBFormer, scikit-learn's ``train_test_split``
  with ``random_state=42`` twice on the sorted ids (100 for test, then 100 for validation).
- ``grouped``: 80/10/10 in which no pair of near-duplicates and no sequence stands on two sides,
  alike in polyp area and kind; ``grouped-fold1`` … ``grouped-fold5`` are its cross-validation,
  each part of a fifth being test once and, in the fold before, validation. For a folder of yours
  both are computed, from its frames alone.
- ``phantom-240``: 240/60/60 in the order of the index.

``<data set>/pairs.csv`` are the near-duplicates that `duplicates` flags, ``sequences.csv`` the
video sequence of each frame where it is known, ``kvasir-sessile.txt`` the ids of Kvasir-Sessile.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import itertools
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from polyp_utils.common.exceptions import unknown
from polyp_utils.common.paths import repo_root
from polyp_utils.data.catalog import CATALOG, get_info

if TYPE_CHECKING:
    import pandas as pd

PARTS = ("train", "val", "test")
FOLDS = 5
_FOLD_NAMES = [f"grouped-fold{k + 1}" for k in range(FOLDS)]
_TOO_FEW = (
    ". Too few groups of frames that show different places: give a split of yours, a CSV file with "
    "the columns id and part, or more frames"
)
_FOLDER = resources.files("polyp_utils.data") / "splits"


@dataclass(frozen=True)
class Split:
    """Frame ids per part, disjoint."""

    name: str
    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]

    def part(self, name: str) -> tuple[str, ...]:
        """Ids of ``train``, ``val`` or ``test``.

        Raises:
            ValueError: another name.
        """
        if name not in PARTS:
            raise unknown("part", name, PARTS)
        return getattr(self, name)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the ids of all parts, 16 hex digits."""
        text = "\n".join(f"{part} {' '.join(self.part(part))}" for part in PARTS)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def limited(self, count: int) -> Split:
        """The first ``count`` ids of each part (0 = all)."""
        end = count or None
        return Split(self.name, self.train[:end], self.val[:end], self.test[:end])

    def crossing(self, groups: Mapping[str, object]) -> Counter[str]:
        """How many groups stand in each set of two or three parts, ``"train and test"``.

        Args:
            groups: id -> whatever names its group; ids that are in no part do not count.
        """
        parts: dict[object, set[str]] = {}
        for part in PARTS:
            for frame_id in self.part(part):
                if frame_id in groups:
                    parts.setdefault(groups[frame_id], set()).add(part)
        several = (found for found in parts.values() if len(found) > 1)
        return Counter(" and ".join(p for p in PARTS if p in found) for found in several)

    def crossing_pairs(self, pairs: Iterable[tuple[str, str]]) -> tuple[Counter[str], int]:
        """How many pairs stand in each two parts, ``"train and test"``, and how many lie within.

        Args:
            pairs: ids; those with one that is in no part do not count.
        """
        part = {i: name for name in PARTS for i in self.part(name)}
        inside = [{part[a], part[b]} for a, b in pairs if a in part and b in part]
        apart = (found for found in inside if len(found) > 1)
        return Counter(" and ".join(p for p in PARTS if p in found) for found in apart), len(inside)

    def to_csv(self) -> str:
        """``id,part`` rows, as `parse_split` reads them."""
        rows = (f"{i},{part}" for part in PARTS for i in self.part(part))
        return "\n".join(("id,part", *rows)) + "\n"


def split_names(dataset: str = "") -> list[str]:
    """Names of the splits of one data set, or of all that the package lists."""
    if dataset and not _listed(dataset):
        return ["grouped", *_FOLD_NAMES]
    names = {
        file.name.removesuffix(".csv")
        for folder in ([_FOLDER / dataset] if dataset else _FOLDER.iterdir())
        for file in (folder.iterdir() if folder.is_dir() else ())
        if file.name.endswith(".csv") and file.name not in ("pairs.csv", "sequences.csv")
    }
    if "grouped-folds" in names:
        names = names - {"grouped-folds"} | set(_FOLD_NAMES)
    return sorted(names)


def load_split(name: str, dataset: str = "") -> Split:
    """The split of that name; says once by how much it leaks.

    Args:
        name: of a split, or the path of a CSV file with the columns ``id`` and ``part``.
        dataset: the data set it is for, a name or a folder; needed for ``grouped`` and its folds.

    Raises:
        ValueError: unknown name, a split of another data set, an id twice, a part that does not
            exist or is empty.
    """
    if name.endswith(".csv"):
        split = parse_split(name, _read_file(name))
    elif name in ("grouped", *_FOLD_NAMES):
        if not dataset:
            raise ValueError(f"split {name} exists for every data set: say of which")
        split = _grouped(name, dataset)
    else:
        dataset = _home(name, dataset)
        split = parse_split(name, (_FOLDER / dataset / f"{name}.csv").read_text())
    if dataset:
        _say_leaks(split, dataset)
    return split


def _home(name: str, dataset: str) -> str:
    """The data set that the package lists a split for; a folder may hold a copy of any of them."""
    homes = [known for known in CATALOG if _listed(known) and name in split_names(known)]
    if not homes:
        raise unknown("split", name, split_names(dataset))
    if dataset in CATALOG and dataset not in homes:
        known = ", ".join(split_names(dataset))
        raise ValueError(f"split {name} is one of {homes[0]}, not of {dataset}: take {known}")
    return homes[0]


def _listed(dataset: str) -> bool:
    return dataset in CATALOG and (_FOLDER / dataset).is_dir()


def _read(dataset: str, file: str) -> list[dict[str, str]]:
    """Rows of a table of the package; none if it has no such table for the data set."""
    path = _FOLDER / dataset / file
    if not _listed(dataset) or not path.is_file():
        return []
    return list(csv.DictReader(path.read_text().splitlines()))


def _read_file(name: str) -> str:
    for path in (Path(name).expanduser(), repo_root() / name):
        if path.is_file():
            return path.read_text(encoding="utf-8-sig")  # spreadsheets write a mark before it
    raise ValueError(f"split {name} is no file: give a CSV with the columns id and part")


def parse_split(name: str, text: str) -> Split:
    """A split from CSV text with the columns ``id`` and ``part``; errors as in `load_split`."""
    rows = csv.DictReader(text.splitlines())
    if not {"id", "part"} <= set(rows.fieldnames or ()):
        raise ValueError(f"split {name} has columns {rows.fieldnames}; it needs id and part")
    part_of: dict[str, str] = {}
    for row in rows:
        frame_id, part = row["id"], row["part"]
        if part not in PARTS:
            raise unknown(f"part of id {frame_id} in split {name}", part, PARTS)
        if frame_id in part_of:
            raise ValueError(f"split {name}: id {frame_id} stands in it twice")
        part_of[frame_id] = part
    return _whole(Split(name, *(tuple(i for i, p in part_of.items() if p == q) for q in PARTS)))


def _whole(split: Split, hint: str = "") -> Split:
    for part in PARTS:
        if not split.part(part):
            raise ValueError(
                f"split {split.name}: part {part!r} is empty; each of {PARTS} needs ids{hint}"
            )
    return split


def _grouped(name: str, dataset: str) -> Split:
    """``grouped`` or one of its folds: from the package, or computed from the data."""
    if name == "grouped":
        if _listed(dataset) and name in split_names(dataset):
            return parse_split(name, (_FOLDER / dataset / "grouped.csv").read_text())
        from polyp_utils.data.grouping import grouped  # looks at every frame

        return _whole(grouped(dataset), _TOO_FEW)
    rows = _read(dataset, "grouped-folds.csv")
    parts = [tuple(row["id"] for row in rows if row["fold"] == str(k + 1)) for k in range(FOLDS)]
    if not rows:
        from polyp_utils.data.grouping import folds

        parts = folds(dataset, FOLDS)
    test = _FOLD_NAMES.index(name)
    val = (test + 1) % FOLDS
    train = sorted(i for k, ids in enumerate(parts) if k not in (test, val) for i in ids)
    return _whole(Split(name, tuple(train), parts[val], parts[test]), _TOO_FEW)


def known_pairs(dataset: str) -> pd.DataFrame | None:
    """The near-duplicates of a data set, as the package lists them or a search here found them.

    Returns:
        ``id_a``, ``id_b``, ``mirrored``, ``inliers``, ``scale``, ``rotation``; None if no one has
        looked yet.
    """
    rows = _listed_pairs(dataset)
    if rows is None:
        from polyp_utils.data.grouping import cached_pairs  # brings the search's code

        return cached_pairs(dataset)
    import pandas as pd  # slow, and training needs the ids alone

    columns = ["id_a", "id_b", "mirrored", "inliers", "scale", "rotation"]
    table = pd.DataFrame(rows, columns=columns, dtype=object)
    numbers = {"inliers": int, "scale": float, "rotation": float}
    return table.astype(numbers).assign(mirrored=table["mirrored"] == "True")


def _listed_pairs(dataset: str) -> list[dict[str, str]] | None:
    """Rows of the package's `known_pairs`; None if it lists none of the sets."""
    names = [name for name in _sets(dataset) if _listed(name)]
    return [row for name in names for row in _read(name, "pairs.csv")] if names else None


def _known_ids(dataset: str) -> list[tuple[str, str]] | None:
    """The ids of `known_pairs`."""
    rows = _listed_pairs(dataset)
    if rows is not None:
        return [(row["id_a"], row["id_b"]) for row in rows]
    pairs = known_pairs(dataset)
    return None if pairs is None else list(zip(pairs["id_a"], pairs["id_b"], strict=True))


def known_sequences(dataset: str) -> dict[str, str]:
    """Id -> video sequence, where the data set says; else empty."""
    rows = itertools.chain.from_iterable(_read(name, "sequences.csv") for name in _sets(dataset))
    return {row["id"]: row["sequence"] for row in rows}


def _sets(dataset: str) -> tuple[str, ...]:
    """The data set, or those whose frames it joins under their ids."""
    return (CATALOG[dataset].joins if dataset in CATALOG else ()) or (dataset,)


def leaks(split: Split, dataset: str) -> dict[str, tuple[int, int]]:
    """What stands on two sides of a split: for ``pairs`` and ``sequences``, how many of how many.

    Only those that the package knows and that lie wholly within the split count.
    """
    found, pairs = {}, _known_ids(dataset)
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
    """How many test frames other training has seen, and of how many more a near-duplicate.

    Args:
        seen: ids of that training's frames.
        seen_of: the data set that they are of.
        test: ids of the test frames.
        test_of: the data set that they are of.

    Returns:
        Both are 0 where the two data sets share no frames; the second is None where no one has
        looked for near-duplicates.
    """
    if not set(_sets(seen_of)) & set(_sets(test_of)):
        return 0, 0
    before, held_out = set(seen), set(test)
    same, pairs = before & held_out, _known_ids(test_of)
    if pairs is None:
        return len(same), None
    both_ways = [*pairs, *((b, a) for a, b in pairs)]
    return len(same), len({b for a, b in both_ways if a in before and b in held_out - same})


@functools.cache
def _say_leaks(split: Split, dataset: str) -> None:
    """Prints, once in a process, what stands on two sides."""
    said = [f"{n} of {of} {what}" for what, (n, of) in leaks(split, dataset).items() if n]
    if dataset not in CATALOG and known_pairs(dataset) is None:
        print(
            f"split {split.name} is not checked for near-duplicates: `python -m polyp_utils audit "
            f"--dataset {dataset}` looks for them"
        )
    if said:
        print(
            f"split {split.name} leaks: {' and '.join(said)} of {get_info(dataset).title} stand on "
            "both sides of it; split grouped has none there"
        )


def grouped_parts(
    groups: Mapping[str, object], strata: Mapping[str, object], shares: tuple[float, ...], seed: int
) -> list[tuple[str, ...]]:
    """Parts of given shares that keep groups together and are alike in their strata.

    Greedy: the largest groups first, each to the part that lacks its strata most among those with
    room; ties by ``seed``. Sizes are exact as long as there are enough frames of no group.

    Args:
        groups: id -> its group.
        strata: id -> its stratum.
        shares: of the frames, one per part, summing to 1.
        seed: of the order among groups of one size.

    Returns:
        Sorted ids per part.
    """
    members: dict[object, list[str]] = {}
    for frame_id in sorted(groups):
        members.setdefault(groups[frame_id], []).append(frame_id)
    order = np.random.default_rng(seed).permutation(len(members))
    ordered = sorted((list(members.values())[i] for i in order), key=len, reverse=True)
    room = np.array([max(1, round(share * len(groups))) for share in shares[1:]])
    room = np.array([max(1, len(groups) - room.sum()), *room])
    sizes = Counter(strata[i] for i in groups)
    lacking = {stratum: np.array(shares) * count for stratum, count in sizes.items()}
    parts: list[list[str]] = [[] for _ in shares]
    for ids in ordered:
        need = sum(lacking[strata[i]] for i in ids) / np.array(shares)
        fits = room >= min(len(ids), room.max())
        chosen = int(np.where(fits, need, -np.inf).argmax())
        parts[chosen] += ids
        room[chosen] -= len(ids)
        for frame_id in ids:
            lacking[strata[frame_id]][chosen] -= 1
    return [tuple(sorted(ids)) for ids in parts]


def sessile_ids() -> frozenset[str]:
    """The 196 ids of Kvasir-Sessile: small, flat, sessile polyps of Kvasir-SEG."""
    return frozenset((_FOLDER / "kvasir-seg/kvasir-sessile.txt").read_text().split())
