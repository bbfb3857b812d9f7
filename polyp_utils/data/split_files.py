"""Split files as people have them: a table, JSON, or a list of frames per part.

A table has a column of ids and one of parts, or of folds, or a column of ids per part. Lists lie
beside each other, ``train.txt`` and ``test.txt``. Which frame of the data set an entry means is not
decided here: see :mod:`polyp_utils.data.split_ids`.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from polyp_utils.common.exceptions import DataError, few, unknown
from polyp_utils.data.split import PARTS

_WORDS = {
    "train": ("train", "training", "tr"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "ts"),
}
_PART_OF = {word: part for part, words in _WORDS.items() for word in words}
_ID_COLUMNS = {"id", "name", "path"} | {
    what + word
    for what in ("image", "img", "file", "frame", "case")
    for word in ("", "id", "name", "path", "file")
}
_PART_COLUMNS = {"part", "split", "set", "subset", "partition", "phase"}
_LISTS = (".txt", ".lst", ".csv", ".tsv", ".json")
_MAX_BYTES = 50_000_000  # a million paths
_FORMS = (
    "give a CSV file with the columns id and part, or train.txt and test.txt in one folder with an "
    "id per line"
)


class Entry(NamedTuple):
    """A frame of a part, as a file names it: an id, a file name or a path."""

    text: str
    part: str
    where: str  # file and line


def read_entries(path: Path, fold: str = "") -> tuple[list[Entry], str]:
    """What a split file, or a folder of lists, puts into which part.

    Args:
        path: a table, a JSON file, a folder of lists, or one of these lists.
        fold: of a file with folds, the one to test on; the others are for training.

    Returns:
        The entries in the order of the file, and a remark, if there is something to say.

    Raises:
        DataError: not a split; the message names file and line.
    """
    if path.is_file():
        text = _text(path)
        read = _of_json if path.suffix.lower() == ".json" else _of_table
        if (found := read(path, text, fold)) is not None:
            return found
        if not _named(path)[1]:
            first = text.strip().partition("\n")[0].strip()
            raise DataError(f"{path} begins with {first[:80]!r}, which is no split: {_FORMS}")
    if fold:
        raise _foldless(path, fold)
    lists = _lists_at(path)
    return [entry for part in PARTS if part in lists for entry in _of_list(lists[part], part)], ""


def _text(path: Path) -> str:
    """A file's text: UTF-8 or UTF-16, else of Western Windows."""
    if (size := path.stat().st_size) > _MAX_BYTES:
        raise DataError(f"{path} has {size:,} bytes, too many for a split: {_FORMS}")
    data = path.read_bytes()
    if data.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        raise DataError(f"{path} is a workbook or an archive: save the sheet as CSV (UTF-8)")
    encodings = ["utf-8-sig", "cp1252", "latin-1"]  # the last takes any byte
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encodings = ["utf-16"]
    elif b"\0" in data[:2]:
        encodings = ["utf-16-le" if data[0] else "utf-16-be"]
    for encoding in encodings:
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        if not text.strip():
            raise DataError(f"{path} is empty: {_FORMS}")
        if "\0" not in text:
            return text
    raise DataError(f"{path} is not text: {_FORMS}, saved as UTF-8")


def _part(word: str, where: str, what: str = "part") -> str:
    if (part := _PART_OF.get(word.strip().lower())) is None:
        raise DataError(f"{where}: {unknown(what, word, _PART_OF)}")
    return part


def _foldless(path: Path, fold: str) -> DataError:
    return DataError(f"{path} has no folds: leave out #{fold}")


def _chosen(path: Path, fold: str, folds: Iterable[str]) -> str:
    """The fold to test on, if the file has it."""
    if fold not in (names := list(folds)):
        seen = f"no fold {fold}" if fold else "folds"
        raise DataError(
            f"{path} has {seen} ({few(names)}): name the one to test on, such as "
            f"{path}#{names[0]}; the others are for training"
        )
    return fold


# Tables


