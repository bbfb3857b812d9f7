"""What training and prediction promise, on the CPU and, with ``pytest -m cuda -n 0``, on a GPU.

Where both are available the CPU is the reference: in float32, without TF32 (10 bits, which PyTorch
lets cuDNN use by default), the two differ only in the order of their sums.
"""

import contextlib
import copy
import gc
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch._dynamo.utils import counters
from torch.nn.parallel import DistributedDataParallel

from polyp_utils.cli import main
from polyp_utils.common.config import RunConfig
from polyp_utils.common.device import get_compute, has_compiler
from polyp_utils.data.augment import PRESETS, augment, draw_parameters
from polyp_utils.data.dataset import PolypDataset
from polyp_utils.data.labels import get_scheme
from polyp_utils.data.parts import load_parts
from polyp_utils.data.splits import load_split
from polyp_utils.model.predict import freeze, predict
from polyp_utils.model.unet import UNet
from polyp_utils.model.weights import load_weights
from polyp_utils.runs.run import Run
from polyp_utils.train.fit import fit
from polyp_utils.train.learner import Learner

SMALL = {"limit": 12, "width": 4, "image_size": 32, "epochs": 3, "batch_size": 4, "lr": 0.01}
TIMES = ["train_seconds", "images_per_second", "seconds", "peak_memory_mib"]
CPU = get_compute("cpu", "fp32")
pytestmark = pytest.mark.usefixtures("one_thread")
needs_gpu = pytest.mark.cuda


def small(**changes):
    return RunConfig.from_recipe("quick", **SMALL | changes)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=needs_gpu)])
def device(request):
    return request.param


