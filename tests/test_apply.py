"""The verb predict on drawn frames: what it writes, that it goes on, and what it refuses."""

import csv
import errno
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from filelock import FileLock
from PIL import Image

from polyp_utils import load_model
from polyp_utils.apply import outputs
from polyp_utils.apply.predict import predict_paths
from polyp_utils.apply.regions import find_regions
from polyp_utils.cli import main
from polyp_utils.common.exceptions import RunError, TakenError, WeightsError
from polyp_utils.data import phantom
from polyp_utils.data.pixels import read_frame
from polyp_utils.data.regions import components
from polyp_utils.runs.run import Run

COUNT = 6


@pytest.fixture(scope="session")
def drawn(tmp_path_factory):
    """Frames with a polyp, and one without, in a folder with a sub-folder."""
    folder = tmp_path_factory.mktemp("frames")
    (folder / "sub").mkdir()
    for index in range(COUNT - 1):
        Image.fromarray(phantom.draw_phantom(index)[0]).save(folder / f"{index}.jpg", quality=90)
    Image.fromarray(phantom.draw_phantom(9, with_polyps=False)[0]).save(folder / "sub/none.png")
    return folder


@pytest.fixture
def frames(drawn, tmp_path):
    return Path(shutil.copytree(drawn, tmp_path / "frames"))


@pytest.fixture
def weights(tiny_runs):
    return tiny_runs["trimap"].weights


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def table(folder, name="frames"):
    return pd.read_csv(folder / f"{name}.csv", dtype={"frame": str})


def lasting(folder):
    """The results but for times."""
    files = contents(folder)
    rows = table(folder).drop(columns="seconds").to_csv(index=False)
    of_times = {"frames.csv", "summary.json"}
    return {name: data for name, data in files.items() if name not in of_times} | {"frames": rows}


def test_results_are_those_of_the_model(frames, weights, tmp_path):
    done = predict_paths([frames], tmp_path / "out", weights, probabilities=True)
    model = load_model(weights)
    rows = table(done.path).set_index("frame")
    assert list(rows.index) == [*"01234", "sub/none"]
    assert (done.frames, done.new, done.unreadable) == (COUNT, COUNT, 0)
    for name, row in rows.iterrows():
        frame = read_frame(Path(row["source"]))
        classes = Image.open(done.path / f"masks/{name}.png")
        assert classes.mode == "P"
        assert (np.asarray(classes) == model.class_map(frame)).all()
        assert json.loads(classes.info["classes"]) == {
            "0": "background",
            "1": "polyp",
            "2": "boundary",
        }
        mask = model.polyp_mask(frame)
        regions = components(mask)
        assert row["found"] == bool(regions)
        assert row["regions"] == len(regions)
        assert row["area"] == pytest.approx(sum(map(np.mean, regions)), abs=1e-5)
        assert (row["height"], row["width"]) == frame.shape[:2]
        chance = np.asarray(Image.open(done.path / f"probabilities/{name}.png")) / 255
        assert np.abs(chance - model.probabilities(frame)[1:].sum(dim=0).numpy()).max() < 0.0021
        overlay = np.asarray(Image.open(done.path / f"overlays/{name}.jpg"))
        assert overlay.shape == frame.shape
        assert max(Image.open(done.path / f"thumbnails/{name}.jpg").size) == 256
    assert rows["self_doubt"].between(0, 1).all()


def test_regions_against_those_of_the_package():
    rng = np.random.default_rng(0)
    polyp = np.zeros((60, 80), np.float32)
    polyp[5:20, 5:30] = 0.75
    polyp[30:60, 40:80] = rng.uniform(0.6, 0.9, (30, 40))
    polyp[50, 2] = 1  # a speck
    kinds = {"flat": 0.25 * polyp, "raised": 0.75 * polyp}
    large, small = find_regions(polyp, kinds)
    assert sorted(r["area"] for r in (large, small)) == sorted(
        float(mask.mean()) for mask in components(polyp > 0.5)
    )
    assert small == {
        "class": "raised",
        "left": 5,
        "top": 5,
        "width": 25,
        "height": 15,
        "area_px": 375,
        "area": 375 / 4800,
        "mean_probability": 0.75,
        "largest_probability": 0.75,
        "touches_border": False,
        "doubt": pytest.approx(1 - 2 * 0.75 / 1.75),
    }
    assert large["touches_border"]
    assert large["mean_probability"] == pytest.approx(polyp[30:60, 40:80].mean())
    of_copies = find_regions(polyp, kinds, [polyp, np.zeros_like(polyp)])
    assert [region["doubt"] for region in of_copies] == [0.5, 0.5]


