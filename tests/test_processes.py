"""Two processes on the CPU train what one trains, and resume after one of them has died."""

import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from exact import float64
from safetensors.torch import load_file

from polyp_utils import cli
from polyp_utils.common import processes
from polyp_utils.common.config import RunConfig
from polyp_utils.common.device import get_compute
from polyp_utils.data.dataset import PolypDataset
from polyp_utils.data.labels import get_scheme
from polyp_utils.data.parts import Data
from polyp_utils.data.splits import load_split
from polyp_utils.model.losses import CombinedLoss
from polyp_utils.model.predict import predict
from polyp_utils.model.unet import UNet
from polyp_utils.model.weights import load_weights
from polyp_utils.runs.run import Run
from polyp_utils.train import fit as training
from polyp_utils.train import learner
from polyp_utils.train.fit import fit
from polyp_utils.train.validation import validate

# Batches of 8, 8 and 2 frames in 4 micro-batches: the second process has no frame of the last.
SMALL = {
    "dataset": "phantom",
    "name": "two",
    "limit": 18,
    "width": 4,
    "image_size": 32,
    "epochs": 3,
    "batch_size": 8,
    "lr": 0.01,
}
SMALL |= {"micro_batches": 4, "augment": "strong", "precision": "fp32", "device": "cpu"}
SMALL |= {"optimizer": "adamw", "weight_decay": 0.05, "schedule": "cosine", "clip_norm": 1.0}
SMALL |= {"ema_decay": 0.8}
TIMES = ["train_seconds", "images_per_second", "seconds", "peak_memory_mib"]


class Faulty(learner.Learner):
    """The second process dies or diverges in the second step of epoch FAULT_EPOCH."""

    def epoch(self, data, number):
        for step, losses in enumerate(super().epoch(data, number)):
            here = (os.environ["RANK"], step, str(number)) == ("1", 1, os.environ["FAULT_EPOCH"])
            if here and os.environ["FAULT"] == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            yield losses * float("nan") if here else losses


def main():
    """What each process does: the command line, in float64, with the fault requested."""
    fault, words = os.environ.get("FAULT"), sys.argv[1:]
    if fault == "lacks" and os.environ["RANK"] == "1":
        words += ["--dataset", "phantoms"]
    elif fault:
        training.Learner = Faulty
    with float64():
        sys.exit(cli.main(words))


def small(**changes):
    return RunConfig.from_recipe(**SMALL | changes)