@pytest.fixture(autouse=True, scope="module")
def cublas_config():
    """Set early: PyTorch reads it once, at the first matrix product, deterministic or not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        yield


@pytest.fixture
def full_float32(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.fixture
def fit_apart(tmp_path_factory, monkeypatch):
    """fit() with its own results folder, so that the same settings can run twice."""

    def fit_in_folder(config):
        monkeypatch.setenv("POLYP_RESULTS", str(tmp_path_factory.mktemp("results")))
        return fit(config)

    return fit_in_folder


def images(count=5):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(256, (count, 3, 32, 48), dtype=torch.uint8, generator=generator)


def training_part(config, compute):
    split = load_split("phantom-240").limited(config.limit)
    return load_parts(PolypDataset("phantom", 32), split, compute.device)["train"]


def assert_equal_runs(a, b):
    """Compares tensors and history, except times."""
    first, second = load_file(a.weights), load_file(b.weights)
    assert all(torch.equal(first[key], second[key]) for key in first.keys() | second.keys())
    assert a.history.drop(columns=TIMES).equals(b.history.drop(columns=TIMES))


def test_a_short_run(device):
    run = fit(small(device=device))
    history = run.history
    assert np.isfinite(history).all(axis=None)
    assert history["train_loss"].is_monotonic_decreasing
    assert (history["peak_memory_mib"] > 0).all()
    hardware = torch.cuda.get_device_name() if device == "cuda" else "cpu ("
    assert run.training["device"].startswith(hardware)
    load_weights(UNet(width=4), run.weights)  # on the CPU, whatever trained it
    assert len(list((run.path / "predictions/test").iterdir())) == 12


@pytest.mark.parametrize("mirrored", [False, True])
def test_probabilities_are_those_of_the_plain_network_on_the_cpu(
    device, mirrored, trained_like, full_float32
):
    model, compute = trained_like(), get_compute(device, "fp32")
    turns = [[], [3], [2], [2, 3]] if mirrored else [[]]
    with torch.no_grad():
        x = images() / 255
        expected = sum(model(x.flip(turn)).softmax(dim=1).flip(turn) for turn in turns)
    found = torch.stack(list(predict(freeze(model, compute), images(), compute, 2, mirrored)))
    assert found.device == CPU.device
    assert expected.std() > 0.1  # or the test proves nothing
    # Rounding to 24 bits in two dozen layers: about 1e-6; to 11 (TF32) or 8 (bf16): over 1e-3.
    torch.testing.assert_close(found, expected / len(turns), rtol=0, atol=1e-4)


def test_folding_costs_bf16_no_precision(device, trained_like):
    if device == "cuda" and get_compute(device).dtype != torch.bfloat16:
        pytest.skip("this GPU is too old for bf16")
    model, compute = trained_like(), get_compute(device, "bf16")
    exact = torch.stack(list(predict(model, images(), CPU)))
    networks = (copy.deepcopy(model).to(compute.device), freeze(model, compute))
    plain, folded = (
        (torch.stack(list(predict(network, images(), compute))) - exact).abs().mean()
        for network in networks
    )
    assert 1e-4 < plain < 0.02  # it was bf16
    assert folded < 2 * plain  # rounds the weights once more, the activations once less


@contextlib.contextmanager
def group_of_one(device):
    """The process group that `processes.joined` makes, of this process alone."""
    backends = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
    store = dist.TCPStore("127.0.0.1", 0, 1, is_master=True)  # at any free port
    dist.init_process_group(backends, store=store, rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


def test_a_group_of_one_process_trains_the_same_as_a_process_without_a_group(device, fit_apart):
    """Gradients, losses and statistics pass through NCCL or Gloo unchanged."""
    config = small(device=device, precision="fp32", micro_batches=2, deterministic=True)
    alone = fit_apart(config)
    with group_of_one(device):
        together = fit_apart(config)
        learner = Learner(config, get_scheme("trimap"), get_compute(device, "fp32"))
        assert isinstance(learner._replica, DistributedDataParallel)
    first, second = load_file(alone.weights), load_file(together.weights)
    for key, value in first.items():
        # equal, except the running statistics, which are combined from two parts
        exact = {} if "running" in key else {"rtol": 0, "atol": 0}
        torch.testing.assert_close(second[key], value, **exact)


@needs_gpu
def test_a_run_killed_on_the_gpu_resumes_to_equal_tensors(results, fit_apart):
    settings = SMALL | {"limit": 32, "epochs": 8, "augment": "strong", "device": "cuda"}
    config = RunConfig.from_recipe("quick", **settings, deterministic=True)
    flags = [f"--{key.replace('_', '-')}={value}" for key, value in settings.items()]
    command = [sys.executable, "-m", "polyp_utils", "train", "--recipe=quick", *flags]
    run = Run(results / config.run_name)
    command.append("--deterministic")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # as here
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        while not (run.path / "last/state.pt").is_file():
            assert process.poll() is None, "it ended before it wrote a state"
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    assert 1 <= len(run.history) < config.epochs
    assert fit(config) == run
    assert run.finished
    assert_equal_runs(run, fit_apart(config))


@needs_gpu
@pytest.mark.parametrize("micro_batches", [1, 2])
def test_no_step_waits_for_the_gpu(micro_batches):
    """PyTorch raises an error wherever the host would have to wait."""
    compute, config = get_compute("cuda"), small(augment="strong", micro_batches=micro_batches)
    learner, data = Learner(config, get_scheme("trimap"), compute), training_part(config, compute)
    assert data.images.is_cuda
    list(learner.epoch(data, 0))  # the first steps may wait: they set up libraries
    torch.cuda.set_sync_debug_mode("error")
    try:
        losses = list(learner.epoch(data, 1))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.stack(losses).isfinite().all()


@needs_gpu
def test_the_first_losses_are_those_of_the_cpu(full_float32):
    config, losses = small(lr=1e-3), []
    for compute in (CPU, get_compute("cuda", "fp32")):
        learner = Learner(config, get_scheme("trimap"), compute)
        losses.append(torch.stack(list(learner.epoch(training_part(config, compute), 0))).cpu())
    assert (losses[0][0] - losses[0][-1]).abs().max() > 0.01  # or the test proves nothing
    # Adam turns the rounding of a gradient near 0 into a step of 1e-3, so they drift apart.
    torch.testing.assert_close(*losses, rtol=2e-3, atol=0)


@needs_gpu
def test_frames_are_augmented_as_on_the_cpu(dataset, full_float32):
    frames, masks = dataset.images[:8] / 255, dataset.masks[:8]
    drawn = draw_parameters(PRESETS["strong"], 0, 0, list(range(8)))
    expected, expected_masks = augment(frames, masks, drawn)
    found, found_masks = augment(frames.cuda(), masks.cuda(), drawn)
    assert found.is_cuda
    torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=1e-3)
    assert (found_masks.cpu() != expected_masks).float().mean() < 1e-3  # halfway between two pixels


@needs_gpu
def test_a_compiled_step_is_that_of_eager_mode(full_float32):
    compute, losses = get_compute("cuda", "fp32"), {}
    if not has_compiler(compute.device):
        pytest.skip("no triton")
    for mode in ("none", "default"):
        torch._dynamo.reset()
        counters.clear()
        config = small(lr=1e-3, compile_mode=mode)
        learner = Learner(config, get_scheme("trimap"), compute)
        losses[mode] = torch.stack(list(learner.epoch(training_part(config, compute), 0)))
        assert counters["stats"]["unique_graphs"] == (mode == "default")
    torch.testing.assert_close(losses["default"], losses["none"], rtol=2e-3, atol=0)  # as above


@needs_gpu
def test_out_of_memory_says_what_to_change(capsys):
    gc.collect()
    torch.cuda.empty_cache()
    total = torch.cuda.mem_get_info()[1]
    # The weights of width 64 take 124 MB.
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2**26) / total)
    words = ["--width=64", "--limit=8", "--image-size=32", "--epochs=1", "--device=cuda"]
    try:
        assert main(["train", "--recipe=quick", *words]) == 2
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    said = capsys.readouterr().err
    name = re.escape(torch.cuda.get_device_name())
    assert re.match(
        rf"error: out of memory: of the [\d.]+ GiB of {name} this process holds 0\.", said
    )
    assert "with batch_size 8, micro_batches 0, width 64. Use a smaller --batch-size" in said
    assert said.count("\n") == 1
