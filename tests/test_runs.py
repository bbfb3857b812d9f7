"""The run folder: atomic, faithful, rejects other settings and data."""

import os
import shutil
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from polyp_utils.common.config import RELEASED, RunConfig
from polyp_utils.common.exceptions import RunError
from polyp_utils.common.files import write_json
from polyp_utils.data.labels import get_scheme
from polyp_utils.runs import archive
from polyp_utils.runs import run as run_module
from polyp_utils.runs.run import Run, find_run, list_runs
from polyp_utils.train import start
from polyp_utils.train.start import git_commit, open_run

CONFIG = RunConfig.from_recipe("quick", epochs=2, lr=0.001)
PRINTS = {"data": "d1", "split_ids": "s1"}


@pytest.fixture(autouse=True)
def no_published_runs(monkeypatch, tmp_path):
    """These tests must not depend on what the repository publishes."""
    for module in (run_module, start):
        monkeypatch.setattr(module, "repo_root", lambda: tmp_path / "repository")


def finished(folder, time, **values):
    if not (folder / "config.json").is_file():
        write_json(folder / "config.json", {"settings": {}})
    write_json(folder / "training.json", {"finished": f"2026-01-01T00:00:{time:02}", **values})
    return Run(folder)


def opened(*arguments):
    with open_run(*arguments) as run:
        return run


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def settled(path):
    """A run at 32 px that has its settings alone."""
    write_json(path / "config.json", {"settings": RunConfig(image_size=32).to_dict()})
    return Run(path)


@pytest.mark.parametrize(("scheme", "mode"), [("binary", "L"), ("trimap", "LA")])
def test_probabilities_round_trip_within_one_level(tmp_path, scheme, mode):
    scheme, run = get_scheme(scheme), settled(tmp_path)
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(len(scheme.classes), 32, 32, generator=generator)
    probabilities = logits.softmax(dim=0)
    run.save_probabilities("val", "frame", probabilities)
    stored = run.probabilities("val", "frame", scheme)
    two_roundings = 1 / 255 + 1e-6  # the background is the remainder of two classes
    torch.testing.assert_close(stored, probabilities, rtol=0, atol=two_roundings)
    with Image.open(tmp_path / "predictions/val/frame.png") as image:
        assert (image.mode, image.size) == (mode, (32, 32))


def test_a_missing_prediction_is_named(tmp_path):
    with pytest.raises(RunError, match=r"test/frame-9.png is missing.* no prediction of frame-9"):
        Run(tmp_path).probabilities("test", "frame-9", get_scheme("trimap"))


def packed(run, name="test"):
    archive.pack(run.path / "predictions" / name, run.archive_path(name))
    shutil.rmtree(run.path / "predictions" / name)
    return run.archive_path(name)


def noise(seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, 32, 32, generator=generator).softmax(dim=0)


def test_packed_predictions_are_read_like_single_ones(tmp_path):
    run, scheme = settled(tmp_path), get_scheme("trimap")
    for seed, frame_id in enumerate(("b", "a/1", "c")):  # some ids name a folder
        run.save_probabilities("test", frame_id, noise(seed))
    single = {i: run.probabilities("test", i, scheme) for i in ("a/1", "b", "c")}
    files = {i: run.prediction_path("test", i).read_bytes() for i in single}
    with zipfile.ZipFile(packed(run)) as file:
        assert file.namelist() == ["a/1.png", "b.png", "c.png"]
        assert {i: file.read(f"{i}.png") for i in files} == files
        assert {entry.date_time[0] for entry in file.infolist()} == {1980}
    for frame_id, expected in single.items():
        assert torch.equal(run.probabilities("test", frame_id, scheme), expected)
    with pytest.raises(RunError, match=r"test\.zip holds no d\.png"):
        run.probabilities("test", "d", scheme)


def test_the_same_predictions_make_the_same_archive(tmp_path):
    archives = []
    for name, order in (("one", "abc"), ("other", "cab")):
        run = Run(tmp_path / name)
        for frame_id in order:
            run.save_probabilities("test", frame_id, noise(ord(frame_id)))
            os.utime(run.prediction_path("test", frame_id), (len(archives) * 1e9,) * 2)
        archives.append(packed(run).read_bytes())
    assert archives[0] == archives[1]


@pytest.mark.parametrize("damage", ["cut", "flipped", "no zip"])
def test_a_damaged_archive_is_named(tmp_path, damage):
    run = settled(tmp_path)
    run.save_probabilities("test", "a", noise(0))
    path = packed(run)
    content = bytearray(path.read_bytes())
    content[200] ^= 255  # within the picture
    path.write_bytes({"cut": content[:-9], "flipped": content, "no zip": b"x"}[damage])
    with pytest.raises(RunError, match=r"test\.zip is damaged .*fetch it again"):
        run.probabilities("test", "a", get_scheme("trimap"))