def _of_table(path: Path, text: str, fold: str) -> tuple[list[Entry], str] | None:
    """The entries of a table; None if it lacks the columns of a whole split."""
    separator, header = _header(text)
    ids = _column(path, header, _ID_COLUMNS, "id")
    part = _column(path, header, _PART_COLUMNS, "part")
    folds = _column(path, header, {"fold"}, "fold") if part is None else None
    column = folds if part is None else part
    by_part = {i: _PART_OF[name] for i, name in enumerate(map(_plain, header)) if name in _PART_OF}
    if ids is None and len(by_part) > 1:  # a column of ids per part
        rows = _rows(path, text, separator, by_part)
        found = [(row[i], by_part[i], line) for line, row in rows for i in by_part if row[i]]
    elif ids is None or column is None:
        return None
    else:
        found = []
        for line, row in _rows(path, text, separator, (ids, column)):
            if not row[column]:
                what = f"{header[column]} of {row[ids]}"
                raise DataError(f"{path}, line {line}: the {what} is empty: fill it in")
            found.append((row[ids], row[column], line))
    if folds is not None and not any(word.lower() in _PART_OF for _, word, _ in found):
        chosen = _chosen(path, fold, dict.fromkeys(word for _, word, _ in found))
        found = [(id_, "test" if word == chosen else "train", line) for id_, word, line in found]
    elif fold:
        raise _foldless(path, fold)
    entries = []
    for id_, word, line in found:
        where = f"{path.name}, line {line}"
        entries.append(Entry(id_, _part(word, f"{path}, line {line}", f"part of {id_}"), where))
    return entries, ""


def _plain(name: str) -> str:
    """A column's name without what people vary: ``Image ID`` and ``image_id`` are one."""
    return re.sub(r"[\W_]+", "", name.lower())


def _column(path: Path, header: list[str], known: Iterable[str], usual: str) -> int | None:
    """Which column it is, by its name; the usual name wins over the others."""
    names = [_plain(name) for name in header]
    found = [i for i, name in enumerate(names) if name in known]
    if len(found) > 1 and names.count(usual) != 1:
        several = " and ".join(repr(header[i]) for i in found)
        raise DataError(f"{path}: columns {several} may both be the {usual}: call one {usual!r}")
    return names.index(usual) if usual in names and found else found[0] if found else None


def _header(text: str) -> tuple[str, list[str]]:
    """Separator and cells of the first line; of the separators, the one that fits best."""
    lines = (line.strip() for line in io.StringIO(text, newline=None) if not _is_excel(line))
    first = next(line for line in lines if line)
    cells = {mark: [cell.strip(" \"'") for cell in first.split(mark)] for mark in ",;\t"}
    known = {*_ID_COLUMNS, *_PART_COLUMNS, *_PART_OF, "fold"}
    mark = max(cells, key=lambda mark: sum(_plain(cell) in known for cell in cells[mark]))
    return mark, cells[mark]


def _is_excel(line: str) -> bool:
    """Whether a line tells Excel the separator."""
    return re.fullmatch(r"sep=.\s*", line, re.IGNORECASE) is not None


def _rows(
    path: Path, text: str, separator: str, wanted: Iterable[int]
) -> Iterator[tuple[int, list[str]]]:
    """Line numbers and cells below the header; blank rows are left out."""
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=separator, strict=True, skipinitialspace=True
    )
    columns, last, start = 0, max(wanted), 1
    try:
        for row in reader:
            cells, line, start = [cell.strip() for cell in row], start, reader.line_num + 1
            if not any(cells) or _is_excel(separator.join(row)):
                continue
            if not columns:
                columns = len(cells)
            elif len(cells) <= last or any(cells[columns:]) or any("\n" in cell for cell in cells):
                raise DataError(
                    f"{path}, line {line}: {separator.join(row)[:60]!r} has {len(cells)} cells, "
                    f"the header {columns}: put double quotes around an id with a {separator!r}, "
                    "and write one line per frame"
                )
            else:
                yield line, cells
    except csv.Error as error:
        raise DataError(f"{path}, line {start}: {error}: correct the quotes") from error


# Lists per part


def _named(file: Path, digits: bool = False) -> tuple[tuple[str, ...], str]:
    """The words of a list's name but that for its part, and the part; "" if no or several."""
    words = re.findall(r"[^\W_]+" if digits else r"[^\W\d_]+", file.stem.lower())
    parts = [_PART_OF[word] for word in words if word in _PART_OF]
    return tuple(w for w in words if w not in _PART_OF), parts[0] if len(parts) == 1 else ""


