"""Two processes on the CPU train what one trains, and go on after one of them has died."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from polyp_utils import distributed, learner
from polyp_utils.config import RunConfig
from polyp_utils.data.dataset import PolypDataset
from polyp_utils.data.labels import get_scheme
from polyp_utils.data.splits import load_split
from polyp_utils.device import get_compute
from polyp_utils.inference import load_weights, predict
from polyp_utils.losses import CombinedLoss
from polyp_utils.model import UNet
from polyp_utils.runs import Run
from polyp_utils.training import fit
from polyp_utils.validation import Data, validate

# Batches of 8, 8 and 2 frames in 4 micro-batches: in the last the second process has no frame.
SMALL = {"limit": 18, "width": 4, "image_size": 32, "epochs": 3, "batch_size": 8, "lr": 0.01}
SMALL |= {"micro_batches": 4, "augment": "strong", "precision": "fp32", "device": "cpu"}
TIMES = ["train_seconds", "images_per_second", "seconds", "peak_memory_mib"]
pytestmark = pytest.mark.usefixtures("one_thread")

FAULT = """
import os, signal, sys
from polyp_utils import training
from polyp_utils.cli import main

class Fault(training.Learner):
    def epoch(self, data, number):
        for step, losses in enumerate(super().epoch(data, number)):
            here = (number, step, os.environ["RANK"]) == ({epoch}, 1, "1")
            yield self.fault(losses) if here else losses

    def fault(self, losses):
        {fault}

training.Learner = Fault
sys.exit(main(sys.argv[1:]))
"""
KILLED = "os.kill(os.getpid(), signal.SIGKILL)"
DIVERGED = "return losses * float('nan')"


def small(**changes):
    return RunConfig.from_recipe("quick", **SMALL | changes)


def torchrun(results, *program, **changes):
    """Trains with two processes, in a results folder of their own; the finished launcher."""
    flags = {f"--{key.replace('_', '-')}": str(v) for key, v in (SMALL | changes).items()}
    words = ["train", "--recipe", "quick", *(word for flag in flags.items() for word in flag)]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "POLYP_RESULTS": str(results), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *launcher, *(program or ("-m", "polyp_utils")), *words],
        env=environment,
        preexec_fn=two_cores,
        capture_output=True,
        text=True,
        timeout=300,
    )


def two_cores():
    """So that each process has one thread, like this one: Adam blows up rounding."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])


@pytest.fixture(scope="module")
def of_two(tmp_path_factory):
    """A run of two processes, and what they said."""
    results = tmp_path_factory.mktemp("of-two")
    done = torchrun(results)
    assert done.returncode == 0, done.stderr[-3000:]
    return Run(results / small().run_name), done


def weights(run):
    tensors = load_file(run.weights)
    return {key: value for key, value in tensors.items() if value.is_floating_point()}


def assert_same(a, b, tolerance=1e-4):
    """Weights, running statistics and history, times aside."""
    for key, value in weights(a).items():
        torch.testing.assert_close(value, weights(b)[key], rtol=0, atol=tolerance, msg=key)
    first, second = (run.history.drop(columns=TIMES) for run in (a, b))
    np.testing.assert_allclose(first, second, rtol=0, atol=tolerance)


def test_two_processes_equal_one_that_accumulates(of_two):
    run, done = of_two
    assert_same(run, fit(small()))
    assert done.stdout.count("epoch 3/3") == 1
    assert sorted(path.name for path in run.path.iterdir()) == [
        ".lock",
        "config.json",
        "history.csv",
        "model.safetensors",
        "predictions",
        "training.json",
    ]
    assert run.config == small()
    assert run.record["processes"] == 2
    assert run.training["device"].startswith("2 × cpu (")


def test_predictions_and_validation_are_merged_in_order(of_two):
    run, _ = of_two
    model = load_weights(UNet(width=4), run.weights)
    compute, scheme = get_compute("cpu", "fp32"), get_scheme("trimap")
    data, split = PolypDataset("phantom", 32), load_split("phantom-240").limited(18)
    for part in ("val", "test"):
        ids = split.part(part)
        rows = data.rows(ids)
        probabilities = torch.stack(list(predict(model, data.images[rows], compute)))
        expected = (probabilities * 255).round()[:, 1:]
        assert (expected != expected.roll(1, 0)).float().mean() > 0.05  # else no order is seen
        stored = torch.stack([run.probabilities(part, i, scheme)[1:] for i in ids]) * 255
        assert (stored.round() != expected).float().mean() < 1e-4  # rounding may decide a level
        of_part = Data(ids, data.images[rows], data.masks[rows], compute.device)
        alone = validate(model, of_part, scheme, CombinedLoss(), compute, 8)
        assert run.training["best_at_network_size"][part] == pytest.approx(alone, rel=1e-6)


def test_a_run_whose_process_dies_goes_on_with_two_or_with_one(
    of_two, tmp_path, results, monkeypatch
):
    whole, _ = of_two
    for kind, epoch, fault in (("diverged", 1, DIVERGED), ("killed", 2, KILLED)):
        script = tmp_path / "fault.py"
        script.write_text(FAULT.format(epoch=epoch, fault=fault))
        done = torchrun(results, str(script))
        assert done.returncode == 1
        said = {"diverged": "error: the loss is nan since step 2 of epoch 2", "killed": "SIGKILL"}
        assert said[kind] in done.stderr
        run = Run(results / whole.name)
        assert len(run.history) == epoch
        assert not run.finished
        if kind == "diverged":
            assert done.stderr.count("error: the loss") == 1
            assert "Traceback" not in done.stderr.split("error: the loss is nan")[0]
            shutil.copytree(results, tmp_path / "with-one")
    done = torchrun(results)
    assert done.stdout.count("going on after epoch 2") == 1, done.stderr
    assert_same(run, whole, tolerance=0)

    monkeypatch.setenv("POLYP_RESULTS", str(tmp_path / "with-one"))
    alone = fit(small())
    assert [entry["processes"] for entry in alone.record["resumed"]] == [1]
    assert_same(alone, whole)


