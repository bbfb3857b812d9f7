"""A split: immutable id lists per part, read from CSV text or built from groups."""

from __future__ import annotations

import csv
import hashlib
import io
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from polyp_utils.common.exceptions import unknown

PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class Split:
    """Frame ids per part, disjoint.

    Attributes:
        name: as requested: a name, or the path of a user's file.
        train: ids of the training part.
        val: of the validation part.
        test: of the test part.
        remark: what was read into a user's file, in words; empty if nothing.
    """

    name: str
    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]
    remark: str = field(default="", compare=False, kw_only=True)

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
        return replace(self, train=self.train[:end], val=self.val[:end], test=self.test[:end])

    def crossing(self, groups: Mapping[str, object]) -> Counter[str]:
        """How many groups cross each combination of parts, such as ``"train and test"``.

        Args:
            groups: id -> anything that identifies its group; ids in no part do not count.
        """
        parts: dict[object, set[str]] = {}
        for part in PARTS:
            for frame_id in self.part(part):
                if frame_id in groups:
                    parts.setdefault(groups[frame_id], set()).add(part)
        several = (found for found in parts.values() if len(found) > 1)
        return Counter(" and ".join(p for p in PARTS if p in found) for found in several)

    def crossing_pairs(self, pairs: Iterable[tuple[str, str]]) -> tuple[Counter[str], int]:
        """How many pairs cross each two parts, such as ``"train and test"``; how many there are.

        Args:
            pairs: pairs of ids; those with an id in no part do not count.
        """
        part = {i: name for name in PARTS for i in self.part(name)}
        inside = [{part[a], part[b]} for a, b in pairs if a in part and b in part]
        apart = (found for found in inside if len(found) > 1)
        return Counter(" and ".join(p for p in PARTS if p in found) for found in apart), len(inside)

    def to_csv(self) -> str:
        """``id,part`` rows, as `parse_split` reads them."""
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(("id", "part"))
        rows.writerows((i, part) for part in PARTS for i in self.part(part))
        return text.getvalue()


def parse_split(name: str, text: str) -> Split:
    """A split from CSV text as the package writes it, see `Split.to_csv`.

    Raises:
        ValueError: other columns, an unknown part, an id that occurs twice, an empty part.
    """
    rows = csv.DictReader(io.StringIO(text, newline=""))
    if not {"id", "part"} <= set(rows.fieldnames or ()):
        raise ValueError(f"split {name} has columns {rows.fieldnames}; it needs id and part")
    part_of: dict[str, str] = {}
    for row in rows:
        frame_id, part = row["id"], row["part"]
        if part not in PARTS:
            raise unknown(f"part of id {frame_id} in split {name}", part, PARTS)
        if frame_id in part_of:
            raise ValueError(f"split {name}: id {frame_id} occurs twice")
        part_of[frame_id] = part
    return whole(Split(name, *(tuple(i for i, p in part_of.items() if p == q) for q in PARTS)))


def whole(split: Split, hint: str = "") -> Split:
    """The split, if none of its parts is empty.

    Raises:
        ValueError: a part is empty; the message ends with ``hint``.
    """
    for part in PARTS:
        if not split.part(part):
            raise ValueError(
                f"split {split.name}: part {part!r} is empty; each of {PARTS} needs ids{hint}"
            )
    return split


def grouped_parts(
    groups: Mapping[str, object], strata: Mapping[str, object], shares: tuple[float, ...], seed: int
) -> list[tuple[str, ...]]:
    """Stratified parts of given shares that keep groups together.

    Greedy: the largest groups first, each to the part that most lacks its strata among those with
    room; ``seed`` breaks ties. Sizes are exact as long as enough frames are alone in their group.

    Args:
        groups: id -> its group.
        strata: id -> its stratum.
        shares: each part's share of the frames, summing to 1.
        seed: seed of the order among groups of equal size.

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
