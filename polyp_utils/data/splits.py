"""The package's splits: immutable id lists, one CSV (``id,part``) each in ``splits/<data set>/``.

They are published, or drawn once with numpy's ``default_rng(42)``:

- ``random-800-s42``: 800/100/100 of Kvasir-SEG's sorted ids, permuted; the model card names the
  sizes, not the lists.
- ``official-880``, ``pranet-kvasir`` (Kvasir-SEG), ``pranet-clinicdb`` (CVC-ClinicDB): published
  train and test lists. They have no validation part, so 10 % of train was drawn for it (whole
  sequences in ClinicDB); the test list is untouched.
- ``sklearn-42``: the "80/10/10" of ResUNet++ and FCBFormer, scikit-learn's ``train_test_split``
  with ``random_state=42`` twice on the sorted ids (100 for test, then 100 for validation).
- ``grouped``: 80/10/10 that no near-duplicate pair and no sequence crosses, stratified by polyp
  area and kind; ``grouped-fold1`` … ``grouped-fold5`` are its cross-validation: each fifth is the
  test part of one fold and the validation part of the fold before. For a user's own folder both
  are computed from its frames alone.
- ``phantom-240``: 240/60/60 in the order of the index.

A user's own split is read from a file or folder, see :mod:`polyp_utils.data.split_files`.
"""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

from polyp_utils.common.exceptions import DataError, unknown
from polyp_utils.common.paths import repo_root
from polyp_utils.data.catalog import CATALOG, get_info
from polyp_utils.data.known import FOLDER, is_listed, known_ids, leaks, listed_table
from polyp_utils.data.split import PARTS, Split, parse_split, whole
from polyp_utils.data.split_files import read_entries
from polyp_utils.data.split_ids import match_entries

_LACKING = {
    "train": "name the frames to learn from train",
    "val": "add one, or name the data set: a tenth of the training part is then drawn for it",
    "test": (
        "scores are of frames that neither training nor the choice of its settings has seen. If "
        "nothing is chosen on val, name it test, and a validation part is drawn from train; else "
        "add frames for test"
    ),
}
FOLDS = 5
_FOLD_NAMES = [f"grouped-fold{k + 1}" for k in range(FOLDS)]
_TOO_FEW = (
    ". Too few groups of frames that show different places: give your own split, a CSV file with "
    "the columns id and part, or more frames"
)


def split_names(dataset: str = "") -> list[str]:
    """Names of the splits of one data set, or of all splits that the package lists."""
    if dataset and not is_listed(dataset):
        return ["grouped", *_FOLD_NAMES]
    names = {
        file.name.removesuffix(".csv")
        for folder in ([FOLDER / dataset] if dataset else FOLDER.iterdir())
        for file in (folder.iterdir() if folder.is_dir() else ())
        if file.name.endswith(".csv") and file.name not in ("pairs.csv", "sequences.csv")
    }
    if "grouped-folds" in names:
        names = names - {"grouped-folds"} | set(_FOLD_NAMES)
    return sorted(names)


def load_split(name: str, dataset: str = "") -> Split:
    """The split of that name.

    Args:
        name: name of a split; or the path of a user's: a table of ids and parts (CSV), a folder
            with a list per part (``train.txt``, ``test.txt``), or JSON. ``FILE#2`` tests on fold 2
            of a file with folds. Ids may be file names, paths, or lack their leading zeros, as long
            as one frame of the data set fits. A validation part that is missing is drawn: a tenth
            of the training part, whole groups of near-duplicates and sequences.
        dataset: the data set it is for, a name or a folder. Without one, only splits of the package
            and whole files with ids as they stand can be read.

    Returns:
        The split; its ``remark`` says what was matched or drawn.

    Raises:
        ValueError: unknown name, a split of another data set, a duplicate id, an unknown or empty
            part.
        DataError: a file that is no split of the data set; the message names file and line.
        FileNotFoundError: no such file, or the data set is not here.
    """
    if name not in ("grouped", *_FOLD_NAMES, *split_names()) and (found := _find(name)):
        return _own(name, *found, dataset)
    if name not in ("grouped", *_FOLD_NAMES):
        path = FOLDER / _home(name, dataset) / f"{name}.csv"
        return parse_split(name, path.read_text(encoding="utf-8"))
    if not dataset:
        raise ValueError(f"split {name} exists for every data set: name the data set")
    return _grouped(name, dataset)


