"""Optimizers, schedules and moving averages: what they do to the weights, at which rate."""

import copy

import numpy as np
import pytest
import torch

from polyp_utils.common.config import RECIPES, RunConfig
from polyp_utils.common.device import get_compute
from polyp_utils.data.labels import get_scheme
from polyp_utils.data.parts import Data
from polyp_utils.model.losses import CombinedLoss
from polyp_utils.model.unet import UNet
from polyp_utils.train.learner import Learner, cosine, linear

CPU = get_compute("cpu", "fp32")
TINY = {"width": 4, "image_size": 32, "batch_size": 4, "device": "cpu", "augment": "none"}


def started(**changes):
    config = RunConfig.from_recipe("quick", **TINY | changes)
    return Learner(config, get_scheme(config.scheme), CPU)


def test_a_linear_schedule_warms_up_and_decays_to_zero():
    shares = [linear(step / 20, 0.25) for step in range(20)]
    assert shares[:6] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert np.diff(shares[5:]) == pytest.approx([-1 / 15] * 14)
    assert linear(0, 0) == 1


def test_a_cosine_schedule_warms_up_and_decays_to_a_thousandth():
    shares = [cosine(step / 20, 0.25) for step in range(20)]
    assert shares[:6] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    half = 0.001 + 0.999 * (1 + np.cos(np.pi * np.arange(15) / 15)) / 2
    assert shares[5:] == pytest.approx(half)
    assert cosine(1 - 1e-9, 0.05) == pytest.approx(1e-3)
    assert cosine(0, 0) == 1


@pytest.mark.parametrize("start", [0, 2])  # 2: it was killed after two epochs
def test_each_step_has_the_rate_of_its_place_in_the_run(monkeypatch, start):
    learner = started(schedule="linear", warmup=0.5, lr=0.4, epochs=4)
    rates = []
    monkeypatch.setattr(
        learner, "step", lambda *_: rates.append({g["lr"] for g in learner.optimizer.param_groups})
    )
    images = torch.zeros(6, 3, 32, 32, dtype=torch.uint8)
    data = Data(tuple("abcdef"), images, images[:, 0], CPU.device)
    for epoch in range(start, 4):
        list(learner.epoch(data, epoch))
        learner.after_epoch(1.0)  # validation changes nothing
    whole = [0, 0.1, 0.2, 0.3, 0.4, 0.3, 0.2, 0.1]
    assert [len(rate) for rate in rates] == [1] * len(rates)
    assert [rate.pop() for rate in rates] == pytest.approx(whole[2 * start :])


@pytest.mark.parametrize(
    ("optimizer", "kind", "decay"),
    [("adamw", torch.optim.AdamW, 0.1 * 0.2), ("sgd", torch.optim.SGD, 0.1 * 0.2 * 1.9)],
)  # Nesterov: the decay itself, and 0.9 of the velocity that it has just become
def test_weights_decay_and_batch_norms_do_not(optimizer, kind, decay):
    learner = started(optimizer=optimizer, lr=0.1, weight_decay=0.2)
    assert isinstance(learner.optimizer, kind)
    before = {name: p.detach().clone() for name, p in learner.model.named_parameters()}
    for p in learner.model.parameters():
        p.grad = torch.zeros_like(p)
    learner.optimizer.step()
    for name, p in learner.model.named_parameters():
        kept = 1 - decay if p.ndim == 4 else 1
        torch.testing.assert_close(p.detach(), kept * before[name], msg=name)


def frames(count):
    """Noise that a network can learn from: the mask is where it is bright."""
    images = torch.randint(0, 256, (count, 3, 32, 32), generator=torch.Generator().manual_seed(1))
    masks = (images.float().mean(1) > 140) * 255
    ids = tuple(map(str, range(count)))
    return Data(ids, images.byte(), masks.byte(), CPU.device)