def _lists_at(path: Path) -> dict[str, Path]:
    """The lists of a folder, or those beside one of them: part -> file."""
    folder, formats = (path, _LISTS) if path.is_dir() else (path.parent, (path.suffix.lower(),))
    files = [f for f in sorted(folder.iterdir()) if f.suffix.lower() in formats and f.is_file()]
    for digits in (False, True):  # `train_880` and `test_120`; `train_1`, `test_1`, `train_2`, …
        sets: dict[tuple[str, ...], dict[str, list[Path]]] = defaultdict(dict)
        for file in files:
            words, part = _named(file, digits)
            if part and (path.is_dir() or words == _named(path, digits)[0]):
                sets[words].setdefault(part, []).append(file)
        whole = {words: lists for words, lists in sets.items() if len(lists) > 1}
        found = [whole[()]] if () in whole else [*whole.values()]
        if len(found) == 1 and all(len(lists) == 1 for lists in found[0].values()):
            return {part: file for part, (file,) in found[0].items()}
    if found:
        names = few(file.name for part in found for lists in part.values() for file in lists)
        raise DataError(f"{path} holds several sets of lists ({names}): name a file of one set")
    seen = few(file.name for file in files) or "none of them"
    raise DataError(f"{path} needs a list per part, train.txt and test.txt; {folder} has {seen}")


def _of_list(path: Path, part: str) -> list[Entry]:
    """The entries of one part: the lines of a file, a column of a table, or a list in JSON."""
    text = _text(path)
    if path.suffix.lower() == ".json":
        return _items(path, _parsed(path, text), part)
    separator, header = _header(text)
    column = _column(path, header, _ID_COLUMNS, "id")
    if column is None or (path.suffix in (".txt", ".lst") and len(header) == 1):
        whole = enumerate(io.StringIO(text, newline=None), 1)
        lines = ((n, line.strip().strip("\"'")) for n, line in whole)
    else:
        rows = _rows(path, text, separator, (column,))
        lines = ((line, row[column]) for line, row in rows)
    return [Entry(entry, part, f"{path.name}, line {n}") for n, entry in lines if entry]


# JSON


def _of_json(path: Path, text: str, fold: str) -> tuple[list[Entry], str] | None:
    """The entries of a JSON file with a list per part, or with a list of folds."""
    content = _parsed(path, text)
    if isinstance(content, list) and _named(path)[1]:
        return None
    if isinstance(content, list) and content and all(map(_has_lists, content)):
        chosen = _chosen(path, fold, [str(number) for number in range(len(content))])
        content = content[int(chosen)]
    elif fold:
        raise _foldless(path, fold)
    if not isinstance(content, dict):
        raise DataError(f"{path} holds no lists named train and test: {_FORMS}")
    entries = []
    for key, ids in content.items():
        if isinstance(ids, list) or key.strip().lower() in _PART_OF:
            entries += _items(path, ids, _part(key, str(path)), key)
    if not fold or any(entry.part == "test" for entry in entries):
        return entries, ""
    held_out = {"train": "train", "val": "test"}
    remark = f"its test part is the val list of fold {fold}"
    return [entry._replace(part=held_out[entry.part]) for entry in entries], remark


def _has_lists(fold: Any) -> bool:
    return isinstance(fold, dict) and any(isinstance(ids, list) for ids in fold.values())


def _parsed(path: Path, text: str) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"{twice[0]!r} occurs twice in one object")
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not valid JSON: {error}") from error


def _items(path: Path, ids: Any, part: str, key: str = "") -> list[Entry]:
    """The entries of a list in JSON: ids, or objects that hold one."""
    if not isinstance(ids, list):
        raise DataError(f"{path} holds no list of ids{f' as {key}' * bool(key)}: {_FORMS}")
    entries = []
    for number, item in enumerate(ids, 1):
        where = f"{path.name}, {key or part} entry {number}"
        if isinstance(item, dict):
            column = _column(path, list(item), _ID_COLUMNS, "id")
            item = item if column is None else list(item.values())[column]
        if isinstance(item, bool) or not isinstance(item, str | int) or item == "":
            raise DataError(f"{path}, {key or part} entry {number} is {str(item)[:60]}: give an id")
        entries.append(Entry(str(item).strip(), part, where))
    return entries
