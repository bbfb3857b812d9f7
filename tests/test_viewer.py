"""The viewer of notebook 10: its widgets are set as by hand, and what follows is checked."""

import csv
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from polyp_utils import load_model
from polyp_utils.common.exceptions import DataError
from polyp_utils.data import phantom

pytest.importorskip("ipywidgets")
from polyp_utils.apply.viewer import Viewer


@pytest.fixture
def frames(tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    for index in range(3):
        Image.fromarray(phantom.draw_phantom(index)[0]).save(folder / f"{index}.png")
    return folder


@pytest.fixture
def viewer(tiny_runs, tmp_path, frames):
    viewer = Viewer(load_model(tiny_runs["trimap"].path), tmp_path / "out")
    assert viewer.open([frames]) == []
    return viewer


def flagged(viewer):
    with (viewer.out / "flags.csv").open(newline="") as file:
        return {row["frame"]: row["note"] for row in csv.DictReader(file)}


def test_frames_come_by_doubt_and_by_name(viewer):
    doubts = [seen.doubt for seen in viewer.frames]
    assert doubts == sorted(doubts, reverse=True)
    viewer.order.value = "by name"
    assert [seen.name for seen in viewer.frames] == ["0", "1", "2"]
    viewer.on.click()
    assert viewer.current.name == "1"
    assert viewer.caption.value.startswith("1: ")
    viewer.on.click()
    viewer.on.click()  # there is no fourth
    assert viewer.current.name == "2"
    viewer.back.click()
    assert viewer.current.name == "1"


def test_sliders_change_the_picture(viewer):
    before = viewer.picture.value
    viewer.threshold.value = 0.95
    few = viewer.picture.value
    viewer.threshold.value = 0.05
    many = viewer.picture.value
    viewer.opacity.value = 1
    assert len({before, few, many, viewer.picture.value}) == 4


def test_the_mask_is_that_of_the_model(viewer):
    for seen in viewer.frames:
        frame = np.asarray(Image.open(seen.path))
        mask = viewer._mask(seen, frame.shape[:2])
        expected = viewer.model.polyp_mask(frame)
        assert (mask != expected).mean() < 0.01  # 8 bits, where P(polyp) is about one half


def test_flags_are_saved_at_once_and_found_again(viewer, frames):
    viewer.order.value = "by name"
    viewer.wrong.value = True
    viewer.note.value = "misses the rim, half"
    viewer.on.click()
    assert not viewer.wrong.value
    assert viewer.note.value == ""
    viewer.wrong.value = True
    assert flagged(viewer) == {"0": "misses the rim, half", "1": ""}
    viewer.wrong.value = False
    assert flagged(viewer) == {"0": "misses the rim, half"}
    again = Viewer(viewer.model, viewer.out)
    again.open([frames])
    again.order.value = "by name"
    assert (again.wrong.value, again.note.value) == (True, "misses the rim, half")


def test_masks_are_exported_at_the_frames_size(viewer):
    viewer.threshold.value = 0.3
    viewer.export.click()
    for seen in viewer.frames:
        mask = np.asarray(Image.open(viewer.out / f"masks/{seen.name}.png"))
        assert mask.shape == np.asarray(Image.open(seen.path)).shape[:2]
        assert set(np.unique(mask)) <= {0, 255}
        assert ((mask == 255) == viewer._mask(seen, mask.shape)).all()
    assert "3 masks in" in viewer.said.value


def test_uploads_and_a_folder_by_its_name(viewer, frames, tmp_path):
    content = (frames / "1.png").read_bytes()
    file = {"name": "../mine.png", "type": "image/png", "size": len(content), "content": content}
    viewer.upload.value = ({**file, "last_modified": datetime(2026, 1, 1, tzinfo=UTC)},)
    assert [seen.name for seen in viewer.frames] == ["mine"]
    assert viewer.frames[0].path == viewer.out / "uploads/mine.png"
    viewer.folder.value = str(frames)
    viewer.look.click()
    assert len(viewer.frames) == 3
    viewer.folder.value = str(tmp_path / "nowhere")
    viewer.look.click()
    assert "does not exist" in viewer.said.value
    assert len(viewer.frames) == 3


def test_unreadable_files_are_skipped_with_their_reasons(viewer, frames):
    (frames / "bad.png").write_bytes(b"<html>")
    (skipped,) = viewer.open([frames])
    assert "bad.png is a web page" in skipped
    assert "1 files skipped" in viewer.said.value
    with pytest.raises(DataError, match="is a web page"):
        viewer.open([Path(frames / "bad.png")])