def test_a_published_run_says_where_its_validation_part_is(tmp_path):
    run = Run(tmp_path)
    run.save_probabilities("test", "a", noise(0))
    packed(run)
    with pytest.raises(RunError, match="keeps only counts for its validation part; the command"):
        run.probabilities("val", "b", get_scheme("trimap"))


def test_figures_with_frames_are_jpeg_and_charts_png(tmp_path):
    run, pixels = Run(tmp_path), np.zeros((8, 8, 3), np.uint8)
    for name, show in (("chart", pixels[..., 0]), ("frame", pixels)):
        figure, axes = plt.subplots()
        axes.imshow(show)
        run.save_figure(name, figure)
    kinds = {path.name: Image.open(path).format for path in (tmp_path / "figures").iterdir()}
    assert kinds == {"chart.png": "PNG", "frame.jpg": "JPEG"}


def test_data_may_move_if_they_stay_the_same(results, tmp_path, capsys):
    here, there = str(tmp_path / "a/mine"), str(tmp_path / "b/mine")
    for place in (here, there):
        run = opened(replace(CONFIG, dataset=place, split="grouped"), PRINTS, "a machine")
        assert run.config.dataset == place
        (run.path / "history.csv").write_text("epoch\n1\n")
    assert f"its data are recorded as being at {there} now" in capsys.readouterr().out
    finished(run.path, 1)
    opened(replace(CONFIG, dataset=here, split="grouped"), PRINTS, "a machine")
    assert run.config.dataset == here
    with pytest.raises(RunError, match=f"dataset is '{here}' there and '{there}' now; data is"):
        opened(replace(run.config, dataset=there), {**PRINTS, "data": "d2"}, "a machine")


def test_the_record_holds_settings_fingerprints_versions_and_commit(results):
    run = opened(CONFIG, PRINTS, "a machine")
    assert run.path == results / CONFIG.run_name
    assert run.config == CONFIG
    assert run.record["fingerprints"] == PRINTS
    assert run.record["device"] == "a machine"
    assert run.record["versions"]["torch"] == torch.__version__
    assert run.record["commit"] == "unknown"  # the fixture's folder is not a repository
    assert not run.finished


