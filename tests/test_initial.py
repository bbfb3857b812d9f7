"""Training that starts from given weights."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from polyp_utils.common.config import RunConfig
from polyp_utils.common.exceptions import RunError, WeightsError
from polyp_utils.data import known
from polyp_utils.data.known import known_pairs, seen_before
from polyp_utils.data.labels import get_scheme
from polyp_utils.data.splits import load_split
from polyp_utils.model.unet import UNet
from polyp_utils.model.weights import read_metadata, save_weights
from polyp_utils.publish.run_card import write_run_card
from polyp_utils.runs.run import split_of
from polyp_utils.train.fit import fit
from polyp_utils.train.initial import find_initial

TINY = {"dataset": "phantom", "limit": 8, "width": 4, "image_size": 32, "batch_size": 4}
TINY |= {"epochs": 1, "device": "cpu", "precision": "fp32"}


def config(**changes):
    return RunConfig.from_recipe("card", **TINY | changes)


def started(settings):
    """Weights of a new network after and before loading, the sentence said, and the `Initial`."""
    torch.manual_seed(1)
    model = UNet(3, get_scheme(settings.scheme).logits, settings.width)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    initial = find_initial(settings)
    return model.state_dict(), before, initial.load(model), initial


@pytest.mark.parametrize("as_file", [True, False])
def test_all_weights_are_taken_where_the_classes_are_the_same(run, as_file):
    now, _, said, initial = started(config(init=str(run.weights) if as_file else run.name))
    for key, value in load_file(run.weights).items():
        assert torch.equal(now[key], value)
    assert initial.path == run.weights
    assert initial.fingerprint in said
    assert "at random" not in said


@pytest.mark.parametrize("scheme", ["binary", "unused-third"])  # another number, and other names
def test_the_last_layer_starts_at_random_where_the_classes_differ(run, scheme):
    now, before, said, _ = started(config(init=run.name, scheme=scheme))
    for key, value in load_file(run.weights).items():
        head = key.startswith("output.")
        assert torch.equal(now[key], before[key] if head else value)
    assert "the last layer starts at random" in said


def test_weights_without_class_names_are_loaded_if_the_number_fits(run, tmp_path):
    path = tmp_path / "bare.safetensors"
    half = {key: value.half() for key, value in load_file(run.weights).items()}
    save_file(half, path)
    now, _, said, _ = started(config(init=str(path), scheme="unused-third"))
    assert torch.equal(now["output.weight"], half["output.weight"].float())
    assert "The frames they were trained on are not known" in said


def test_a_run_records_what_it_started_from(run, capsys):
    there = fit(config(init=run.name, lr=1e-9))
    assert "-init-" in there.name
    assert there.record["init_leak"] == find_initial(there.config).leak
    assert there.record["init_leak"] in write_run_card(there).read_text()
    assert there.config.init == run.name
    assert there.record["fingerprints"]["init_weights"] == find_initial(there.config).fingerprint
    assert "starting from the weights of" in capsys.readouterr().out
    before, after = (load_file(r.weights)["bottleneck.0.weight"] for r in (run, there))
    torch.testing.assert_close(after, before, rtol=0, atol=1e-6)  # the learning rate is almost 0
    assert read_metadata(there.weights)["settings"]["init"] == run.name
    shutil.rmtree(run.path)
    assert fit(there.config) == there  # it is finished and no longer needs them


def test_the_moving_average_starts_from_them_too(run):
    there = fit(config(init=run.name, lr=1e-9, ema_decay=0.9))
    before, after = (load_file(r.weights)["bottleneck.0.weight"] for r in (run, there))
    torch.testing.assert_close(after, before, rtol=0, atol=1e-6)


def test_other_weights_of_that_name_are_another_run(run):
    settings = replace(config(init=run.name), name="one")
    fit(settings)
    save_weights(run.weights, UNet(width=4), {})
    with pytest.raises(RunError, match="init_weights is"):
        fit(settings)


def test_weights_of_another_width_are_refused(run, results):
    with pytest.raises(WeightsError, match="has width 4 but width is 8: use width 4"):
        fit(config(init=run.name, width=8))
    assert [path.name for path in results.iterdir()] == [run.name]


def test_incomplete_weights_are_refused(run, tmp_path):
    tensors = load_file(run.weights)
    del tensors["up.1.bias"]
    save_file(tensors, tmp_path / "part.safetensors")
    with pytest.raises(WeightsError, match=r"not a complete U-Net of width 4: up\.1\.bias differs"):
        find_initial(config(init=str(tmp_path / "part.safetensors")))


def test_a_run_without_weights_is_named(run):
    run.weights.unlink()
    with pytest.raises(FileNotFoundError, match="init needs a run that has its weights"):
        find_initial(config(init=run.name))
    with pytest.raises(ValueError, match="unknown run 'nothing'"):
        find_initial(config(init="nothing"))


def test_it_is_said_how_much_of_the_test_part_they_have_seen(run, tmp_path):
    split = load_split("phantom-240")
    path = Path(tmp_path / "turned.csv")  # here the run's training frames are tested
    turned = replace(split, train=split.test[:8], val=split.val[8:12], test=split.train[:4])
    path.write_text(turned.to_csv(), encoding="utf-8")
    assert (
        "Of 4 test frames they have seen 4 in"
        in find_initial(config(init=run.name, split=str(path))).leak
    )
    assert "they have seen 0 in training" in find_initial(config(init=run.name)).leak


def test_frames_of_a_data_set_that_is_gone_are_not_known(run, tmp_path):
    settings = config(dataset=str(tmp_path / "gone"), split="grouped").to_dict()
    save_weights(run.weights, UNet(width=4), {"settings": settings})
    leak = find_initial(config(init=run.name)).leak
    assert "The frames they were trained on are not known" in leak


def test_a_split_that_has_changed_since_is_not_taken_for_that_of_the_weights(run, tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text(load_split("phantom-240").to_csv(), encoding="utf-8")
    given = config(split=str(path))
    for print_, said in ((split_of(given).fingerprint, "they have seen 0"), ("x", "are not known")):
        settings = {"settings": given.to_dict(), "split_ids": print_}
        save_weights(run.weights, UNet(width=4), settings)
        assert said in find_initial(config(init=run.name)).leak


def test_near_duplicates_of_seen_frames_are_counted(monkeypatch):
    pair = known_pairs("kvasir-seg").iloc[0]
    a, b = pair["id_a"], pair["id_b"]
    assert seen_before([a], "kvasir-seg", [b], "kvasir-seg") == (0, 1)
    assert seen_before([b], "kvasir-seg", [a], "kvasir-seg") == (0, 1)
    assert seen_before([a, b], "kvasir-seg", [b], "kvasir-seg") == (1, 0)
    assert seen_before([a], "cvc-clinicdb", [b], "kvasir-seg") == (0, 0)
    monkeypatch.setattr(known, "known_ids", lambda dataset: [])  # a folder that was searched
    assert seen_before(["x"], "my/frames", ["x"], "my/frames") == (1, 0)
    assert seen_before([a], "kvasir-seg", [a, b], "my/frames") == (1, None)
    monkeypatch.setattr(known, "known_ids", lambda dataset: None)
    assert seen_before(["x"], "my/frames", ["x"], "my/frames") == (1, None)
