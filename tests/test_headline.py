"""Sums per image give every average and the loss as computed at once."""

import numpy as np
import pytest
import torch

from polyp_utils.config import RunConfig
from polyp_utils.data.dataset import PolypDataset
from polyp_utils.data.labels import get_scheme
from polyp_utils.data.splits import load_split
from polyp_utils.evaluation import CARD
from polyp_utils.headline import AVERAGES, Sums, class_mean, hypothesis, loss, sums_of
from polyp_utils.losses import CombinedLoss
from polyp_utils.training import fit


@pytest.fixture(scope="module")
def trained(tmp_path_factory, session_cache):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POLYP_RESULTS", str(tmp_path_factory.mktemp("trained")))
        tiny = {"limit": 20, "width": 4, "image_size": 32, "epochs": 3, "batch_size": 8}
        return fit(
            RunConfig.from_recipe("quick", scheme="unused-third", precision="fp32", lr=0.02, **tiny)
        )


@pytest.fixture(scope="module")
def data(session_cache):
    return PolypDataset("phantom", 32)


def test_sums_give_the_losses_and_the_dice_that_training_saw(trained, data):
    sums, rows = sums_of(trained, "test", data, "cpu"), np.arange(20)
    seen = trained.training["best_at_network_size"]["test"]
    assert loss(sums, rows) == pytest.approx(seen["loss"], rel=1e-5)
    assert sums.ce.mean() == pytest.approx(seen["ce"], rel=1e-5)
    per_image = [class_mean(sums, np.array([i]), 1, np.nan, [1]) for i in rows]
    assert np.nanmean(per_image) == pytest.approx(seen["dice_polyp"], abs=1e-6)


def test_the_loss_is_that_of_the_loss_module():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(10, 3, 16, 16, generator=generator, dtype=torch.float64)
    target = torch.randint(2, (10, 16, 16), generator=generator)
    p = logits.softmax(1)
    one_hot = torch.nn.functional.one_hot(target, 3).permute(0, 3, 1, 2)
    soft = torch.stack([(p * one_hot).sum((2, 3)), p.sum((2, 3)), one_hot.sum((2, 3)).double()])
    ce = torch.nn.functional.cross_entropy(logits, target, reduction="none").mean((1, 2))
    sums = Sums(np.zeros((3, 10, 3)), soft.numpy(), ce.numpy())
    module = CombinedLoss()
    parts = [module(logits[rows], target[rows]).item() for rows in (slice(0, 8), slice(8, 10))]
    assert loss(sums, np.arange(10)) == pytest.approx((8 * parts[0] + 2 * parts[1]) / 10)


def test_averages_by_hand():
    # two images, three classes; the third is never there: hits, predicted, true
    counts = np.array(
        [[[90, 4, 0], [80, 0, 0]], [[94, 6, 0], [90, 10, 0]], [[92, 8, 0], [90, 10, 0]]]
    )
    sums = Sums(counts, counts.astype(float), np.zeros(2))
    rows = np.arange(2)
    first, second = (180 / 186, 8 / 14), (160 / 180, 0)
    assert class_mean(sums, rows, 1, 1.0, range(3)) == pytest.approx(
        np.mean([(*first, 1), (*second, 1)])
    )
    assert class_mean(sums, rows, 1, np.nan, range(3)) == pytest.approx(np.mean([first, second]))
    assert class_mean(sums, rows, 1, 0.0, range(3)) == pytest.approx(
        np.mean([(*first, 0), (*second, 0)])
    )
    assert class_mean(sums, rows, 0, 1.0, range(3)) == pytest.approx(
        np.mean([340 / 366, 8 / 34, 1])
    )
    assert class_mean(sums, rows, 8, 1.0, range(3)) == class_mean(sums, rows, 0, 1.0, range(3))


def test_a_hypothesis_fits_what_it_made_and_not_what_it_did_not(trained, data, monkeypatch):
    val, test = (sums_of(trained, part, data, "cpu") for part in ("val", "test"))
    table = hypothesis([(val, test), (val, test)]).set_index("average")
    assert list(table.index) == list(AVERAGES)
    for figure in CARD:
        within = table[f"{figure} low"] <= table[figure]
        assert (within & (table[figure] <= table[f"{figure} high"])).all()
    name = "all classes, absent 1, batches of 8"
    made = {figure: table.loc[name, figure] for figure in CARD}
    monkeypatch.setattr("polyp_utils.headline.CARD", made)
    again = hypothesis([(val, test)]).set_index("average")
    assert all(again.loc[name, f"{figure} fits"] for figure in CARD)
    other = "all classes, absent 0, batches of 8"  # a third lower
    assert not again.loc[other, "test Dice fits"]


def test_split_ids_are_those_of_the_run(trained, data):
    ids = load_split("phantom-240").limited(20).test
    target = get_scheme("unused-third").encode(data.masks[data.rows(ids)])
    found = sums_of(trained, "test", data, "cpu").counts[2]
    assert found[:, 1].tolist() == (target == 1).sum((1, 2)).tolist()
