"""All runtimes predict the same; times add up; missing packages are named."""

import sys

import pytest
import torch

from polyp_utils.bench import runtimes
from polyp_utils.bench.dice import dice_by_runtime, dice_of_runs, find_weights
from polyp_utils.bench.inference import speed, whole_frame
from polyp_utils.bench.report import NOT_HELD
from polyp_utils.bench.run import _named
from polyp_utils.bench.runtimes import CARD, FORWARDS, load_forward, prepare_runtimes, runtimes_here
from polyp_utils.common.exceptions import WeightsError
from polyp_utils.data.dataset import PolypDataset
from polyp_utils.data.splits import load_split
from polyp_utils.deploy.load import load_model
from polyp_utils.deploy.onnx import calibration_images
from polyp_utils.model.unet import UNet
from polyp_utils.model.weights import load_weights, save_weights
from polyp_utils.score.evaluation import evaluate_run

NEEDS = {
    "ONNX": ("onnxruntime", "onnxscript"),
    "int8": ("onnxruntime", "onnxscript"),
    "OpenVINO": ("openvino",),
}


@pytest.fixture(scope="module")
def run(tiny_runs):
    """The shared run itself: no test here changes it."""
    return tiny_runs["trimap"]


@pytest.fixture(scope="module")
def network(run):
    return load_weights(UNet(3, 3, 4), run.weights).eval()


