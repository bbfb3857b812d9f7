"""Training on phantoms: reproducible, resumable, equal to a plain loop written for the test."""

import io
import json
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from polyp_utils.cli import main
from polyp_utils.common.config import RunConfig
from polyp_utils.common.device import Compute, get_compute
from polyp_utils.common.exceptions import DivergedError, RunError, WeightsError
from polyp_utils.data.augment import PRESETS, augment, draw_parameters
from polyp_utils.data.dataset import PolypDataset
from polyp_utils.data.labels import get_scheme
from polyp_utils.data.parts import Data
from polyp_utils.data.splits import load_split
from polyp_utils.model.losses import CombinedLoss, inverse_sqrt_weights
from polyp_utils.model.predict import predict
from polyp_utils.model.unet import UNet
from polyp_utils.model.weights import load_weights, read_metadata
from polyp_utils.publish.run_card import write_run_card
from polyp_utils.runs.run import Run
from polyp_utils.score.evaluation import evaluate_run
from polyp_utils.train import fit as training
from polyp_utils.train import trainer
from polyp_utils.train.adopt import adopt
from polyp_utils.train.fit import fit
from polyp_utils.train.learner import Learner
from polyp_utils.train.trainer import Trainer

SMALL = {"dataset": "phantom", "limit": 12, "width": 4, "image_size": 32, "epochs": 2}
SMALL |= {"batch_size": 4, "lr": 1e-3, "device": "cpu"}
# Long enough to be killed midway, with everything that is random per epoch or has a state.
LONGER = SMALL | {"limit": 32, "epochs": 8, "lr": 0.01, "augment": "strong"}
LONGER |= {"optimizer": "adamw", "weight_decay": 0.05, "schedule": "cosine", "clip_norm": 1.0}
LONGER |= {"ema_decay": 0.8}
TIMES = ["train_seconds", "images_per_second", "seconds", "peak_memory_mib"]


def small(**changes):
    return RunConfig.from_recipe(**SMALL | changes)


def same_tensors(a, b, file="model.safetensors"):
    first, second = (load_file(run.path / file) for run in (a, b))
    return all(torch.equal(first[key], second[key]) for key in first.keys() | second.keys())


def same_history(a, b):
    first, second = (run.history.drop(columns=TIMES) for run in (a, b))
    return first.equals(second)


@pytest.mark.usefixtures("exact")
def test_a_compiled_run_learns_the_same_as_an_uncompiled_one(in_folder, monkeypatch):
    """With the compiler's front end alone, so that no C++ compiler is needed."""
    modes, sizes = [], []

    def compiled(model, mode, dynamic):
        modes.append(mode)
        model = real(model, backend="aot_eager", dynamic=dynamic)
        model.register_forward_pre_hook(lambda _, images: sizes.append(len(images[0])))
        return model

    real = torch.compile
    monkeypatch.setattr(torch, "compile", compiled)
    monkeypatch.setattr("polyp_utils.train.fit.has_compiler", lambda device: True)
    settings = {"limit": 9, "micro_batches": 2, "precision": "fp32", "lr": 0.01}
    both = (small(compile_mode=mode, **settings) for mode in ("reduce-overhead", "none"))
    with_it, without = map(in_folder, both)
    assert modes == ["reduce-overhead"]
    assert sizes == [2, 2, 2, 2, 1] * 2  # one micro-batch of the last batch is empty
    losses = [run.history["train_loss"].to_numpy() for run in (with_it, without)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)  # six digits are written
    assert losses[0][0] != losses[0][1]
    assert set(load_file(with_it.weights)) == set(load_file(without.weights))


