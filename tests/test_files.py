"""Atomic writes: the old file or the new one, never part of one, and no leftovers."""

import errno
import json
import os
import subprocess
import sys

import pandas as pd
import pytest

from polyp_utils.common.exceptions import WriteError
from polyp_utils.common.files import (
    atomic,
    read_csv,
    remove_leftovers,
    write_csv,
    write_json,
    writing,
)


def contents(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_the_file_changes_at_the_end_and_at_once(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with atomic(path) as temporary:
        assert temporary.parent == tmp_path  # renaming works only within a file system
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert contents(tmp_path) == {"file.txt": "new"}


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_error_keeps_the_old_file_and_leaves_no_other(tmp_path, error):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def fail_after_writing():
        with atomic(path) as temporary:
            temporary.write_text("half")
            raise error("disk full")

    with pytest.raises(error, match="disk full"):
        fail_after_writing()
    assert contents(tmp_path) == {"file.txt": "old"}


def test_an_error_before_anything_is_written_is_raised(tmp_path):
    def fail_at_once():
        with atomic(tmp_path / "file.txt"):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_at_once()
    assert contents(tmp_path) == {}


def test_a_rename_that_fails_leaves_no_temporary_file(tmp_path):
    folder = tmp_path / "taken"
    folder.mkdir()
    with pytest.raises(OSError, match="taken"):
        write_json(folder, {})
    assert list(tmp_path.iterdir()) == [folder]


def test_json_round_trips_and_its_folder_is_made(tmp_path):
    values = {"name": "Kvasir – ü", "list": [1, 2.5, None], "nested": {"yes": True}}
    path = tmp_path / "a" / "b" / "values.json"
    write_json(path, values)
    text = path.read_text(encoding="utf-8")
    assert json.loads(text) == values
    assert text.endswith("}\n")


def test_values_that_are_not_json_keep_the_old_file(tmp_path):
    path = tmp_path / "values.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_json(path, {"a": {1, 2}})
    assert contents(tmp_path) == {"values.json": '{\n  "a": 1\n}\n'}


def test_a_table_round_trips(tmp_path):
    table = pd.DataFrame({"id": ["a", "b"], "dice": [1 / 3, None], "n": [1, 20_000_000]})
    write_csv(tmp_path / "new/table.csv", table)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "new/table.csv"), table, atol=1e-6)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["table.csv"]


def test_ids_that_look_like_values_stay_text(tmp_path):
    ids = ["NA", "1e5", "001", "None", "nan", "true", "", "a,b"]
    table = pd.DataFrame({"id": ids, "dice": [0.5, None] * 4, "note": ["x", None] * 4})
    write_csv(tmp_path / "table.csv", table)
    found = read_csv(tmp_path / "table.csv", "id", "none such")
    assert found["id"].tolist() == ids
    assert found["dice"].isna().tolist() == found["note"].isna().tolist() == [False, True] * 4
    assert found["dice"].dtype == float


@pytest.mark.parametrize(
    ("code", "cure"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EROFS, "make its folder writable or name another one"),
        (errno.EACCES, "make its folder writable or name another one"),
    ],
)
def test_a_disk_that_refuses_is_named_with_what_to_do(tmp_path, code, cure):
    path = tmp_path / "file.pt"
    words = rf"{path} cannot be written \({os.strerror(code)}\): {cure}, then give the same command"
    for error in (OSError(code, os.strerror(code)), OSError(code, os.strerror(code), tmp_path)):
        with pytest.raises(WriteError, match=words), atomic(path):
            raise error
    hidden = RuntimeError("unexpected pos 704")  # as PyTorch says it
    hidden.__context__ = OSError(code, os.strerror(code))
    with pytest.raises(WriteError, match=words), atomic(path):
        raise hidden
    assert list(tmp_path.iterdir()) == []


def test_errors_of_other_files_and_kinds_stay_what_they_are(tmp_path):
    other = OSError(errno.EACCES, "Permission denied", str(tmp_path / "frame.png"))
    with pytest.raises(PermissionError, match=r"frame\.png"), writing(tmp_path / "file.pt"):
        raise other
    with pytest.raises(RuntimeError, match="shape"), writing(tmp_path / "file.pt"):
        raise RuntimeError("shape")


@pytest.mark.skipif(os.name == "nt", reason="Windows refuses to remove open files by itself")
def test_leftovers_are_removed_unless_their_process_runs(tmp_path):
    words = [sys.executable, "-c", "import os; print(os.getpid())"]
    dead = int(subprocess.run(words, capture_output=True, check=True).stdout)
    left = tmp_path / f".table.csv.{dead}.tmp"
    kept = tmp_path / f".table.csv.{os.getpid()}.tmp"
    for path in (left, kept):
        path.touch()
    remove_leftovers(tmp_path.glob(".*.tmp"))
    assert list(tmp_path.iterdir()) == [kept]