@pytest.fixture(scope="module")
def prepared(run, network, tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    return prepare_runtimes(
        folder, network, run.config.to_dict(), calibration_images(run.config, run.split)
    )


@pytest.mark.parametrize("name", FORWARDS)
def test_every_runtime_gives_the_probabilities_of_the_cards_snippet(name, prepared):
    for package in {p for part, needed in NEEDS.items() if part in name for p in needed}:
        pytest.importorskip(package)
    images = PolypDataset("phantom", 64).images[-4:, :, :48, :32] / 255
    expected, found = (load_forward(runtime, prepared)(images) for runtime in (CARD, name))
    assert expected.std() > 0.01  # or the test proves nothing
    if name.endswith("fp32"):  # twenty times what was measured
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    else:  # eight bits: 2 % was measured; another network would be 100 % off
        assert 0 < (found - expected).abs().mean() < 0.1 * expected.std()


def test_int8_is_calibrated_on_frames_of_the_training_part(run, monkeypatch):
    data, given = PolypDataset("phantom", 32), []
    spy = lambda *what: given.append(what[-1]) or prepare_runtimes(*what)  # noqa: E731
    monkeypatch.setattr("polyp_utils.bench.dice.prepare_runtimes", spy)
    dice_by_runtime(run, data, [CARD])
    train = data.images[data.rows(load_split("phantom-240").limited(run.config.limit).train)]
    assert torch.equal(given[0], train)
    assert torch.equal(calibration_images(run.config, run.split, 5), train[:10:2])


def test_dice_is_that_of_the_evaluation(run):
    data = PolypDataset("phantom", 32)
    table = dice_by_runtime(run, data, ["ours, PyTorch fp32"]).set_index("runtime")
    expected = evaluate_run(run, dataset=data).polyp_dice.mean
    assert table.index.tolist() == [CARD, "ours, PyTorch fp32"]
    assert expected > 0.1  # or the test proves nothing
    assert table["dice"].tolist() == pytest.approx([expected] * 2, abs=2e-3)  # stored as 8 bit
    assert table.loc[CARD, ["delta", "low", "high", "largest"]].tolist() == [0, 0, 0, 0]
    assert (
        abs(table.loc["ours, PyTorch fp32", "delta"])
        <= table.loc["ours, PyTorch fp32", "largest"]
        < 1e-3
    )


def test_a_runtime_that_differs_shows_as_delta(run, monkeypatch):
    nothing = lambda *_: lambda x: torch.eye(3)[0][None, :, None, None] + 0 * x  # noqa: E731
    monkeypatch.setitem(FORWARDS, "nothing", nothing)
    data = PolypDataset("phantom", 32)
    card, other = dice_by_runtime(run, data, ["nothing"]).itertuples()
    assert other.dice == 0
    assert other.delta == pytest.approx(-card.dice)  # each of these frames shows a polyp
    assert other.largest >= card.dice
    mean = evaluate_run(run, dataset=data).polyp_dice  # all of it is lost, so its interval fits
    assert [-other.high, -other.low] == pytest.approx([mean.low, mean.high], abs=0.04)


def test_a_runtime_that_is_not_installed_is_skipped_and_named(run, monkeypatch, capsys):
    missing = {"ours, OpenVINO fp32": "openvino", "ONNX Runtime, fp32": "onnxruntime"}
    for package in missing.values():
        monkeypatch.setitem(sys.modules, package, None)
    table = dice_by_runtime(run, PolypDataset("phantom", 32), missing)
    assert table["runtime"].tolist() == [CARD]
    said = capsys.readouterr().out.splitlines()
    for line, (name, package) in zip(said, missing.items(), strict=True):
        assert line.startswith(f"{name} is skipped: {package} is not installed: uv sync --extra")


def test_bf16_is_compared_only_where_the_hardware_has_it(monkeypatch):
    found = []
    for bf16 in (True, False):
        monkeypatch.setattr("polyp_utils.common.device._cpu_has_bf16", lambda there=bf16: there)
        found.append(runtimes_here())
    assert found[0] == tuple(FORWARDS)
    assert set(found[0]) - set(found[1]) == {"ours, PyTorch bf16", "ours, OpenVINO bf16"}


def test_weights_without_a_run_are_scored_like_those_of_a_run(run, network, tmp_path, monkeypatch):
    monkeypatch.setattr(runtimes, "FORWARDS", {CARD: FORWARDS[CARD]})
    bare = tmp_path / "bare.safetensors"
    save_weights(bare, network, {})
    unknown = dict.fromkeys(("split", "scheme", "image_size"))
    with pytest.raises(WeightsError, match="give --split, --scheme, --image-size; the split must"):
        find_weights(str(bare), dataset="phantom", **unknown)
    known = {"split": "phantom-240", "scheme": "trimap", "image_size": 32}
    file = find_weights(str(bare), dataset="phantom", **known)
    assert (file.name, file.config.width, file.config.limit) == ("bare", 4, 0)
    assert find_weights(str(run.path), dataset="none", **unknown) == run
    said = find_weights(str(run.weights), dataset="none", **unknown)  # by its header
    assert said.config.limit == run.config.limit
    table = dice_of_runs([run, said])
    assert table["run"].tolist() == [run.name, "model"]
    assert len(table.drop(columns="run").drop_duplicates()) == 1


def test_speed_has_a_row_per_place_runtime_and_batch(workers_here):
    names = [CARD, "ours, PyTorch fp32"]
    calls, frames = speed([(4, 32), (4, 48)], names, [1, 2], rounds=2, seconds=0.01)
    assert calls[["image_size", "runtime", "batch"]].to_numpy().tolist() == [
        [size, name, batch] for size in (32, 48) for batch in (1, 2) for name in names
    ]
    assert frames[["image_size", "runtime"]].to_numpy().tolist() == [
        [size, name] for size in (32, 48) for name in names
    ]
    for rounds in (calls["rates"], frames["predict_ms"], frames["mask_ms"]):
        assert all(len(values) == 2 and min(values) > 0 for values in rounds)
    assert (calls["p50_ms"] > 0).all()
    assert (calls["p50_ms"] <= calls["p95_ms"]).all()
    assert calls["mb"].nunique() == 1  # one file


def test_a_whole_frame_is_that_of_the_model(run, prepared, dataset):
    frame = dataset.original(dataset.ids[0])[0]
    model = load_model(run.path, device="cpu", precision="fp32")
    expected = model.polyp_mask(frame)
    assert 0 < expected.mean() < 1  # or the test proves nothing
    mask, *seconds = whole_frame(
        load_forward("ours, PyTorch fp32", prepared), frame, model.scheme, 32, torch.device("cpu")
    )
    assert (mask.numpy() == expected).mean() > 0.99  # rounding may flip a pixel at the threshold
    assert min(seconds) > 0


@pytest.mark.parametrize(
    ("asked", "ignoring"),
    [
        ([], []),
        (["ATEN_CPU_CAPABILITY"], ["ours, OpenVINO fp32", "ONNX Runtime, fp32"]),
        (["ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA"], ["ONNX Runtime, fp32"]),
    ],
)
def test_runtimes_that_ignore_the_limit_to_an_older_cpu_are_marked(asked, ignoring, monkeypatch):
    for variable in ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA"):
        monkeypatch.delenv(variable, raising=False)
    for variable in asked:
        monkeypatch.setenv(variable, "avx2")
    names = [CARD, "ours, PyTorch fp32", "ours, OpenVINO fp32", "ONNX Runtime, fp32"]
    assert [name for name in names if _named(name) != name] == ignoring
    assert all(_named(name).removeprefix(name) == NOT_HELD for name in ignoring)