def test_compiling_without_a_compiler_is_refused_before_any_work(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(ValueError, match=r"compile_mode is 'default' but .* no C\+\+ compiler"):
        fit(small(compile_mode="default"))


def test_gradients_that_cuda_graphs_cannot_accumulate_are_refused(monkeypatch):
    monkeypatch.setattr(training, "has_compiler", lambda device: True)
    on_gpu = Compute(torch.device("cuda"), torch.bfloat16)
    monkeypatch.setattr(training, "get_compute", lambda *_: on_gpu)
    with pytest.raises(ValueError, match="CUDA graphs cannot accumulate gradients, but micro"):
        fit(small(compile_mode="max-autotune", micro_batches=2))


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_a_step_never_waits_for_the_device(micro_batches):
    """Tensors on `meta` have no values: any read that would wait for a GPU fails."""
    nowhere = Compute(torch.device("meta"), torch.float32)
    config = small(augment="strong", micro_batches=micro_batches)
    learner = Learner(config, get_scheme("trimap"), nowhere)
    with nowhere.device:
        images = torch.empty(6, 3, 32, 32, dtype=torch.uint8)
        masks = torch.empty(6, 32, 32, dtype=torch.uint8)
    losses = list(learner.epoch(Data(tuple("abcdef"), images, masks, nowhere.device), 0))
    assert [loss.shape for loss in losses] == [(3,)] * 2
    with pytest.raises(RuntimeError, match="meta"):
        losses[0].sum().item()


def last_state(run):
    return torch.load(run.path / "last/state.pt", weights_only=True)


@pytest.fixture(scope="module")
def in_folder(tmp_path_factory):
    """fit() with its own results folder, so that the same settings can run twice."""

    def fit_apart(config):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("POLYP_RESULTS", str(tmp_path_factory.mktemp("results")))
            return fit(config)

    return fit_apart


@pytest.fixture(scope="module")
def base(in_folder):
    """A finished run of three epochs."""
    return in_folder(small(epochs=3, lr=0.01))


@pytest.fixture(scope="module")
def longer(in_folder):
    """The uninterrupted run that killed runs must equal."""
    return in_folder(RunConfig.from_recipe(**LONGER))


def test_the_run_folder_holds_what_it_should(base):
    assert sorted(path.name for path in base.path.iterdir()) == [
        ".lock",
        "config.json",
        "history.csv",
        "model.safetensors",
        "predictions",
        "split.csv",
        "training.json",
    ]
    assert base.history.columns.tolist() == [
        "epoch",
        "lr",
        *("train_loss", "train_ce", "train_dice_loss"),
        *("val_loss", "val_ce", "val_dice_loss"),
        *("val_dice_background", "val_dice_polyp", "val_dice_boundary", "val_polyp_dice"),
        *TIMES,
    ]
    assert base.history["epoch"].tolist() == [1, 2, 3]
    assert base.config == small(epochs=3, lr=0.01)
    assert base.finished


def test_the_losses_add_up_and_fall(base):
    history = base.history
    for part in ("train", "val"):
        parts = 0.5 * history[f"{part}_ce"] + 0.5 * history[f"{part}_dice_loss"]
        np.testing.assert_allclose(history[f"{part}_loss"], parts, rtol=1e-4)
    assert history["train_loss"].is_monotonic_decreasing


def test_equal_seeds_give_equal_results_and_other_seeds_others(base, in_folder):
    again, other = (in_folder(small(epochs=3, lr=0.01, seed=seed)) for seed in (0, 1))
    assert same_tensors(base, again)
    assert same_history(base, again)
    assert not same_tensors(base, other)
    assert not same_history(base, other)


@pytest.mark.usefixtures("exact")
def test_equals_a_plain_loop(monkeypatch):
    """The card's loop, written out: Adam, CE + Dice by formula, order from (seed, epoch)."""
    config = small(precision="fp32", seed=5, limit=10)  # the last batch has two frames
    states = []
    monkeypatch.setattr(
        Trainer, "_save", spy(Trainer._save, lambda t: states.append(copy(t.learner)))
    )
    run = fit(config)

    ids = load_split("phantom-240").train[:10]
    data = PolypDataset("phantom", 32)
    images = data.images[data.rows(ids)].to(memory_format=torch.channels_last) * (1 / 255)
    target = get_scheme("trimap").encode(data.masks[data.rows(ids)])
    torch.manual_seed(5)
    model = UNet(num_classes=3, width=4).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    model.train()
    for epoch, state in enumerate(states):
        losses = []
        for rows in np.split(np.random.default_rng([5, epoch]).permutation(10), [4, 8]):
            logits, truth = model(images[rows]), F.one_hot(target[rows]).movedim(-1, 1)
            p = logits.softmax(1)
            dice = 2 * (p * truth).sum((0, 2, 3)) / (p + truth).sum((0, 2, 3))
            ce = -(logits.log_softmax(1) * truth).sum(1).mean()
            loss = 0.5 * ce + 0.5 * (1 - dice.mean())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses += [loss.item()] * len(rows)
        # six digits are written
        assert run.history["train_loss"][epoch] == pytest.approx(np.mean(losses), rel=1e-5)
        for key, value in model.state_dict().items():
            torch.testing.assert_close(state[key], value, rtol=0, atol=1e-6, msg=key)  # of 6e-3


def spy(method, look):
    """The method, but `look` sees its object first."""

    def wrapped(self, *arguments):
        look(self)
        return method(self, *arguments)

    return wrapped


def copy(learner):
    return {key: value.clone() for key, value in learner.model.state_dict().items()}


def test_a_killed_run_resumes_to_the_same_end(results, longer, capsys):
    words = [f"--{key.replace('_', '-')}={value}" for key, value in LONGER.items()]
    words = ["train", "--recipe=card", *words]
    command = [sys.executable, "-m", "polyp_utils", *words]
    run = Run(results / longer.name)
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while not (run.path / "last/state.pt").is_file():
            assert process.poll() is None, "it ended before it wrote a state"
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert 1 <= len(run.history) < LONGER["epochs"]
    assert not run.finished

    capsys.readouterr()
    assert main(words) == 0
    assert "resuming after epoch" in capsys.readouterr().out
    assert run.finished
    assert same_tensors(run, longer)
    assert same_tensors(run, longer, "unaveraged.safetensors")
    assert not torch.equal(*(load_file(f)["output.bias"] for f in (run.weights, run.unaveraged)))
    assert same_history(run, longer)
    assert not (run.path / "last").exists()


@pytest.mark.parametrize(
    ("module", "writer", "call"),
    [(trainer, "save_weights", 1), (torch, "save", 2), (trainer, "write_json", 1)],
)
def test_a_run_that_died_while_writing_resumes_to_the_same_end(
    monkeypatch, base, module, writer, call
):
    write, calls = getattr(module, writer), []

    def die(*arguments):
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt
        return write(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(module, writer, die)
        with pytest.raises(KeyboardInterrupt):
            fit(base.config)
    run = fit(base.config)
    assert same_tensors(run, base)
    assert same_history(run, base)
    assert not list(run.path.rglob("*.tmp"))


def test_a_state_that_cannot_be_used_is_refused_and_nothing_changes(monkeypatch, results, base):
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "finish", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            fit(base.config)
    path = results / base.name / "last/state.pt"
    whole = path.read_bytes()

    def changed(change):
        state = torch.load(path, weights_only=True)
        change(state)
        file = io.BytesIO()
        torch.save(state, file)
        return file.getvalue()

    damaged = {
        "is empty": b"",
        "or damaged": whole[: len(whole) // 2],
        "a git-lfs pointer": b"version https://git-lfs.github.com/spec/v1",
        r"state\.pt holds numbers .* in model\.output\.bias \(1 NaN": changed(
            lambda state: state["model"]["output.bias"][:1].fill_(torch.nan)
        ),
        "optimizer.state.0.exp_avg": changed(
            lambda state: state["optimizer"]["state"][0]["exp_avg"].fill_(torch.inf)
        ),
        "that of a run with another lr, seed": changed(
            lambda state: state["settings"].update(seed=3, lr=1.0)
        ),
        "history": changed(lambda state: state.pop("history")),
        "list": changed(lambda state: state.update(optimizer=[])),
        "loading state_dict": changed(lambda state: state["model"].pop("output.bias")),
    }
    before = {p: p.read_bytes() for p in path.parents[1].rglob("*") if p.is_file() and p != path}
    for message, content in damaged.items():
        path.write_bytes(content)
        with pytest.raises(RunError, match=rf"cannot resume from .*{message}") as caught:
            fit(base.config)
        assert "put the right file back, or remove it" in str(caught.value)
        assert all(p.read_bytes() == content for p, content in before.items())
    path.write_bytes(whole)
    run = fit(base.config)
    assert same_tensors(run, base)
    assert same_history(run, base)


def test_a_run_begun_under_the_former_name_of_its_recipe_resumes(monkeypatch, results, base):
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "save_weights", lambda *_: 1 / 0)  # after the first state is written
        with pytest.raises(ZeroDivisionError):
            fit(base.config)
    begun = results / base.config.former_run_name
    (results / base.config.run_name).rename(begun)
    record = json.loads((begun / "config.json").read_text(encoding="utf-8"))
    record["settings"]["recipe"] = "seed"
    (begun / "config.json").write_text(json.dumps(record), encoding="utf-8")
    asked = {key: value for key, value in base.config.to_dict().items() if key != "recipe"}
    run = fit(RunConfig.from_recipe("seed", **asked))
    assert run.path == begun
    assert run.config == base.config
    assert same_tensors(run, base)
    assert same_history(run, base)
    assert not (results / base.config.run_name).exists()


def test_where_the_frames_lie_changes_nothing(monkeypatch, base, in_folder):
    """Read batch by batch from the memory map, or all at once onto the device."""
    monkeypatch.setattr("polyp_utils.data.parts.free_memory", lambda device: 2**40)
    resident = in_folder(base.config)
    assert same_tensors(base, resident)
    assert same_history(base, resident)


def test_a_finished_run_trains_nothing(monkeypatch, capsys):
    run = fit(small(epochs=1))
    before = {path: path.stat().st_mtime_ns for path in run.path.rglob("*")}
    monkeypatch.setattr(Trainer, "train", lambda *_: pytest.fail("it trained"))
    assert fit(small(epochs=1)) == run
    assert "is finished: nothing to train" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in run.path.rglob("*")} == before


def test_other_settings_are_refused_before_any_step(monkeypatch):
    run = fit(small(epochs=1, name="one"))
    weights = run.weights.read_bytes()
    monkeypatch.setattr(Trainer, "train", lambda *_: pytest.fail("it trained"))
    with pytest.raises(RunError, match=r"lr is 0.001 there and 0.002 now"):
        fit(small(epochs=1, lr=2e-3, name="one"))
    assert run.weights.read_bytes() == weights


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"limit": 3}, "batch_size is 4 but the training part of phantom-240 has 3 frames"),
        ({"split": "phantom-24"}, "did you mean 'phantom-240'"),
        ({"split": "random-800-s42"}, "random-800-s42 belongs to kvasir-seg, not to phantom"),
        ({"scheme": "neopolyp"}, "scheme neopolyp needs masks that tell neoplastic from non-neo"),
        ({"scheme": "binary", "class_weights": "inverse-sqrt"}, "but scheme binary has one logit"),
    ],
)
def test_what_cannot_work_stops_before_a_folder_is_made(results, changes, message):
    with pytest.raises(ValueError, match=message):
        fit(small(**changes))
    assert not results.exists()