def leak_warning(split: Split, dataset: str) -> str:
    """Warns that a split leaks, or that it has not been checked; empty if it does not leak."""
    found = leaks(split, dataset)
    crossing = [f"{n} of {of} {what}" for what, (n, of) in found.items() if n]
    if crossing:
        return (
            f"split {split.name} leaks: {' and '.join(crossing)} of {get_info(dataset).title} "
            "cross it; split grouped has none"
        )
    if known_ids(dataset) is None:
        return (
            f"split {split.name} is not checked for near-duplicates: `python -m polyp_utils audit "
            f"--dataset {shlex.quote(dataset)}` looks for them"
        )
    return ""


def _home(name: str, dataset: str) -> str:
    """The data set that the package lists a split for; a folder may hold a copy of any of them."""
    homes = [known for known in CATALOG if is_listed(known) and name in split_names(known)]
    if not homes:
        raise unknown("split", name, split_names(dataset))
    if dataset in CATALOG and dataset not in homes:
        known = ", ".join(split_names(dataset))
        raise ValueError(f"split {name} belongs to {homes[0]}, not to {dataset}: use {known}")
    return homes[0]


def _find(name: str) -> tuple[Path, str] | None:
    """The file or folder of a user's split, and the fold after ``#``; None: it is just a name."""
    without, _, fold = name.rpartition("#") if "#" in name else (name, "", "")
    for given, chosen in ((name, ""), (without, fold)):
        for path in (Path(given).expanduser(), repo_root() / given):
            if given and path.exists():
                return path, chosen
    if Path(without).suffix or len(Path(without).parts) > 1:
        raise FileNotFoundError(
            f"split {name} is not a file or folder: give a CSV with the columns id and part, a "
            "folder with train.txt and test.txt, or the name of a split"
        )
    return None


def _own(name: str, path: Path, fold: str, dataset: str) -> Split:
    """A user's split, with ids as the data set has them."""
    entries, said = read_entries(path, fold)
    info = get_info(dataset) if dataset else None
    ids: tuple[str, ...] = ()
    if info:
        from polyp_utils.data.sources import open_source  # imports what decodes frames

        ids = open_source(info, strict=False).ids
    split, matched = match_entries(name, entries, ids, info.title if info else "")
    if not entries:
        raise DataError(f"{path} names no frames: give at least a train and a test part")
    remarks = [text for text in (said, matched) if text]
    missing = [part for part in PARTS if not split.part(part)]
    if missing == ["val"] and dataset:
        from polyp_utils.data.grouping import with_validation  # looks at every frame

        split = whole(with_validation(split, dataset), _TOO_FEW)
        remarks.append(
            f"it has no validation part, so {len(split.val)} of {len(split.train + split.val)} "
            "training frames are it, drawn with seed 42, near-duplicates and sequences together"
        )
    elif missing:
        sizes = ", ".join(f"{part} {len(split.part(part))}" for part in PARTS)
        raise DataError(
            f"split {name} has no {missing[-1]} part ({sizes}): {_LACKING[missing[-1]]}"
        )
    return replace(split, remark=f"split {name}: {'; '.join(remarks)}" if remarks else "")


def _grouped(name: str, dataset: str) -> Split:
    """``grouped`` or one of its folds: from the package, or computed from the data."""
    if name == "grouped":
        if is_listed(dataset) and name in split_names(dataset):
            return parse_split(name, (FOLDER / dataset / "grouped.csv").read_text())
        from polyp_utils.data.grouping import grouped  # looks at every frame

        return whole(grouped(dataset), _TOO_FEW)
    rows = listed_table(dataset, "grouped-folds.csv")
    parts = [tuple(row["id"] for row in rows if row["fold"] == str(k + 1)) for k in range(FOLDS)]
    if not rows:
        from polyp_utils.data.grouping import folds

        parts = folds(dataset, FOLDS)
    test = _FOLD_NAMES.index(name)
    val = (test + 1) % FOLDS
    train = sorted(i for k, ids in enumerate(parts) if k not in (test, val) for i in ids)
    return whole(Split(name, tuple(train), parts[val], parts[test]), _TOO_FEW)
