"""Predictions of a run, a folder and arrays are the same thing, and bad ones are rejected."""

import numpy as np
import pytest
import torch
from PIL import Image

from polyp_utils.common.config import RunConfig
from polyp_utils.common.exceptions import DataError, RunError
from polyp_utils.data.dataset import PolypDataset
from polyp_utils.data.splits import load_split
from polyp_utils.runs.files import prediction_files
from polyp_utils.runs.predictions import (
    of_arrays,
    of_folder,
    of_network,
    of_probabilities,
    of_run,
)
from polyp_utils.score.evaluation import evaluate
from polyp_utils.train.fit import fit


@pytest.fixture
def maps(dataset):
    """Noisy maps of three frames, in 255 steps, of different sizes."""
    rng = np.random.default_rng(0)
    found = {}
    for frame_id in dataset.ids[:3]:
        mask = dataset.original_mask(frame_id)[::2, ::2] > 127
        found[frame_id] = np.clip(200 * mask + rng.integers(0, 80, mask.shape), 0, 255)
    return {frame_id: values.astype(np.uint8) for frame_id, values in found.items()}


def write(folder, maps, suffix=".png"):
    folder.mkdir()
    for frame_id, values in maps.items():
        Image.fromarray(values).save(folder / f"{frame_id}{suffix}")
    return folder


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_a_folder_scores_like_the_arrays_in_it(tmp_path, dataset, maps, suffix):
    folder = of_folder(write(tmp_path / "theirs", maps, suffix))
    assert (folder.name, folder.ids) == ("theirs", tuple(maps))
    arrays = of_arrays(maps)
    one, other = (evaluate(p, dataset).per_image for p in (folder, arrays))
    assert one.equals(other)
    floats = of_arrays({i: values / 255 for i, values in maps.items()})
    for frame_id in maps:
        assert torch.allclose(floats.read(frame_id), arrays.read(frame_id))


def test_masks_may_be_bool_black_and_white_one_bit_or_equal_channels(tmp_path):
    mask = np.zeros((4, 6), bool)
    mask[1:3, 2:5] = True
    folder = tmp_path / "masks"
    folder.mkdir()
    Image.fromarray(mask).save(folder / "bit.png")
    Image.fromarray(np.uint8(255 * mask)).save(folder / "grey.png")
    Image.fromarray(np.uint8(255 * np.stack([mask] * 3, axis=-1))).save(folder / "rgb.png")
    read = of_folder(folder).read
    expected = of_arrays({"a": mask}).read("a")
    assert expected[1].tolist() == mask.astype(float).tolist()
    for name in ("bit", "grey", "rgb"):
        assert torch.equal(read(name), expected)


@pytest.mark.parametrize(
    ("files", "ids", "message"),
    [
        ({"a.txt": 0}, (), "it holds none"),
        ({"a.png": 0}, ("a", "b", "c"), "lacks 2 of 3 predictions, first b"),
        ({"a.png": 0, "a.bmp": 0}, (), "are both for a: keep one"),
    ],
)
def test_a_folder_must_hold_one_file_per_frame(tmp_path, files, ids, message):
    for name in files:
        Image.new("L", (4, 4)).save(tmp_path / name, "BMP")
    with pytest.raises(DataError, match=message):
        of_folder(tmp_path, ids)


@pytest.mark.parametrize(
    ("files", "ids"),
    [
        (["ETIS/0.png", "CVC/0.png", "ETIS/9.png"], ["CVC/0", "ETIS/0"]),
        (["out/ETIS/0.png", "out/CVC/0.png"], ["CVC/0", "ETIS/0"]),  # an unpacked archive
        (["out/out/0.png", "out/out/1.png"], ["0", "1"]),
        (["0.png", "1.png"], ["test/0", "test/1"]),
    ],
)
def test_ids_with_folders_are_files_in_folders(files, ids, tmp_path):
    for level, name in enumerate(files):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (1, 1), 10 * level).save(tmp_path / name)
    found = of_folder(tmp_path, ids, values="map:0-255")
    assert found.ids == tuple(ids)
    for frame_id in ids:
        name = f"{frame_id}.png" if "/" in files[0] else f"{frame_id[-1]}.png"
        (level,) = (number for number, file in enumerate(files) if file.endswith(name))
        assert found.read(frame_id)[1].item() == pytest.approx(10 * level / 255)


@pytest.mark.parametrize(
    ("files", "ids"),
    [
        (["0.png"], ["CVC/0", "ETIS/0"]),  # whose is it?
        (["0.png", "1.png"], ["test/0"]),  # 1 shows that these are not the test part's
        (["a/0.png", "b/1.png"], ["0", "1"]),
        (["CVC/0.png"], ["ETIS/0", "ETIS/1"]),
    ],
)
def test_predictions_whose_frame_is_not_certain_are_refused(files, ids, tmp_path):
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (1, 1)).save(tmp_path / name)
    with pytest.raises(DataError, match=rf"first {ids[0]} \(it holds {files[0][:-4]}"):
        of_folder(tmp_path, ids)