def test_mirrored_doubt_has_its_name(frames, weights, tmp_path):
    done = predict_paths([frames / "0.jpg"], tmp_path / "out", weights, mirrored=True)
    assert "disagreement" in table(done.path)
    assert "disagreement" in table(done.path, "components")
    assert json.loads((done.path / "summary.json").read_text())["doubt"] == "disagreement"


def test_maps_only(frames, weights, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["predict", str(frames), "--out", str(out), "--weights", str(weights), "--maps-only"]
    assert main(words) == 0
    names = {name.split("/")[0] for name in contents(out)}
    assert names == {"masks", "frames.csv", "components.csv", "unreadable.csv", "summary.json"}
    assert f"{out} holds {COUNT} frames" in capsys.readouterr().out


def test_an_outline_shows_on_any_ground():
    mask = np.zeros((50, 70), bool)
    mask[10:30, 20:50] = True
    for level in (0, 127, 255):
        frame = np.full((50, 70, 3), level, np.uint8)
        drawn = outputs.outlined(frame, [mask])
        assert (frame == level).all()
        assert (drawn[20, 35] == level).all()
        assert (drawn[10, 35] == outputs.COLOURS[1]).all()
    small = outputs.thumbnail(np.zeros((400, 800, 3), np.uint8), [np.ones((400, 800), bool)])
    assert small.shape == (128, 256, 3)


# --- stopped and started again -------------------------------------------------------------------


def test_a_killed_run_goes_on_to_the_same_results(frames, weights, tmp_path):
    for copy in range(40):
        shutil.copy(frames / "0.jpg", frames / f"copy-{copy:02}.jpg")
    whole = predict_paths([frames], tmp_path / "whole", weights).path
    out = tmp_path / "out"
    words = ["predict", str(frames), "--out", str(out), "--weights", str(weights)]
    with subprocess.Popen([sys.executable, "-m", "polyp_utils", *words]) as process:
        while not (out / "frames.csv").is_file() or len((out / "frames.csv").read_text()) < 300:
            assert process.poll() is None, "it ended before it was killed"
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    before = len(table(out))
    assert 1 <= before < COUNT + 40
    with (out / "components.csv").open("a") as file:
        file.write("half,a li")
    assert main(words) == 0
    assert lasting(out) == lasting(whole)


def test_a_run_killed_before_its_first_row_is_known_again(frames, weights, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / ".lock").touch()
    (out / ".summary.json.999999999.tmp").write_text("{")
    predict_paths([frames / "0.jpg"], out, weights)
    (out / "frames.csv").unlink()
    assert predict_paths([frames / "0.jpg"], out, weights).new == 1
    assert not list(out.glob(".*.tmp"))


def test_a_finished_frame_is_not_done_twice(frames, weights, tmp_path, monkeypatch):
    predict_paths([frames], tmp_path / "out", weights)
    Image.fromarray(phantom.draw_phantom(7)[0]).save(frames / "new.png")
    seen = []
    monkeypatch.setattr(
        "polyp_utils.apply.predict.read_frame", lambda path: seen.append(path) or read_frame(path)
    )
    assert predict_paths([frames], tmp_path / "out", weights).new == 1
    assert seen == [frames / "new.png"]
    assert len(table(tmp_path / "out")) == COUNT + 1


def test_another_model_or_setting_is_refused_with_what_differs(frames, tiny_runs, tmp_path):
    out = tmp_path / "out"
    predict_paths([frames], out, tiny_runs["trimap"].weights)
    before = contents(out)
    with pytest.raises(RunError, match="settings mirrored is False there and True now"):
        predict_paths([frames], out, tiny_runs["trimap"].weights, mirrored=True)
    with pytest.raises(RunError, match="model scheme is 'trimap' there and 'binary' now"):
        predict_paths([frames], out, tiny_runs["binary"].weights)
    assert contents(out) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").touch()
    with pytest.raises(RunError, match="holds files, but no results of an earlier run"):
        predict_paths([frames], tmp_path / "mine", tiny_runs["trimap"].weights)


def test_other_files_of_the_same_names_are_refused(frames, weights, tmp_path):
    out = predict_paths([frames], tmp_path / "out", weights).path
    before = contents(out)
    others = shutil.copytree(frames, tmp_path / "others")
    with pytest.raises(RunError, match=r"holds results of .*frames/0.jpg as '0', not of .*others"):
        predict_paths([others], out, weights)
    assert contents(out) == before


def test_unreadable_files_are_listed_and_the_rest_is_done(frames, weights, tmp_path, capsys):
    (frames / "0.jpg").write_bytes(b"<html>")
    (frames / "empty, with a comma.png").touch()
    out = tmp_path / "out"
    words = ["predict", str(frames), "--out", str(out), "--weights", str(weights)]
    assert main(words) == 1
    assert "2 could not be read: unreadable.csv" in capsys.readouterr().out
    with (out / "unreadable.csv").open(newline="") as file:
        listed = list(csv.DictReader(file))
    assert [Path(row["source"]).name for row in listed] == ["0.jpg", "empty, with a comma.png"]
    assert len(table(out)) == COUNT - 1
    shutil.copy(frames / "1.jpg", frames / "0.jpg")
    (frames / "empty, with a comma.png").unlink()
    assert main(words) == 0
    assert len(table(out)) == COUNT
    assert (out / "unreadable.csv").read_text() == "source,reason\n"


def test_a_full_disk_leaves_nothing_half_written(frames, weights, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    words = ["predict", str(frames), "--out", str(out), "--weights", str(weights)]
    with monkeypatch.context() as patch:
        save = outputs.save_jpeg

        def full(path, frame):
            if path.name == "3.jpg":
                raise OSError(errno.ENOSPC, "No space left on device", str(path))
            save(path, frame)

        patch.setattr(outputs, "save_jpeg", full)
        assert main(words) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert not list(out.rglob("*.tmp"))
    assert list(table(out)["frame"]) == [*"012"]
    assert main(words) == 0
    assert lasting(out) == lasting(predict_paths([frames], tmp_path / "whole", weights).path)


def test_ctrl_c_keeps_what_is_done(frames, weights, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"

    def interrupted(path):
        if path.name == "4.jpg":
            raise KeyboardInterrupt
        return read_frame(path)

    monkeypatch.setattr("polyp_utils.apply.predict.read_frame", interrupted)
    words = ["predict", str(frames), "--out", str(out), "--weights", str(weights)]
    assert main(words) == 130
    assert "the same command" in capsys.readouterr().err
    rows = table(out)
    assert all((out / f"masks/{name}.png").is_file() for name in rows["frame"])


def test_two_processes_do_not_write_into_one_folder(frames, weights, tmp_path):
    out = predict_paths([frames / "0.jpg"], tmp_path / "out", weights).path
    with FileLock(out / ".lock"), pytest.raises(TakenError, match="another process writes into"):
        predict_paths([frames / "0.jpg"], out, weights)


def test_weights_of_another_network_are_refused(frames, tmp_path):
    from safetensors.torch import save_file

    save_file({"conv.weight": torch.zeros(3, 3)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="holds no U-Net of this package"):
        predict_paths([frames], tmp_path / "out", tmp_path / "other.safetensors")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("size", [(1, 1), (3, 2000)])
def test_frames_of_any_shape(tmp_path, weights, size):
    Image.new("RGB", size, (200, 90, 80)).save(tmp_path / "odd.png")
    out = predict_paths([tmp_path / "odd.png"], tmp_path / "out", weights, probabilities=True).path
    for name in ("masks/odd.png", "overlays/odd.jpg", "probabilities/odd.png"):
        assert Image.open(out / name).size == size


def test_run_names_serve_as_weights(run, frames, tmp_path):
    assert isinstance(run, Run)
    out = predict_paths([frames / "0.jpg"], tmp_path / "out", run.name).path
    assert json.loads((out / "summary.json").read_text())["model"]["name"] == run.name