@pytest.mark.parametrize(
    ("training_step", "validation", "message"),
    [
        (5, None, "the loss is nan from step 2 of epoch 2 on"),  # three steps per epoch
        (None, 4, "the loss is nan in the validation of epoch 2"),
    ],
)
def test_a_loss_that_is_not_a_number_stops_and_keeps_the_epoch_before(
    monkeypatch, results, base, training_step, validation, message
):
    terms, seen = CombinedLoss.terms, {True: 0, False: 0}
    bad_from = {True: training_step or 99, False: validation or 99}

    def diverge(self, logits, target):
        seen[logits.requires_grad] += 1
        bad = seen[logits.requires_grad] >= bad_from[logits.requires_grad]
        return tuple(term * float("nan") if bad else term for term in terms(self, logits, target))

    with monkeypatch.context() as patch:
        patch.setattr(CombinedLoss, "terms", diverge)
        with pytest.raises(DivergedError, match=message) as caught:
            fit(base.config)
    run = Run(results / base.name)
    assert str(run.path) in str(caught.value)
    assert len(run.history) == len(last_state(run)["history"]) == 1
    assert all(value.isfinite().all() for value in last_state(run)["model"].values())
    assert same_tensors(fit(base.config), base)  # the cause is gone: it resumes


def steered(monkeypatch, **columns):
    """Makes validation report the given values, one per epoch; collects each epoch's weights."""
    states = []
    validate = Learner.validate

    def validate_as_told(self, data, beat):
        epoch = min(len(states), len(next(iter(columns.values()))) - 1)
        states.append(copy(self))
        return validate(self, data) | {key: values[epoch] for key, values in columns.items()}

    monkeypatch.setattr(Learner, "validate", validate_as_told)
    return states


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ([0.2, 0.9, 0.5, 0.9], 2),  # the first of equals
        ([0.9, 0.1, 0.2, 0.3], 1),
        ([float("nan"), 0.0, 0.3, 0.2], 3),  # no polyp is found at first
        ([float("nan")] * 4, 1),
    ],
)
def test_the_best_epoch_on_validation_is_kept(monkeypatch, scores, best):
    states = steered(monkeypatch, polyp_dice=scores)
    run = fit(small(epochs=4))
    with safe_open(run.weights, "pt") as file:
        metadata = json.loads(file.metadata()["polyp_utils"])
    assert metadata["epoch"] == run.training["kept_epoch"] == best
    assert metadata["settings"] == run.config.to_dict()
    assert metadata["classes"] == ["background", "polyp", "boundary"]
    for key, value in load_file(run.weights).items():
        assert torch.equal(value, states[best - 1][key])