def torchrun(results, fault="", epoch=0):
    """Trains with two processes, in their own results folder; returns the finished launcher."""
    words = ["train", "--recipe=card"]
    words += [f"--{key.replace('_', '-')}={value}" for key, value in SMALL.items()]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "POLYP_RESULTS": str(results), "FAULT": fault}
    return subprocess.run(
        [sys.executable, *launcher, __file__, *words],
        env=environment | {"FAULT_EPOCH": str(epoch)},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def of_two(tmp_path_factory):
    """A run of two processes that diverged after an epoch, then was killed after another.

    Also their output when resumed to the end, and a copy from when they had diverged.
    """
    results, copy = (tmp_path_factory.mktemp(name) for name in ("of-two", "diverged"))
    run = Run(results / small().name)
    for fault, finished in (("diverged", 1), ("killed", 2)):
        done = torchrun(results, fault, finished)
        assert done.returncode == 1
        assert len(run.history) == finished, done.stderr
        assert not run.finished
        if fault == "diverged":
            message = "error: the loss is nan from step 2 of epoch 2 on"
            assert done.stderr.count("error: the loss") == done.stderr.count(message) == 1
            assert "Traceback" not in done.stderr.split(message)[0]
            shutil.copytree(results, copy, dirs_exist_ok=True)
        else:
            assert "SIGKILL" in done.stderr
    return run, torchrun(results), copy


@pytest.fixture(scope="module")
def of_one(tmp_path_factory):
    """The uninterrupted run of one process that accumulates."""
    with pytest.MonkeyPatch.context() as patch, float64():
        patch.setenv("POLYP_RESULTS", str(tmp_path_factory.mktemp("of-one")))
        return fit(small())


def weights(run):
    tensors = load_file(run.weights)
    return {key: value for key, value in tensors.items() if value.is_floating_point()}


def assert_same(a, b):
    """Weights, running statistics and history except times.

    Float64 leaves less than 1e-12 of difference.
    """
    for key, value in weights(a).items():
        torch.testing.assert_close(value, weights(b)[key], rtol=0, atol=1e-9, msg=key)
    first, second = (run.history.drop(columns=TIMES) for run in (a, b))
    np.testing.assert_allclose(first, second, rtol=1e-5, atol=1e-9)  # six digits are written


def test_two_processes_that_die_and_resume_equal_one_that_accumulates(of_two, of_one):
    run, done, _ = of_two
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("resuming after epoch 2") == 1
    assert done.stdout.count("epoch 3/3") == 1
    assert_same(run, of_one)
    assert sorted(path.name for path in run.path.iterdir()) == [
        ".lock",
        "config.json",
        "history.csv",
        "model.safetensors",
        "predictions",
        "split.csv",
        "training.json",
        "unaveraged.safetensors",
    ]
    assert run.config == small()
    assert run.record["processes"] == 2
    assert run.training["device"].startswith("2 × cpu (")


@pytest.mark.usefixtures("exact")
def test_one_process_resumes_a_run_of_two(of_two, of_one, monkeypatch):
    monkeypatch.setenv("POLYP_RESULTS", str(of_two[2]))
    run = fit(small())
    assert [entry["processes"] for entry in run.record["resumed"]] == [1]
    assert_same(run, of_one)


@pytest.mark.usefixtures("exact")
def test_predictions_and_validation_are_merged_in_order(of_two):
    run, *_ = of_two
    model = load_weights(UNet(width=4), run.weights)
    compute, scheme = get_compute("cpu", "fp32"), get_scheme("trimap")
    data, split = PolypDataset("phantom", 32), load_split("phantom-240").limited(18)
    for part in ("val", "test"):
        ids = split.part(part)
        rows = data.rows(ids)
        expected = torch.stack(list(predict(model, data.images[rows], compute)))[:, 1:]
        assert (expected - expected.roll(1, 0)).abs().max() > 2 / 255  # or order would not show
        stored = torch.stack([run.probabilities(part, i, scheme)[1:] for i in ids])
        torch.testing.assert_close(stored, expected, rtol=0, atol=0.51 / 255)  # stored in 8 bits
        of_part = Data(ids, data.images[rows], data.masks[rows], compute.device)
        alone = validate(model, of_part, scheme, CombinedLoss(), compute, 8)
        assert run.training["kept_at_network_size"][part] == pytest.approx(alone, rel=1e-6)


def test_a_user_error_is_reported_by_the_first_process(monkeypatch, results):
    monkeypatch.setattr(processes, "size", lambda: 2)
    monkeypatch.setattr(processes, "gather", lambda value: [value] * 2)
    message = "micro_batches is 1 but there are 2 processes: use a multiple, or 0"
    with pytest.raises(ValueError, match=message):
        fit(small(micro_batches=1))
    monkeypatch.setattr(processes, "rank", lambda: 1)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the first stops all meanwhile
    with pytest.raises(SystemExit):
        fit(small(micro_batches=1))
    assert not results.exists()


def test_an_error_in_another_process_is_reported_by_the_first(results):
    done = torchrun(results, "lacks")
    assert done.returncode == 1
    message = "error: process 1: ValueError: unknown dataset 'phantoms'"
    assert done.stderr.count(message) == 1
    assert "Traceback" not in done.stderr.split(message)[0]
    assert not list(results.glob("*/last"))


@pytest.mark.usefixtures("exact")
def test_micro_batches_equal_a_plain_loop():
    """All frames of a batch have equal weight; batch norm and Dice are per micro-batch."""
    changes = {"epochs": 1, "batch_size": 6, "limit": 11, "micro_batches": 2, "lr": 1e-3}
    card = {"optimizer": "adam", "weight_decay": 0.0, "schedule": "plateau"}
    card |= {"clip_norm": 0.0, "ema_decay": 0.0, "augment": "none"}
    run = fit(small(**changes, **card))
    data, ids = PolypDataset("phantom", 32), load_split("phantom-240").train[:11]
    rows = data.rows(ids)[np.random.default_rng([0, 0]).permutation(11)]
    images = data.images[rows].to(memory_format=torch.channels_last) * (1 / 255)
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
        torch.testing.assert_close(value, model.state_dict()[key], rtol=0, atol=1e-6, msg=key)


@pytest.mark.parametrize(("count", "micro_batches"), [(1, 1), (1, 4), (2, 2), (2, 6), (3, 3)])
def test_the_shares_of_a_batch_are_whole_micro_batches(monkeypatch, count, micro_batches):
    monkeypatch.setattr(processes, "size", lambda: count)
    for frames in range(1, 14):
        rows = torch.randperm(frames)
        parts = []
        for rank in range(count):
            monkeypatch.setattr(processes, "rank", lambda rank=rank: rank)
            share = processes.own_share(rows, micro_batches)
            parts += share.tensor_split(micro_batches // count)
        expected = rows.tensor_split(micro_batches)
        assert [part.tolist() for part in parts] == [part.tolist() for part in expected]


@pytest.mark.parametrize(
    ("count", "changes", "message"),
    [
        (3, {}, "micro_batches is 4 but there are 3 processes: use a multiple, or 0"),
        (3, {"micro_batches": 0}, "batch_size is 8 but there are 3 processes, which share a batch"),
    ],
)
def test_a_batch_that_cannot_be_shared_is_rejected(monkeypatch, results, count, changes, message):
    monkeypatch.setattr(processes, "size", lambda: count)
    with pytest.raises(ValueError, match=message):
        learner.micro_batches(small(**changes))


@pytest.mark.parametrize(("count", "said"), [(2, ""), (3, "note: 3 processes share the 2 co")])
def test_fewer_cores_than_processes_is_reported(monkeypatch, capsys, count, said):
    for name, value in {
        "TORCHELASTIC_RUN_ID": "a",
        "WORLD_SIZE": 3,
        "LOCAL_WORLD_SIZE": count,
    }.items():
        monkeypatch.setenv(name, str(value))
    for name in ("init_process_group", "destroy_process_group"):
        monkeypatch.setattr(torch.distributed, name, lambda *_: None)
    monkeypatch.setattr(processes, "_cores", lambda: 2)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: print(f"{count} threads"))
    with processes.joined():
        pass
    assert capsys.readouterr().out.startswith(f"1 threads\n{said}")


@pytest.mark.parametrize("gpus", [1, 2])
def test_each_process_has_a_gpu_of_its_own(monkeypatch, gpus):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    for module in ("polyp_utils.common.device.size", "polyp_utils.common.processes.size"):
        monkeypatch.setattr(module, lambda: 2)
    monkeypatch.setattr("polyp_utils.common.device.local_rank", lambda: 1)
    if gpus == 2:
        assert get_compute("auto", "fp32").device == torch.device("cuda:1")
    else:
        with pytest.raises(ValueError, match=r"on this host \(1\): use --nproc-per-node=1"):
            get_compute("cuda", "fp32")


if __name__ == "__main__":
    main()