def test_the_commit_says_whether_the_package_has_changed(tmp_path, monkeypatch):
    folder = tmp_path / "repository"
    (folder / "polyp_utils").mkdir(parents=True)
    source = folder / "polyp_utils" / "a.py"
    source.write_text("1")

    def git(*words):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        command = ["git", "-C", str(folder), *identity, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init")
    git("add", ".")
    git("commit", "--no-verify", "-m", "one")
    assert git_commit() == git("rev-parse", "HEAD")
    source.write_text("2")
    assert git_commit() == git("rev-parse", "HEAD") + "+"


def test_the_same_settings_open_the_same_run():
    first = opened(CONFIG, PRINTS, "a machine")
    before = contents(first.path)
    assert opened(replace(CONFIG, device="cpu"), PRINTS, "a machine") == first
    assert contents(first.path) == before


def test_another_device_is_noted_when_the_run_is_resumed(capsys):
    run = opened(CONFIG, PRINTS, "a machine")
    opened(CONFIG, PRINTS, "another")
    opened(CONFIG, PRINTS, "another")
    assert capsys.readouterr().out.count("resuming with another device, see config.json") == 1
    assert run.record["device"] == "a machine"
    assert [entry["device"] for entry in run.record["resumed"]] == ["another"]
    finished(run.path, 1)
    before = contents(run.path)
    assert opened(CONFIG, PRINTS, "a third") == run
    assert contents(run.path) == before


@pytest.mark.parametrize(
    ("change", "prints", "message"),
    [
        ({"epochs": 5}, {}, "epochs is 2 there and 5 now"),
        ({"lr": 0.1, "dice_absent": "exclude"}, {}, "lr is 0.001 there and 0.1 now; dice_absent"),
        ({}, {"data": "d2"}, "data is 'd1' there and 'd2' now"),
        ({}, {"split_ids": "s2"}, "split_ids is 's1' there and 's2' now"),
    ],
)
def test_other_settings_or_data_are_rejected_with_both_ways_out(change, prints, message):
    named = replace(CONFIG, name="one")
    run = opened(named, PRINTS, "a machine")
    Path(run.path, "history.csv").touch()  # an epoch to lose
    before = contents(run.path)
    with pytest.raises(RunError, match=message) as caught:
        opened(replace(named, **change), PRINTS | prints, "a machine")
    assert "To resume that run, use its settings" in str(caught.value)
    assert "--name" in str(caught.value)
    assert contents(run.path) == before
    other = opened(replace(CONFIG, **change, name="other"), PRINTS | prints, "a machine")
    assert other.name == "other"


def test_a_schedule_with_an_end_is_not_extended():
    named = replace(CONFIG, name="one", schedule="cosine")
    Path(opened(named, PRINTS, "a machine").path, "history.csv").touch()
    with pytest.raises(RunError, match=r"'cosine' ends with its 2 epochs: .* from them \(init\)"):
        opened(replace(named, epochs=3), PRINTS, "a machine")
    with pytest.raises(RunError, match=r"warmup is .* there and 0.1 now") as caught:
        opened(replace(named, warmup=0.1), PRINTS, "a machine")
    assert "init" not in str(caught.value)


def test_a_run_without_an_epoch_makes_room_for_other_settings():
    """So after running out of memory in the first step, the error's advice can be followed."""
    first = opened(replace(CONFIG, name="one"), PRINTS, "a machine")
    run = opened(replace(CONFIG, name="one", batch_size=2), PRINTS, "a machine")
    assert run == first
    assert run.config.batch_size == 2
    assert "resumed" not in run.record


def test_a_results_folder_that_cannot_be_written_is_named(results):
    results.write_text("a file, no folder")
    with pytest.raises(RunError, match=r"cannot be written .* set POLYP_RESULTS"):
        opened(CONFIG, PRINTS, "a machine")
    assert list_runs() == []


def test_runs_are_listed_newest_first_then_the_published(results):
    for name, time in (("a", 1), ("b", 3), ("c", 2), ("published/p", 9)):
        finished(results / name, time)
    write_json(results / "unfinished" / "config.json", {})
    repository = run_module.repo_root() / "results/published"
    finished(repository / "q", 5)
    assert [run.name for run in list_runs()] == ["b", "c", "a", "p", "q"]
    assert find_run().name == "b"
    assert find_run("q").path == repository / "q"


def test_a_run_is_found_by_path(tmp_path):
    run = finished(tmp_path / "elsewhere" / "r", 1)
    assert find_run(str(run.path)) == run


def test_unknown_runs_are_rejected_with_the_nearest(results):
    with pytest.raises(RunError, match=f"no finished run under {results}"):
        find_run()
    finished(results / "seed-trimap-w64-s0", 1)
    with pytest.raises(ValueError, match=r"unknown run 'seed-trimap-w64'.*mean 'seed-trimap-w64-s"):
        find_run("seed-trimap-w64")


def test_reading_never_changes_a_run(tmp_path):
    run = finished(tmp_path / "r", 1, best_epoch=2)
    Path(run.path, "history.csv").write_text("epoch,val_polyp_dice\n1,0.25\n2,0.5\n")
    before = contents(run.path)
    assert run.finished
    assert run.training["kept_epoch"] == 2
    assert run.history["val_polyp_dice"].tolist() == [0.25, 0.5]
    assert run.weights == run.path / "model.safetensors"
    assert contents(run.path) == before


def test_a_rejected_process_changes_nothing(monkeypatch):
    with open_run(CONFIG, PRINTS, "a machine") as run:
        before = contents(run.path)
        monkeypatch.setattr(start, "git_commit", lambda: "edited-since")
        with pytest.raises(RunError, match="is being trained by another process"):
            opened(CONFIG, PRINTS, "another machine")
        assert contents(run.path) == before
    assert opened(CONFIG, PRINTS, "another machine").record["resumed"]


def test_the_released_run_is_the_first_of_the_published(results):
    published = run_module.repo_root() / "results/published"
    for name, time in (("old", 1), (RELEASED, 2), ("new", 3)):
        write_json(finished(published / name, time).path / "config.json", {"settings": {}})
    assert [run.name for run in list_runs()] == [RELEASED, "new", "old"]
    assert find_run().published
    mine = finished(results / "mine", 1)
    assert not mine.published
    write_json(mine.path / "config.json", {"settings": {"score_test": False}})
    assert find_run().name == RELEASED  # without a name, one to evaluate is wanted


def test_a_run_that_is_not_finished_is_not_unknown(run):
    (run.path / "training.json").unlink()
    with pytest.raises(RunError, match="is not finished: its train command, given again, resumes"):
        find_run(run.name)
