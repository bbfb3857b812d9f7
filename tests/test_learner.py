"""Optimizers and schedules: by what they do to weights, and at which rate."""

import numpy as np
import pytest
import torch

from polyp_utils.config import RECIPES, RunConfig
from polyp_utils.data.labels import get_scheme
from polyp_utils.device import get_compute
from polyp_utils.learner import Learner, linear
from polyp_utils.validation import Data

CPU = get_compute("cpu", "fp32")
TINY = {"width": 4, "image_size": 32, "batch_size": 4, "device": "cpu", "augment": "none"}


def started(**changes):
    config = RunConfig.from_recipe("quick", **TINY | changes)
    return Learner(config, get_scheme(config.scheme), CPU)


def test_a_linear_schedule_rises_and_falls_to_nothing():
    shares = [linear(step / 20, 0.25) for step in range(20)]
    assert shares[:6] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert np.diff(shares[5:]) == pytest.approx([-1 / 15] * 14)
    assert linear(0, 0) == 1


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
)  # Nesterov: the decay itself and 0.9 of the velocity that it has just become
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


def test_the_card_has_adam_and_no_schedule_but_the_plateau():
    card = RECIPES["seed"]
    assert (card.optimizer, card.schedule, card.weight_decay) == ("adam", "plateau", 0)
    learner = started(optimizer="adam", weight_decay=0.0, schedule="plateau", lr=0.1)
    assert type(learner.optimizer) is torch.optim.Adam
    assert len(learner.optimizer.param_groups) == 1
    for _ in range(learner.config.lr_patience + 2):
        learner.after_epoch(1.0)
    assert learner.optimizer.param_groups[0]["lr"] == pytest.approx(0.05)