@pytest.mark.usefixtures("exact")
def test_release_equals_a_plain_loop():
    """AdamW, clipping, cosine and moving average, written out."""
    learner = Learner(
        RunConfig.from_recipe(
            "release", **TINY, epochs=3, lr=0.01, warmup=0.2, ema_decay=0.9, clip_norm=0.1
        ),
        get_scheme("trimap"),
        CPU,
    )
    data, model, loss = frames(10), copy.deepcopy(learner.model), CombinedLoss()
    target = get_scheme("trimap").encode(data.masks)
    assert torch.equal(model.output.weight, unet_of_seed(0).output.weight)
    parameters, step = list(model.parameters()), 0
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in parameters]
    averaged, norms = None, []
    for epoch in range(3):
        list(learner.epoch(data, epoch))
        for rows in np.split(np.random.default_rng([0, epoch]).permutation(10), [4, 8]):
            done = step / 9
            rate = done / 0.2
            if done >= 0.2:
                rate = 0.001 + 0.999 * (1 + np.cos(np.pi * (done - 0.2) / 0.8)) / 2
            step += 1
            model.train()
            model.zero_grad()
            images = data.images[rows].to(memory_format=torch.channels_last) * (1 / 255)
            loss(model(images), target[rows]).backward()
            norm = torch.stack([p.grad.norm() for p in parameters]).norm().item()
            norms.append(norm)
            with torch.no_grad():
                for p, (first, second) in zip(parameters, moments, strict=True):
                    gradient = p.grad * min(1, 0.1 / (norm + 1e-6))
                    first += 0.1 * (gradient - first)
                    second += 0.001 * (gradient**2 - second)
                    if p.ndim == 4:
                        p *= 1 - 0.01 * rate * 0.05
                    corrected = (second / (1 - 0.999**step)).sqrt() + 1e-8
                    p -= 0.01 * rate * first / (1 - 0.9**step) / corrected
                now = {k: v.clone() for k, v in model.state_dict().items()}
                # the first state is copied; after it, t counts the earlier steps
                t = step - 1
                kept = min(0.9, (1 + t) / (10 + t)) if averaged else 0
                averaged = {k: kept * (averaged or now)[k] + (1 - kept) * v for k, v in now.items()}
    assert max(norms) > 0.12  # else nothing is clipped
    for state, expected in ((learner.model, now), (learner.kept, averaged)):
        for key, value in state.state_dict().items():
            if value.is_floating_point():
                torch.testing.assert_close(value, expected[key], rtol=0, atol=1e-6, msg=key)


def unet_of_seed(seed):
    torch.manual_seed(seed)
    return UNet(width=4)


@pytest.mark.parametrize("recipe", ["card", "quick", "release"])
def test_the_state_is_all_that_resuming_needs(recipe):
    config = RunConfig.from_recipe(recipe, **TINY, epochs=4, lr=0.01, lr_patience=0)
    data = frames(8)

    def trained(learner, epochs):
        for epoch in epochs:
            list(learner.epoch(data, epoch))
            learner.after_epoch(1.0)  # never better: a plateau
        return learner

    def new():
        return Learner(config, get_scheme(config.scheme), CPU)

    whole = trained(new(), range(4))
    state = copy.deepcopy(trained(new(), range(2)).state_dict())
    other = new()
    other.load_state_dict(state)
    trained(other, range(2, 4))
    for network in ("model", "kept"):
        pairs = zip(
            *(getattr(a, network).state_dict().values() for a in (whole, other)), strict=True
        )
        assert all(torch.equal(a, b) for a, b in pairs)


def test_the_card_uses_adam_and_only_the_plateau_schedule():
    card = RECIPES["card"]
    assert (card.optimizer, card.schedule, card.weight_decay) == ("adam", "plateau", 0)
    assert (card.clip_norm, card.ema_decay, card.keep, card.init) == (0, 0, "best", "")
    learner = started(optimizer="adam", weight_decay=0.0, schedule="plateau", lr=0.1, ema_decay=0.0)
    assert learner.kept is learner.model
    assert type(learner.optimizer) is torch.optim.Adam
    assert len(learner.optimizer.param_groups) == 1
    for _ in range(learner.config.lr_patience + 2):
        learner.after_epoch(1.0)
    assert learner.optimizer.param_groups[0]["lr"] == pytest.approx(0.05)