@pytest.mark.parametrize("ema_decay", [0.0, 0.5])
def test_the_last_epoch_is_kept_where_settings_say_so(monkeypatch, ema_decay):
    states = steered(monkeypatch, polyp_dice=[0.2, 0.9, 0.5])
    run = fit(small(epochs=3, keep="last", ema_decay=ema_decay))
    assert read_metadata(run.weights)["epoch"] == run.training["kept_epoch"] == 3
    assert run.training["kept_val_polyp_dice"] == 0.5
    last = run.unaveraged if ema_decay else run.weights
    for key, value in load_file(last).items():
        assert torch.equal(value, states[-1][key])


def test_the_test_part_is_left_alone_where_settings_say_so(monkeypatch):
    read = []
    monkeypatch.setattr(Run, "save_probabilities", lambda run, *what: read.append(what[:2]))
    run = fit(small(score_test=False))
    held_out = load_split("phantom-240").limited(12).val
    assert read == [("val", frame_id) for frame_id in held_out]
    assert run.training["kept_at_network_size"].keys() == {"val"}
    with pytest.raises(RunError, match="score_test False: its test part is left alone"):
        evaluate_run(run)


@pytest.mark.parametrize("ema_decay", [0.0, 0.5])
def test_weights_that_were_trained_elsewhere_become_a_run(run, tmp_path, ema_decay):
    bare = tmp_path / "bare.safetensors"
    save_file({key: value.half() for key, value in load_file(run.weights).items()}, bare)
    settings = small(init=str(bare), name="adopted", precision="fp32", ema_decay=ema_decay)
    there = adopt(settings, "someone made them")
    assert there.finished
    assert there.config == replace(settings, init="")
    assert there.record["note"] == "someone made them"
    for key, value in load_file(bare).items():
        assert torch.equal(load_file(there.weights)[key].half(), value)
    ids, scheme = load_split("phantom-240").limited(12).test, get_scheme("trimap")
    pairs = [[r.probabilities("test", i, scheme) for i in ids] for r in (there, run)]
    assert (torch.stack(pairs[0]) - torch.stack(pairs[1])).abs().max() < 0.1  # 16 bits, then 8
    assert read_metadata(there.weights)["run"] == "adopted"
    text = write_run_card(there).read_text()
    assert "**someone made them**" in text
    assert "No command of this repository made these weights" in text
    with pytest.raises(RunError, match="note is 'someone made them' there and '' now"):
        fit(there.config)
    with pytest.raises(WeightsError, match="not trained with scheme binary"):
        adopt(replace(settings, scheme="binary"), "x")
    with pytest.raises(ValueError, match="and a note on who made them"):
        adopt(small(), "x")