def test_short_names_of_a_part_are_recognised_among_all_frames(tmp_path):
    known = ["a/0", "a/1", "b/2", "b/x/3", "c/x/3"]
    for name in ("0", "1", "2", "x/3", "notes"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("L", (1, 1), 40 if name == "1" else 200).save(tmp_path / f"{name}.png")
    found = of_folder(tmp_path, ["a/1", "b/2"], known=known, values="map:0-255")
    assert found.ids == ("a/1", "b/2")
    assert found.read("a/1")[1].item() == pytest.approx(40 / 255)
    assert "3 more files are not scored" in found.notes[-1]
    with pytest.raises(DataError, match="lacks 1 of 2 predictions, first b/x/3"):
        of_folder(tmp_path, ["a/0", "b/x/3"], known=known)  # or c/x/3?


def test_a_folder_that_does_not_exist(tmp_path):
    with pytest.raises(DataError, match="nowhere does not exist"):
        of_folder(tmp_path / "nowhere")


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4)).save(folder / name)


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        (("0_pred.png", "10_pred.png"), ("0", "10")),
        (("pred_a.png", "pred_b.png"), ("a", "b")),
        (("ETIS/0_mask.png", "Kvasir/0_mask.png"), ("ETIS/0", "Kvasir/0")),
    ],
)
def test_names_may_add_the_same_to_every_id(tmp_path, names, ids):
    touch(tmp_path, *names)
    found, notes = prediction_files(tmp_path, ids)
    assert list(found) == list(ids)
    assert {path.relative_to(tmp_path).as_posix() for path in found.values()} == set(names)
    assert ("names add …_pred to the ids" in notes) == ("0_pred.png" in names)


@pytest.mark.parametrize(
    ("names", "ids", "message"),
    [
        (("00.png", "01.png"), ("0", "1"), r"lacks 2 of 2 .* first 0 \(it holds 00, 01"),
        (("10.png", "11.png"), ("0", "1"), "lacks 2 of 2"),
        (("0_gt.png", "0_pred.png"), ("0",), r"several files per frame \(0_gt, 0_pred\)"),
        (("0_pred.png",), ("0", "1"), "lacks 2 of 2 .*it holds 0_pred"),
        (("a/0.png", "b/0.png"), ("0",), "several files per frame"),
    ],
)
def test_files_that_may_be_of_other_frames_are_not_taken(tmp_path, names, ids, message):
    touch(tmp_path, *names)
    with pytest.raises(DataError, match=message):
        prediction_files(tmp_path, ids)


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"a\.png begins with b'no image', so it is no PNG"):
        of_folder(tmp_path)


def test_files_of_other_frames_and_of_systems_are_told_apart(tmp_path):
    for name in ("a.png", "b.png", "._a.png", ".hidden.png"):
        Image.new("L", (4, 4), 255).save(tmp_path / name)
    found = of_folder(tmp_path, ["a"])
    assert found.ids == ("a",)
    assert found.notes[1] == f"1 more files are not scored (first {tmp_path / 'b.png'})"
    assert of_folder(tmp_path).ids == ("a", "b")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.full((4, 4), 7), r"the levels 7 \(16 px\) in 1 files \(first a\): .*not certain"),
        (np.zeros((4, 4, 3), np.uint8), r"prediction a is uint8 \(4, 4, 3\)"),
        (np.full((4, 4), 1.5), r"values from 1\.5 to 1\.5 \(first a\): .*not certain"),
        (np.full((4, 4), np.nan), "16 of 16 values that are not finite"),
    ],
)
def test_arrays_that_are_not_maps_are_rejected(values, message):
    with pytest.raises(ValueError, match=message):
        of_arrays({"a": values})


def test_a_frame_of_another_data_set_is_named(dataset):
    with pytest.raises(ValueError, match="1 of 1 ids are not in Phantoms, first 'x'"):
        evaluate(of_arrays({"x": np.zeros((4, 4), bool)}), dataset)


@pytest.mark.parametrize("value", [np.nan, np.inf, -0.1, 1.1])
def test_what_are_no_probabilities_are_never_stored(run, value):
    good = torch.full((3, 4, 4), 1 / 3)
    bad = good.clone()
    bad[0, 2, 2] = value
    with pytest.raises(ValueError, match=r"prediction b holds .* must lie in \[0, 1\]"):
        of_probabilities([("a", good), ("b", bad)], run.scheme, "any")
    with pytest.raises(ValueError, match=f"prediction b of {run.name} holds"):
        run.save_probabilities("test", "b", bad)
    assert not run.prediction_path("test", "b").exists()
    with pytest.raises(ValueError, match=r"predictions? (b )?holds? "):
        of_arrays({"a": good[0].numpy(), "b": bad[0].numpy()})


@pytest.mark.parametrize("damage", ["cut", "text", "palette", "empty"])
def test_a_stored_prediction_that_is_damaged_names_its_file(run, damage):
    path = run.prediction_path("test", "phantom-0300")
    whole = path.read_bytes()
    if damage == "palette":
        Image.new("P", (32, 32)).save(path)
    else:
        path.write_bytes({"cut": whole[: len(whole) // 2], "text": b"PNG", "empty": b""}[damage])
    with pytest.raises(RunError, match=r"phantom-0300\.png (is damaged|holds 2 classes)"):
        of_run(run).read("phantom-0300")


@pytest.mark.parametrize("scheme", ["trimap", "binary"])
def test_a_networks_predictions_are_those_that_its_run_has_stored(dataset, scheme):
    tiny = {"limit": 8, "width": 4, "image_size": 32, "epochs": 2, "precision": "fp32"}
    run = fit(RunConfig.from_recipe("quick", scheme=scheme, device="cpu", lr=0.02, **tiny))
    ids = load_split("phantom-240").test[:8]
    stored, anew = of_run(run), of_network(run, dataset, ids, "cpu")
    assert (stored.ids, stored.scheme) == (anew.ids, anew.scheme)
    for frame_id in ids:
        one, other = stored.read(frame_id), anew.read(frame_id)
        torch.testing.assert_close(one, other, atol=2 / 255, rtol=0)  # bf16 where auto picks it
    assert of_network(run, dataset, device="cpu").ids == dataset.ids
    with pytest.raises(ValueError, match="takes 32 px"):
        of_network(run, PolypDataset("phantom", 64))
    run.weights.unlink()
    with pytest.raises(FileNotFoundError, match="fetch its weights"):
        of_network(run, dataset, ids)
