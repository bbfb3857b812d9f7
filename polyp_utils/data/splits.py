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

import functools
import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd

from polyp_utils.config import repo_root, unknown
from polyp_utils.data.catalog import CATALOG, get_info

PARTS = ("train", "val", "test")
FOLDS = 5
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

    def limited(self, count: int) -> "Split":
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

    def to_csv(self) -> str:
        """``id,part`` rows, as `parse_split` reads them."""
        rows = (f"{i},{part}" for part in PARTS for i in self.part(part))
        return "\n".join(("id,part", *rows)) + "\n"


def split_names(dataset: str = "") -> list[str]:
    """Names of the splits in the package: of one data set, or of all."""
    folders = [dataset] if dataset else [f.name for f in _FOLDER.iterdir() if f.is_dir()]
    names = {
        file.name.removesuffix(".csv")
        for folder in folders
        for file in (_FOLDER / folder).iterdir()
        if file.name.endswith(".csv") and file.name not in ("pairs.csv", "sequences.csv")
    }
    if "grouped-folds" in names:
        names = names - {"grouped-folds"} | {f"grouped-fold{k + 1}" for k in range(FOLDS)}
    return sorted(names)


def load_split(name: str, dataset: str = "") -> Split:
    """The split of that name; says once by how much it leaks.

    Args:
        name: of a split in the package, or the path of a CSV file with columns ``id``, ``part``.
        dataset: the data set it is for, a name or a folder; needed for ``grouped`` and its folds.

    Raises:
        ValueError: unknown name, a split of another data set, an id twice, a part that does not
            exist or is empty.
    """
    of = _dataset_of(name, dataset)
    if name.endswith(".csv"):
        split = parse_split(name, _read_file(name))
    elif (text := _packaged(of, f"{name}.csv")) is not None:
        split = parse_split(name, text)
    else:
        split = _grouped(name, of)
    _say_leaks(split, of)
    return split


def _dataset_of(name: str, dataset: str) -> str:
    """The data set of a split: the one asked for, or the only one that has it."""
    homes = [info for info in CATALOG if (_FOLDER / info).is_dir() and name in split_names(info)]
    grouped = name == "grouped" or name.startswith("grouped-fold")
    if dataset and (dataset not in CATALOG or name.endswith(".csv") or dataset in homes):
        if not (homes or grouped or name.endswith(".csv")):
            raise unknown("split", name, split_names())
        return dataset
    if dataset and homes and not grouped:
        known = ", ".join(_known(dataset))
        raise ValueError(f"split {name} is one of {homes[0]}, not of {dataset}: take {known}")
    if grouped and not dataset:
        raise ValueError(f"split {name} exists for every data set: say of which")
    if not homes and not grouped and not name.endswith(".csv"):
        raise unknown("split", name, _known(dataset) if dataset else split_names())
    return dataset or (homes[0] if homes else "")


def _known(dataset: str) -> list[str]:
    if (_FOLDER / dataset).is_dir():
        return split_names(dataset)
    return ["grouped", *(f"grouped-fold{k + 1}" for k in range(FOLDS))]


def _packaged(dataset: str, file: str) -> str | None:
    path = _FOLDER / dataset / file
    return path.read_text() if dataset in CATALOG and path.is_file() else None


def _read_file(name: str) -> str:
    for path in (Path(name).expanduser(), repo_root() / name):
        if path.is_file():
            return path.read_text(encoding="utf-8")
    raise ValueError(f"split {name} is no file: give a CSV with the columns id and part")


def parse_split(name: str, text: str) -> Split:
    """A split from CSV text with the columns ``id`` and ``part``; errors as in `load_split`."""
    table = pd.read_csv(StringIO(text), dtype=str)
    if not {"id", "part"} <= set(table.columns):
        raise ValueError(f"split {name} has columns {list(table)}; it needs id and part")
    for row in table[~table["part"].isin(PARTS)].itertuples():
        raise unknown(f"part of id {row.id} in split {name}", row.part, PARTS)
    for frame_id in table["id"][table["id"].duplicated()]:
        raise ValueError(f"split {name}: id {frame_id} stands in it twice")
    parts = [tuple(table["id"][table["part"] == part]) for part in PARTS]
    for part, ids in zip(PARTS, parts, strict=True):
        if not ids:
            raise ValueError(f"split {name}: part {part!r} is empty; each of {PARTS} needs ids")
    return Split(name, *parts)


def _grouped(name: str, dataset: str) -> Split:
    """``grouped`` or one of its folds: from the package, or computed from the data."""
    text = _packaged(dataset, "grouped-folds.csv")
    if text is None:
        from polyp_utils.data import grouping  # looks at every frame

        if name == "grouped":
            return grouping.grouped(dataset)
        folds = grouping.folds(dataset, FOLDS)
    else:
        table = pd.read_csv(StringIO(text), dtype=str)
        folds = [tuple(table["id"][table["fold"] == str(k + 1)]) for k in range(FOLDS)]
    number = name.removeprefix("grouped-fold")
    if not number.isdigit() or not 1 <= int(number) <= FOLDS:
        raise unknown("split", name, _known(dataset))
    test = int(number) - 1
    val = (test + 1) % FOLDS
    train = sorted(i for k, ids in enumerate(folds) if k not in (test, val) for i in ids)
    return Split(name, tuple(train), folds[val], folds[test])


def known_pairs(dataset: str) -> pd.DataFrame:
    """The near-duplicates of a data set as the package lists them; no rows if it lists none.

    Returns:
        ``id_a``, ``id_b``, ``mirrored``, ``inliers``, ``scale``, ``rotation``.
    """
    text = _packaged(dataset, "pairs.csv")
    columns = ["id_a", "id_b", "mirrored", "inliers", "scale", "rotation"]
    if text is None:
        return pd.DataFrame(columns=columns)
    return pd.read_csv(StringIO(text), dtype={"id_a": str, "id_b": str})


def known_sequences(dataset: str) -> dict[str, str]:
    """Id -> video sequence, where the data set says; else empty."""
    text = _packaged(dataset, "sequences.csv")
    if text is None:
        return {}
    table = pd.read_csv(StringIO(text), dtype=str)
    return dict(zip(table["id"], table["sequence"], strict=True))


def leaks(split: Split, dataset: str) -> dict[str, tuple[int, int]]:
    """What stands on two sides of a split: for ``pairs`` and ``sequences``, how many of how many.

    Only those that the package knows and that lie wholly within the split count.
    """
    part = {i: name for name in PARTS for i in split.part(name)}
    pairs = known_pairs(dataset)
    inside = pairs[pairs["id_a"].isin(part) & pairs["id_b"].isin(part)]
    crossing = (inside["id_a"].map(part) != inside["id_b"].map(part)).sum()
    found = {"near-duplicate pairs": (int(crossing), len(inside))}
    sequences = {i: s for i, s in known_sequences(dataset).items() if i in part}
    found["video sequences"] = split.crossing(sequences).total(), len(set(sequences.values()))
    return {what: numbers for what, numbers in found.items() if numbers[1]}


@functools.cache
def _say_leaks(split: Split, dataset: str) -> None:
    """Prints, once in a process, what stands on two sides."""
    said = [f"{n} of {of} {what}" for what, (n, of) in leaks(split, dataset).items() if n]
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
    room = np.array([round(share * len(groups)) for share in shares[1:]])
    room = np.array([len(groups) - room.sum(), *room])
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