def test_in_a_real_run_the_epoch_with_the_highest_polyp_dice_is_kept(longer):
    scores = longer.history["val_polyp_dice"]
    assert scores.nunique() > 2  # or the test proves nothing
    assert read_metadata(longer.weights)["epoch"] == 1 + int(scores.argmax())


def test_validation_scores_can_be_recomputed_from_the_kept_weights(longer):
    model = load_weights(UNet(width=4), longer.weights)
    data, ids = PolypDataset("phantom", 32), load_split("phantom-240").limited(32).val
    rows = data.rows(ids)
    p = torch.stack(list(predict(model, data.images[rows], get_compute(), 4))).numpy()
    target = get_scheme("trimap").encode(data.masks[rows]).numpy()
    found, truth = p[:, 1] + p[:, 2] > 0.5, target > 0
    sizes = found.sum((1, 2)) + truth.sum((1, 2))
    overlap = (found & truth).sum((1, 2))
    polyp_dice = np.mean(2 * overlap[sizes > 0] / sizes[sizes > 0])
    ce = -np.log(np.take_along_axis(p, target[:, None], axis=1)).mean()

    row = longer.history.iloc[longer.training["kept_epoch"] - 1]
    at_the_end = longer.training["kept_at_network_size"]["val"]
    for seen in (row.filter(like="val_").rename(lambda name: name[4:]), at_the_end):
        assert seen["polyp_dice"] == pytest.approx(polyp_dice, rel=1e-5)
        assert seen["ce"] == pytest.approx(ce, rel=1e-4)


