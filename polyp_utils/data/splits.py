"""Published and seeded splits: immutable id lists, one CSV (``id,part``) each.

``random-800-s42``: 800/100/100 of Kvasir-SEG's sorted ids, permuted by
``numpy.random.default_rng(42)``; the model card names the sizes, not the lists.
``official-880`` and ``pranet-kvasir`` (Kvasir-SEG), ``pranet-clinicdb`` (CVC-ClinicDB) are
published train and test lists. They have no validation part: 10 % of train was drawn once (the
same generator; whole sequences in ClinicDB) and the test list is untouched.
``phantom-240``: 240/60/60 in the order of the index.
``kvasir-sessile.txt`` is no split but the 196 ids of Kvasir-Sessile.
"""

import csv
import hashlib
from dataclasses import dataclass
from importlib import resources

from polyp_utils.config import unknown

PARTS = ("train", "val", "test")
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


def split_names() -> list[str]:
    """Names of the splits in the package."""
    return sorted(f.name[:-4] for f in _FOLDER.iterdir() if f.name.endswith(".csv"))


def load_split(name: str) -> Split:
    """The split of that name.

    Raises:
        ValueError: unknown name, an id twice, a part that does not exist or is empty.
    """
    if name not in split_names():
        raise unknown("split", name, split_names())
    return parse_split(name, (_FOLDER / f"{name}.csv").read_text())


def parse_split(name: str, text: str) -> Split:
    """A split from CSV text with the columns ``id`` and ``part``; errors as in `load_split`."""
    parts: dict[str, list[str]] = {part: [] for part in PARTS}
    seen: dict[str, str] = {}
    for row in csv.DictReader(text.splitlines()):
        if row["part"] not in PARTS:
            raise unknown(f"part of id {row['id']} in split {name}", row["part"], PARTS)
        if row["id"] in seen:
            raise ValueError(f"split {name}: id {row['id']} stands in it twice")
        seen[row["id"]] = row["part"]
        parts[row["part"]].append(row["id"])
    empty = [part for part in PARTS if not parts[part]]
    if empty:
        raise ValueError(f"split {name}: part {empty[0]!r} is empty; each of {PARTS} needs ids")
    return Split(name, *(tuple(parts[part]) for part in PARTS))


def sessile_ids() -> frozenset[str]:
    """The 196 ids of Kvasir-Sessile: small, flat, sessile polyps of Kvasir-SEG."""
    return frozenset((_FOLDER / "kvasir-sessile.txt").read_text().split())
