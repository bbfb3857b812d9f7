"""Killed commands end like undisturbed ones; the campaign itself notices what goes wrong."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from polyp_utils.common.files import write_csv
from polyp_utils.faults.campaign import Campaign, _key
from polyp_utils.faults.digest import changed_files, digest, unreadable
from polyp_utils.faults.inject import FULL, KILLED, READ_ONLY
from polyp_utils.faults.trial import EQUAL, complaint

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
ROOT = Path(__file__).parents[1]


def test_training_and_publishing_killed_at_changes_on_disk_end_the_same(tmp_path):
    words = ["faults", "--part", "kills", "--command", "train,publish", "--count", "12", "--out"]
    command = [sys.executable, "-m", "polyp_utils", *words, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    table = pd.read_csv(tmp_path / "kills.csv")
    assert len(table) == 12
    assert set(table["command"]) == {"train", "publish"}
    assert set(table["outcome"]) == {"equal"}
    assert set(table["ended"]) == {-9}


WRITE = """
import sys
from pathlib import Path
from PIL import Image
from polyp_utils.common.files import atomic, write_text
from polyp_utils.faults.inject import Fault, install

root, fault = Path(sys.argv[1]), sys.argv[2:]
seen = []
faulty = Fault(fault[0], int(fault[1]), bool(int(fault[2]))) if fault else None
install(root, root, faulty, lambda *change: seen.append(change))
with (root / "plain.txt").open("w") as file:
    file.write("0123456789")
write_text(root / "folder/atomic.txt", "0123456789")
with atomic(root / "image.jpg") as temporary:
    Image.new("RGB", (64, 64), "red").save(temporary, "JPEG")
print(*(" ".join(change) for change in seen), sep="\\n")
"""
CHANGES = ["create plain.txt", "write plain.txt", "mkdir folder"]
CHANGES += ["create folder/.atomic.txt.tmp", "write folder/.atomic.txt.tmp"]
CHANGES += ["rename folder/atomic.txt"]
CHANGES += ["create .image.jpg.tmp", "write .image.jpg.tmp", "rename image.jpg"]


def written(folder, *fault):
    command = [sys.executable, "-c", WRITE, str(folder), *map(str, fault)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_every_change_on_disk_is_counted(tmp_path):
    done = written(tmp_path)
    lines = pd.Series(done.stdout.splitlines()).str.replace(r"\.\d+\.tmp", ".tmp", regex=True)
    assert list(lines) == CHANGES, done.stderr


def test_a_fault_comes_where_it_should(tmp_path):
    assert written(tmp_path, KILLED, 1, 1).returncode == -9
    assert (tmp_path / "plain.txt").read_text() == "01234"
    assert written(tmp_path, KILLED, 5, 0).returncode == -9
    (left,) = (tmp_path / "folder").iterdir()
    assert left.read_text() == "0123456789"
    full = written(tmp_path, FULL, 4, 0).stderr.splitlines()[-1]
    path = tmp_path / "folder/atomic.txt"
    assert full.endswith(
        f"WriteError: {path} cannot be written (No space left on device): free some space, then "
        "give the same command again; what was finished is kept"
    )
    assert len([*(tmp_path / "folder").iterdir()]) == 1  # that of the process killed before
    closed = written(tmp_path, READ_ONLY, 3, 0).stderr.splitlines()[-1]
    assert "(Read-only file system): make its folder writable or name another one" in closed


def test_a_digest_sees_all_but_times(tmp_path):
    for name, seconds, value in (("one", 1, 0.25), ("other", 2, 0.25), ("third", 1, 0.26)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "a.json").write_text(f'{{"seconds": {seconds}, "rows": [{{"dice": {value}}}]}}')
        (folder / "a.csv").write_text(f"id,seconds,dice\nx,{seconds},{value}\n")
    one, other, third = (digest(tmp_path / name) for name in ("one", "other", "third"))
    assert changed_files(one, other) == []
    assert changed_files(one, third) == ["a.csv", "a.json"]
    assert changed_files(one, {}) == ["a.csv", "a.json"]
    (tmp_path / "one/a.csv").write_text("id,seconds,dice\nx,1")
    assert "a row is not whole" in unreadable(tmp_path / "one/a.csv")
    assert unreadable(tmp_path / "one/a.json") == ""


@pytest.mark.parametrize(
    ("said", "wrong"),
    [
        ("warning\nerror: a/b.csv cannot be written (full): free some space", ""),
        ("error: [Errno 28] No space left on device", "names no file"),
        ("error: [Errno 28] No space left on device: 'a/b.csv'", "names no file"),
        ("Traceback (most recent call last):\nerror: a is b: do c", "more than one line"),
        ("finished", "more than one line"),
    ],
)
def test_what_a_message_must_say(said, wrong):
    assert wrong in complaint(said)
    assert bool(wrong) == bool(complaint(said))


FORKED = """
import sys, time
from pathlib import Path
from polyp_utils.faults.children import run_forked, wait_at

output, pause = Path("said.txt"), Path("pause")
print(run_forked(lambda: print("hello") or 3, output)[:2])
failed = run_forked(lambda: 1 // 0, output)
print(failed.code, failed.said.splitlines()[-1])
print(run_forked(lambda: time.sleep(60), output, kill_after=0.05).code)
done = []
ended = run_forked(lambda: wait_at(pause) or 0, output, pause=pause, deed=lambda: done.append(1))
print(ended.code, done)
print(run_forked(lambda: 5, output, pause=pause, deed=lambda: done.append(2)).code, done)
"""


def test_a_child_may_fail_be_killed_and_wait(tmp_path):
    command = [sys.executable, "-c", FORKED]
    path = {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | path, capture_output=True, text=True
    )
    said = ["(3, 'hello\\n')", "70 ZeroDivisionError: integer division or modulo by zero", "-9"]
    assert done.stdout.splitlines() == [*said, "0 [1]", "5 [1]"], done.stderr


def test_a_campaign_goes_on_where_it_was_stopped(tmp_path):
    class Stopped(Exception):
        pass

    def suffer(row, disk):
        if len(suffered) == 3:
            raise Stopped
        suffered.append(row["seed"])
        return row | {"outcome": EQUAL}

    command = SimpleNamespace(name="train")
    trials = SimpleNamespace(commands=[command], suffer=suffer)
    suffered = []
    campaign = Campaign(tmp_path, trials)
    with pytest.raises(Stopped):
        campaign.run_part("moments", 5)
    suffered.clear()
    table = campaign.run_part("moments", 5)
    assert suffered == [3, 4]
    assert list(table["seed"]) == [0, 1, 2, 3, 4]


def test_a_share_of_nought_is_known_again_from_its_table(tmp_path):
    trials = SimpleNamespace(commands=[SimpleNamespace(name="train", under="")])
    (row, *_) = Campaign(tmp_path, trials).disk()
    write_csv(tmp_path / "disk.csv", [row])
    (again,) = pd.read_csv(tmp_path / "disk.csv").to_dict("records")
    assert _key(again) == _key(row)