def test_the_learning_rate_halves_when_the_validation_loss_stalls(monkeypatch):
    steered(monkeypatch, loss=[1.0] * 8)
    run = fit(small(epochs=8, lr=3e-3, lr_patience=1, min_lr=1e-3))
    # Epoch 1 sets the mark, 2 is patience, 3 halves what 4 uses; then every second epoch.
    expected = [3e-3] * 3 + [1.5e-3] * 2 + [1e-3] * 3
    assert run.history["lr"].tolist() == pytest.approx(expected)


def test_losses_are_read_every_few_steps_not_at_every_step(monkeypatch):
    steps, reads = [], []
    monkeypatch.setattr(trainer, "READ_EVERY", 4)
    monkeypatch.setattr(Learner, "step", spy(Learner.step, lambda _: steps.append(1)))
    monkeypatch.setattr(Trainer, "_read", spy(Trainer._read, lambda _: reads.append(1)))
    run = fit(small(limit=40))  # ten steps per epoch: read after 4, 8, 10
    assert len(steps) == 20
    assert len(reads) == 2 * 3 + 2  # two more for the time estimate
    assert run.history["train_loss"].notna().all()


@pytest.mark.parametrize("scheme", ["trimap", "binary", "unused-third"])
def test_each_scheme_writes_the_predictions_of_its_best_weights(scheme):
    config = small(scheme=scheme, limit=32, epochs=6, lr=0.01, precision="fp32")
    run = fit(config)
    model = load_weights(UNet(num_classes=get_scheme(scheme).logits, width=4), run.weights)
    data, split = PolypDataset("phantom", 32), load_split("phantom-240").limited(32)
    assert not (run.path / "predictions/train").exists()
    for part in ("val", "test"):
        ids = split.part(part)
        files = sorted((run.path / "predictions" / part).iterdir())
        assert [file.stem for file in files] == sorted(ids)
        expected = list(predict(model, data.images[data.rows(ids)], get_compute("cpu", "fp32")))
        assert (expected[0] - expected[1]).abs().max() > 3 / 255  # or the test proves nothing
        for frame_id, probabilities in zip(ids, expected, strict=True):
            with Image.open(run.prediction_path(part, frame_id)) as image:
                assert (image.mode, image.size) == ("L" if scheme == "binary" else "LA", (32, 32))
            stored = run.probabilities(part, frame_id, get_scheme(scheme))
            torch.testing.assert_close(stored, probabilities, rtol=0, atol=1.02 / 255)
    columns = [f"val_dice_{name}" for name in get_scheme(scheme).classes]
    assert set(columns) <= set(run.history.columns)