def test_what_the_user_can_mend_is_said_once(results):
    done = torchrun(results, micro_batches=1)
    assert done.returncode == 1
    message = "error: micro_batches is 1 but there are 2 processes: take a multiple, or 0"
    assert done.stderr.count(message) == 1
    assert "Traceback" not in done.stderr.split(message)[0]
    assert not results.exists()


def test_what_another_process_lacks_is_said_by_the_first(results, tmp_path):
    script = tmp_path / "lacks.py"
    script.write_text(
        "import os, sys\nfrom polyp_utils.cli import main\n"
        "sys.exit(main([*sys.argv[1:], '--dataset', 'phantom' + 's' * int(os.environ['RANK'])]))"
    )
    done = torchrun(results, str(script))
    assert done.stderr.count("error: process 1: ValueError: unknown dataset 'phantoms'") == 1
    assert not list(results.glob("*/last"))


def test_micro_batches_equal_a_plain_loop():
    """Each frame of a batch counts the same; batch norm and Dice are those of the micro-batch."""
    changes = {"epochs": 1, "batch_size": 6, "limit": 11, "micro_batches": 2, "lr": 1e-3}
    run = fit(small(**changes, augment="none"))
    data, ids = PolypDataset("phantom", 32), load_split("phantom-240").train[:11]
    rows = data.rows(ids)[np.random.default_rng([0, 0]).permutation(11)]
    images = data.images[rows].float().contiguous(memory_format=torch.channels_last) / 255
    target = get_scheme("trimap").encode(data.masks[rows])
    torch.manual_seed(0)
    model = UNet(width=4).to(memory_format=torch.channels_last)
    optimizer, loss = torch.optim.Adam(model.parameters(), 1e-3), CombinedLoss()
    for sizes in ([3, 3], [3, 2]):
        for size in sizes:
            (loss(model(images[:size]), target[:size]) * size / sum(sizes)).backward()
            images, target = images[size:], target[size:]
        optimizer.step()
        optimizer.zero_grad()
    for key, value in weights(run).items():
        # Adam turns rounding of a gradient near 0 into a full step, so a few may differ
        assert ((value - model.state_dict()[key]).abs() > 1e-4).float().mean() < 0.01, key


@pytest.mark.parametrize(("processes", "micro_batches"), [(1, 1), (1, 4), (2, 2), (2, 6), (3, 3)])
def test_the_shares_of_a_batch_are_whole_micro_batches(monkeypatch, processes, micro_batches):
    monkeypatch.setattr(distributed, "size", lambda: processes)
    for frames in range(1, 14):
        rows = torch.randperm(frames)
        parts = []
        for rank in range(processes):
            monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
            share = distributed.own_share(rows, micro_batches)
            parts += share.tensor_split(micro_batches // processes)
        expected = rows.tensor_split(micro_batches)
        assert [part.tolist() for part in parts] == [part.tolist() for part in expected]


@pytest.mark.parametrize(
    ("processes", "changes", "message"),
    [
        (3, {}, "micro_batches is 4 but there are 3 processes: take a multiple, or 0"),
        (3, {"micro_batches": 0}, "batch_size is 8 but there are 3 processes, which share a batch"),
    ],
)
def test_a_batch_that_cannot_be_shared_is_refused(
    monkeypatch, results, processes, changes, message
):
    monkeypatch.setattr(distributed, "size", lambda: processes)
    with pytest.raises(ValueError, match=message):
        learner.micro_batches(small(**changes))


@pytest.mark.parametrize(("processes", "said"), [(2, ""), (3, "note: 3 processes share the 2 co")])
def test_fewer_cores_than_processes_is_said(monkeypatch, capsys, processes, said):
    for name, value in {
        "TORCHELASTIC_RUN_ID": "a",
        "WORLD_SIZE": 3,
        "LOCAL_WORLD_SIZE": processes,
    }.items():
        monkeypatch.setenv(name, str(value))
    for name in ("init_process_group", "destroy_process_group"):
        monkeypatch.setattr(torch.distributed, name, lambda *_: None)
    monkeypatch.setattr(distributed, "_cores", lambda: 2)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: print(f"{count} threads"))
    with distributed.joined():
        pass
    assert capsys.readouterr().out.startswith(f"1 threads\n{said}")


@pytest.mark.parametrize("gpus", [1, 2])
def test_each_process_has_a_gpu_of_its_own(monkeypatch, gpus):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    for module in ("polyp_utils.device.size", "polyp_utils.distributed.size"):
        monkeypatch.setattr(module, lambda: 2)
    monkeypatch.setattr("polyp_utils.device.local_rank", lambda: 1)
    if gpus == 2:
        assert get_compute("auto", "fp32").device == torch.device("cuda:1")
    else:
        with pytest.raises(ValueError, match=r"on this host \(1\): take --nproc-per-node=1"):
            get_compute("cuda", "fp32")
