"""``.ci/gpu`` on the CPU: runs side by side, ends in time, packs runs that can be used again."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from polyp_utils import cli
from polyp_utils.bench.run import COLUMNS
from polyp_utils.common.files import write_json
from polyp_utils.model.unet import UNet
from polyp_utils.model.weights import load_weights, read_metadata, save_weights
from polyp_utils.runs.run import Run

SCRIPT = Path(__file__).parents[1] / ".ci/gpu"
# Neither ends before both have started; the first leaves a process behind.
MEET = """
import pathlib, subprocess, sys, time
pathlib.Path({mine!r}).touch()
if {leaves}:
    print(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(999)"]).pid)
while not pathlib.Path({other!r}).exists():
    time.sleep(0.01)
"""
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX process groups")


@pytest.fixture(scope="module")
def script():
    module = ModuleType("gpu")
    module.__file__ = str(SCRIPT)
    exec(compile(SCRIPT.read_text(), SCRIPT, "exec"), module.__dict__)
    return module


def test_jobs_run_side_by_side_and_leave_no_process(script, tmp_path, capsys):
    one, other, logs = tmp_path / "one", tmp_path / "other", tmp_path / "logs"
    logs.mkdir()
    programs = {
        "a": MEET.format(mine=str(one), other=str(other), leaves=True),
        "b": MEET.format(mine=str(other), other=str(one), leaves=False),
        "c": "print('why it fails'); raise SystemExit(3)",
    }
    wanted = [(name, ["-c", program]) for name, program in programs.items()]
    jobs = script.stage(wanted, logs, time.monotonic() + 100, 1)
    assert [job.state for job in jobs] == ["done", "done", "failed"]
    assert "    why it fails" in capsys.readouterr().out
    left_behind = Path(f"/proc/{int(jobs[0].said())}/stat")
    while left_behind.exists() and left_behind.read_text().split()[2] != "Z":  # until it is dead
        time.sleep(0.01)


def test_a_job_that_hangs_is_killed(script, tmp_path):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # the job inherits it
    try:
        hangs = [("hangs", ["-c", "import time; time.sleep(999)"])]
        (job,) = script.stage(hangs, tmp_path, time.monotonic(), 0.3)
    finally:
        signal.signal(signal.SIGINT, before)
    assert job.state == "stopped"
    assert job.process.returncode == -signal.SIGKILL


def test_runs_are_packed_in_parts_from_which_they_can_be_used(script, tmp_path, trained_like):
    results, out = tmp_path / "results", tmp_path / "out"
    out.mkdir()
    model = trained_like()
    model.encoder[0][1].running_var[0] = 1e5  # more than float16 can hold
    save_weights(results / "run/model.safetensors", model, {"epoch": 3})
    (results / "run/predictions/test").mkdir(parents=True)
    (results / "run/predictions/test/a.png").write_bytes(b"pixels" * 9999)
    (results / "run/.lock").touch()
    said = script.pack([results / "run"], results, script.Parts(out, 50_000), time.monotonic() + 99)
    parts = sorted(out.iterdir())
    assert said == f"packed 2 of 2 files in {len(parts)} parts under {out}"
    assert [path.name for path in parts] == [f"runs.tar.{i:02}" for i in range(len(parts))]
    assert {path.stat().st_size for path in parts[:-1]} == {50_000}
    with tarfile.open(fileobj=io.BytesIO(b"".join(path.read_bytes() for path in parts))) as tar:
        names = tar.getnames()
        tar.extractall(tmp_path / "back", filter="data")
    assert names == ["run/predictions/test/a.png", "run/model.safetensors"]
    back = tmp_path / "back/run"
    assert (back / "predictions/test/a.png").read_bytes() == b"pixels" * 9999
    dtypes = {tensor.dtype for tensor in load_file(back / "model.safetensors").values()}
    assert dtypes == {torch.float16, torch.float32, torch.int64}
    assert read_metadata(back / "model.safetensors") == {"epoch": 3}
    loaded = load_weights(UNet(width=4), back / "model.safetensors").state_dict()
    for key, value in model.state_dict().items():
        torch.testing.assert_close(loaded[key], value, rtol=2**-11, atol=2**-25)  # of float16


def test_runs_keep_the_order_of_the_commands_and_unaveraged_weights_come_last(script, tmp_path):
    for name in ("a", "b"):
        for file in ("config.json", "model.safetensors", "unaveraged.safetensors"):
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / file).touch()
    runs = script.runs_of(tmp_path, time.time() + 60, "b: 9 frames\na: 9 frames\n")
    files = sorted((path for run in runs for path in script.contents(run)), key=script._turn)
    assert [path.parent.name for path in files[2:]] == ["b", "a", "b", "a"]
    assert [path.stem for path in files[2:]] == ["model"] * 2 + ["unaveraged"] * 2


def test_it_is_said_if_there_was_no_time_to_pack(script, tmp_path):
    (tmp_path / "a").touch()
    said = script.pack([tmp_path], tmp_path, script.Parts(tmp_path, 50_000), time.monotonic() - 1)
    assert said.startswith("packed 0 of 1 files")


def test_an_unfinished_run_says_how_far_it_got(script, tmp_path):
    run = tmp_path / "run"
    write_json(run / "config.json", {"settings": {"epochs": 5}})
    assert script.run_row(run) == ("run run", "unfinished", "", "0 of 5 epochs are saved")
    (run / "history.csv").write_text("epoch\n1\n2\n")
    assert script.run_row(run) == ("run run", "unfinished", "", "2 of 5 epochs are saved")
    assert script.runs_of(tmp_path, time.time() - 60, "") == [run]
    assert script.runs_of(tmp_path, time.time() + 60, "run-2 is new") == []
    assert script.runs_of(tmp_path, time.time() + 60, "run is finished") == [run]


def test_the_benchmark_is_called_and_read_with_its_real_interface(script, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setitem(cli._VERBS, "bench", lambda **options: asked.append(options))
    assert cli.main(script.BENCH[2:]) == 0
    assert (asked[0]["widths"], asked[0]["cost"]) == ("64,32", False)
    rows = [
        ("training", "plain, training", 64, 256, 8, 120.4, 120, 121, 3, "images/s"),
        ("training", "ours, training", 64, 256, 8, 655.2, 650, 660, 3, "images/s"),
        ("training", "ours, peak memory", 64, 256, 8, 2200, 2200, 2200, 1, "MiB"),
    ]
    pd.DataFrame(rows, columns=COLUMNS).to_csv(tmp_path / "bench.csv", index=False)
    expected = "width 64 plain 120 images/s, width 64 ours 655 images/s"
    assert script.bench_row(tmp_path) == ("benchmark", "measured", "", expected)


def call(tmp_path, results, *words):
    """Runs the script as a user does; returns its exit code, output, and the cells of its table."""
    environment = {**os.environ, "OUT": str(tmp_path / "out"), "POLYP_RESULTS": str(results)}
    command = [sys.executable, str(SCRIPT), *words]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert not done.stderr
    head, table = done.stdout.split("\nwhat  ")
    return done.returncode, head, [re.split(r"  +", row) for row in table.splitlines()[1:]]


def test_what_there_is_no_time_for_is_not_started(tmp_path, results):
    code, head, table = call(tmp_path, results, "20", "--tests", "--bench")
    assert code == 1
    assert "; commit " in head.splitlines()[0]
    assert [row[:2] for row in table] == [
        [what, "not started"] for what in ("bench", "tests for a GPU", "other tests")
    ]


def test_commands_become_runs_and_a_table(tmp_path, results, dataset):  # `dataset`: in the cache
    train = "train --recipe quick --limit 12 --epochs 1 --width 4 --image-size 32"
    code, head, table = call(tmp_path, results, "300", "--part-mib=0.1", train, "trian")
    (run,) = (Run(path.parent) for path in results.glob("*/training.json"))
    training = run.training
    assert code == 1
    assert "trian: failed after" in head
    assert "invalid choice: 'trian'" in head
    assert [row[:2] for row in table] == [
        [train, "done"],
        ["trian", "failed"],
        [f"run {run.name}", "finished"],
    ]
    assert f"{training['images_per_second']:.0f} images/s" in table[-1][-1]
    score = training["kept_at_network_size"]["test"]["polyp_dice"]
    assert table[-1][-1].endswith(f"test {score:.3f}")
    content = b"".join(path.read_bytes() for path in sorted((tmp_path / "out").iterdir()))
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        tar.extractall(tmp_path / "back", filter="data")
    assert json.loads((tmp_path / "back" / run.name / "training.json").read_text()) == training
    assert (tmp_path / "back/gpu/table.txt").read_text().count("\n") == 4