def test_frames_are_augmented_by_seed_epoch_and_row(monkeypatch):
    """Each frame is augmented by its own draws, whatever the order."""
    seen = {}

    def watch(self, data, epoch):
        for images, masks in batches(self, data, epoch):
            seen.setdefault(epoch, []).append((images.clone(), masks.clone()))
            yield images, masks

    batches = Learner.batches
    monkeypatch.setattr(Learner, "batches", watch)
    fit(small(augment="strong", seed=5))
    data = PolypDataset("phantom", 32)
    rows = data.rows(load_split("phantom-240").limited(12).train)
    for epoch, found in seen.items():
        order = np.random.default_rng([5, epoch]).permutation(12)
        draws = draw_parameters(PRESETS["strong"], 5, epoch, order.tolist())
        frames = data.images[rows[order]].float() / 255
        images, masks = augment(frames, data.masks[rows[order]], draws)
        assert torch.equal(torch.cat([batch[1] for batch in found]), masks)
        torch.testing.assert_close(torch.cat([b[0] for b in found]), images, atol=1e-5, rtol=0)
    assert len(seen) == 2


def test_class_weights_come_from_the_training_part(monkeypatch):
    losses = []
    monkeypatch.setattr(Trainer, "train", lambda self, *_: losses.append(self.learner.loss))
    monkeypatch.setattr(Trainer, "finish", lambda *_: None)
    fit(small(class_weights="inverse-sqrt"))
    data = PolypDataset("phantom", 32)
    masks = data.masks[data.rows(load_split("phantom-240").limited(12).train)]
    pixels = torch.bincount(get_scheme("trimap").encode(masks).flatten(), minlength=3)
    torch.testing.assert_close(losses[0].class_weights, inverse_sqrt_weights(pixels))


def test_the_estimate_names_the_cost_and_what_would_be_quicker(capsys):
    run = fit(small(limit=24, epochs=1))  # six steps
    assert "for 1 epochs on cpu" in capsys.readouterr().out
    config, compute = RunConfig.from_recipe("card"), get_compute("cpu", "fp32")
    trainer = Trainer(Learner(config, get_scheme("trimap"), compute), run)
    # (64 · 256)² / (16 · 128)² = 64; 800 frames × 20 epochs × 0.36 s = 1.6 h
    assert trainer._estimate(0.36, 800).startswith("about 1.6 h for 20 epochs on cpu")
    assert "card-small (width 16, 128 px: 64 times less work)" in trainer._estimate(0.36, 800)
    assert "quicker" not in trainer._estimate(0.01, 800)


def test_a_second_process_is_told_that_the_run_is_being_trained(monkeypatch):
    messages = []

    def meanwhile(trainer, *data):
        with pytest.raises(RunError, match="is being trained by another process"):
            fit(small())
        messages.append("refused")

    monkeypatch.setattr(Trainer, "train", meanwhile)
    with pytest.raises(FileNotFoundError):  # nothing was trained here, so there are no weights
        fit(small())
    assert messages == ["refused"]
