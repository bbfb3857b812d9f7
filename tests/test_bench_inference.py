"""Every runtime says the same of a frame; times add up; what is missing is named."""

import sys

import pytest
import torch

from polyp_utils.bench import inference as bench_inference
from polyp_utils.bench.inference import CARD, FORWARDS, dice_by_runtime, frame_times, speed
from polyp_utils.data.dataset import PolypDataset
from polyp_utils.evaluation import evaluate_run
from polyp_utils.hub import load_model

NEEDS = {"ONNX": "onnxruntime", "Runtime": "onnxscript", "OpenVINO": "openvino"}


@pytest.fixture(scope="module")
def run(tiny_runs):
    """The shared run itself: nothing here changes it."""
    return tiny_runs["trimap"]


@pytest.mark.parametrize("name", FORWARDS)
def test_every_runtime_gives_the_probabilities_of_the_cards_snippet(name, run):
    for package in [package for part, package in NEEDS.items() if part in name]:
        pytest.importorskip(package)
    images = torch.rand(2, 3, 48, 32)
    expected = FORWARDS[CARD](run.weights, "cpu")(images)
    assert expected.std() > 0.01  # else the test says nothing
    most = 0.02 if name.endswith("bf16") else 1e-5
    torch.testing.assert_close(
        FORWARDS[name](run.weights, "cpu")(images), expected, rtol=0, atol=most
    )


def test_dice_is_that_of_the_evaluation(run):
    data = PolypDataset("phantom", 32)
    table = dice_by_runtime(run, data, ["ours, PyTorch fp32"]).set_index("runtime")
    expected = evaluate_run(run, dataset=data).headline["mean"]
    assert table.index.tolist() == [CARD, "ours, PyTorch fp32"]
    assert expected > 0.1  # else the test says nothing
    assert table["dice"].tolist() == pytest.approx([expected] * 2, abs=2e-3)  # stored as 8 bit
    assert table.loc[CARD, ["delta", "largest"]].tolist() == [0, 0]
    assert (
        abs(table.loc["ours, PyTorch fp32", "delta"])
        <= table.loc["ours, PyTorch fp32", "largest"]
        < 1e-3
    )


def test_a_runtime_that_differs_shows_as_delta(run, monkeypatch):
    nothing = {"nothing": lambda *_: lambda x: torch.eye(3)[0][None, :, None, None] + 0 * x}
    monkeypatch.setattr(bench_inference, "FORWARDS", {**FORWARDS, **nothing})
    card, other = dice_by_runtime(run, PolypDataset("phantom", 32), nothing).itertuples()
    assert other.dice == 0
    assert other.delta == -card.dice
    assert other.largest >= card.dice


def test_a_runtime_that_is_not_installed_is_left_out_by_name(run, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "openvino", None)
    table = dice_by_runtime(run, PolypDataset("phantom", 32), ["ours, OpenVINO fp32"])
    assert table["runtime"].tolist() == [CARD]
    assert "ours, OpenVINO fp32 is left out" in capsys.readouterr().out


def test_speed_has_a_row_per_width_runtime_and_batch(workers_here):
    settings = {"image_size": 32, "rounds": 2, "seconds": 0.01}
    table = speed([4], [CARD, "ours, PyTorch fp32"], [1, 2], **settings)
    assert table[["width", "runtime", "batch"]].to_numpy().tolist() == [
        [4, name, batch] for batch in (1, 2) for name in (CARD, "ours, PyTorch fp32")
    ]
    assert all(len(rates) == 2 and min(rates) > 0 for rates in table["rates"])
    assert (table["p50_ms"] > 0).all()
    assert (table["p50_ms"] <= table["p95_ms"]).all()
    assert table["mb"].nunique() == 1  # of one file


def test_the_times_of_a_frame_are_those_of_its_two_halves(run):
    times = frame_times(load_model(run.path, device="cpu"), (64, 80), repeats=3)
    assert times["predict_ms"] > 0
    whole = times["predict_ms"] + times["mask_ms"]
    assert times["mask_share"] == pytest.approx(times["mask_ms"] / whole)
