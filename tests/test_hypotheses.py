"""Sums per image reproduce every average and the loss; the compatible hypotheses are named."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from polyp_utils import plots
from polyp_utils.common.config import RunConfig
from polyp_utils.common.exceptions import RunError
from polyp_utils.data.labels import get_scheme
from polyp_utils.data.splits import load_split
from polyp_utils.model.losses import CombinedLoss
from polyp_utils.score import intervals
from polyp_utils.score.evaluation import evaluate_run
from polyp_utils.score.literature import CARD
from polyp_utils.score.overlap import Counts, batch_dice
from polyp_utils.study import card_sums, hypotheses
from polyp_utils.study.card_sums import AVERAGES, LOSSES, Sums, averages, losses
from polyp_utils.study.hypotheses import LOSS, TEST, VALIDATION
from polyp_utils.train.fit import fit

FIRST, PER_IMAGE, POOLED, LEFT_OUT, ZERO, TWO = AVERAGES
AS_IS, SMOOTHED, ABSENT_LEFT_OUT, PERFECT = LOSSES


@pytest.fixture(autouse=True)
def fewer_resamples(monkeypatch):
    monkeypatch.setattr(intervals, "RESAMPLES", 299)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, dataset):
    """Evaluated runs of two seeds, each with its sums."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POLYP_RESULTS", str(tmp_path_factory.mktemp("trained")))
        tiny = {"limit": 20, "width": 4, "image_size": 32, "epochs": 3, "batch_size": 8}
        settings = {"scheme": "unused-third", "precision": "fp32", "lr": 0.02, **tiny}
        settings |= {"ce_weight": 0.5, "dice_weight": 0.5}  # as in the card
        runs = [fit(RunConfig.from_recipe("quick", seed=seed, **settings)) for seed in (0, 1)]
        for run in runs:
            evaluate_run(run, dataset=dataset).save(run)
        return [(run, card_sums.measure_sums(run, dataset, "cpu")) for run in runs]


def sums(counts, soft=None, ce=None):
    """Sums from numbers of hits, predicted and true pixels, (3, N, C)."""
    hits, predicted, true = torch.as_tensor(counts)
    tn = torch.zeros_like(hits)
    right, mass = torch.as_tensor(counts if soft is None else soft)[:2].double()
    ce = torch.zeros(len(hits)) if ce is None else ce
    return Sums(Counts(hits, predicted - hits, true - hits, tn), right, mass, ce)


def test_sums_give_the_losses_and_the_dice_that_training_saw(trained):
    run, table = trained[0]
    test = card_sums.sums_of(table, "test")
    seen = run.training["kept_at_network_size"]["test"]
    assert losses(test)[AS_IS] == pytest.approx(seen["loss"], rel=1e-5)
    assert test.ce.mean().item() == pytest.approx(seen["ce"], rel=1e-5)
    per_image = batch_dice(test.counts, 1)[:, 1]
    assert per_image.nanmean().item() == pytest.approx(seen["dice_polyp"], abs=1e-6)


def test_the_card_is_averaged_as_the_evaluator_does(trained, dataset):
    run, table = trained[0]
    card = evaluate_run(run, dataset=dataset).card
    for figure, part in ((VALIDATION, "val"), (TEST, "test")):
        # stored predictions have 8 bits, so an argmax may change
        assert averages(card_sums.sums_of(table, part))[FIRST] == pytest.approx(
            card[figure], abs=1e-3
        )


def test_stored_predictions_replace_missing_weights(trained, dataset):
    run, table = trained[0]
    kept = run.weights.rename(run.path / "kept.safetensors")
    predictions = run.path / "predictions"
    try:
        assert card_sums.is_measurable(run)
        stored = card_sums.measure_sums(run, dataset, "cpu")
        predictions.rename(run.path / "hidden")
        assert not card_sums.is_measurable(run)
        with pytest.raises(RunError, match="the run holds no prediction of"):
            card_sums.measure_sums(run, dataset, "cpu")
    finally:
        kept.rename(run.weights)
        (run.path / "hidden").rename(predictions)
    pd.testing.assert_frame_equal(stored[["part", "id", "class"]], table[["part", "id", "class"]])
    for part in ("val", "test"):
        rounded, exact = (card_sums.sums_of(t, part) for t in (stored, table))
        off = (rounded.mass - exact.mass).abs()
        # 1/510 per pixel and class; the background is one minus the two others
        assert 0 < off.max() < 1.01 * 2 * 32 * 32 / 510
        seen = run.training["kept_at_network_size"][part]
        # log p is far off only where the true class has a stored p of 0, which is rare
        assert losses(rounded)[AS_IS] == pytest.approx(seen["loss"], rel=0.01)
        assert rounded.ce.mean() != exact.ce.mean()


def test_the_loss_equals_that_of_the_loss_module():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(10, 3, 16, 16, generator=generator, dtype=torch.float64)
    target = torch.randint(2, (10, 16, 16), generator=generator)
    p = logits.softmax(1)
    one_hot = torch.nn.functional.one_hot(target, 3).permute(0, 3, 1, 2)
    true = one_hot.sum((2, 3))
    soft = torch.stack([(p * one_hot).sum((2, 3)), p.sum((2, 3)), true.double()])
    ce = torch.nn.functional.cross_entropy(logits, target, reduction="none").mean((1, 2))
    found = sums(torch.stack([true, true, true]), soft, ce)
    for way, absent in ((AS_IS, "include"), (ABSENT_LEFT_OUT, "exclude")):
        module = CombinedLoss(absent=absent)
        parts = [module(logits[rows], target[rows]).item() for rows in (slice(0, 8), slice(8, 10))]
        assert losses(found)[way] == pytest.approx((8 * parts[0] + 2 * parts[1]) / 10)
    # by hand: the absent class adds a third of one half to the loss, or nothing
    assert losses(found)[AS_IS] - losses(found)[PERFECT] == pytest.approx(1 / 6, abs=1e-6)
    assert losses(found)[AS_IS] - losses(found)[SMOOTHED] == pytest.approx(0, abs=1e-2)


def test_averages_by_hand():
    # two images, three classes, the third always absent: hits, predicted, true
    counts = np.array(
        [[[90, 4, 0], [80, 0, 0]], [[94, 6, 0], [90, 10, 0]], [[92, 8, 0], [90, 10, 0]]]
    )
    found = sums(counts)
    first, second = (180 / 186, 8 / 14), (160 / 180, 0)
    together = (340 / 366, 8 / 34)
    assert averages(found)[PER_IMAGE] == pytest.approx(np.mean([(*first, 1), (*second, 1)]))
    assert averages(found)[FIRST] == averages(found)[POOLED]
    assert averages(found)[POOLED] == pytest.approx(np.mean([*together, 1]))
    assert averages(found)[LEFT_OUT] == averages(found)[TWO] == pytest.approx(np.mean(together))
    assert averages(found)[ZERO] == pytest.approx(np.mean([*together, 0]))


def test_a_hypothesis_fits_its_own_figures_and_no_others(trained, monkeypatch):
    found = hypotheses.hypothesis(trained)
    assert len(found.whole) == 2
    for figure, ways in ((VALIDATION, AVERAGES), (TEST, AVERAGES), (LOSS, LOSSES)):
        for way in ways:
            interval = found.interval(figure, way)
            assert interval.low <= interval.mean <= interval.high
    made = {
        VALIDATION: found.interval(VALIDATION, FIRST).mean,
        TEST: found.interval(TEST, FIRST).mean,
        LOSS: found.interval(LOSS, AS_IS).mean,
    }
    monkeypatch.setattr(hypotheses, "CARD", made)
    assert found.compatible(FIRST, AS_IS) > 0.3
    assert found.compatible(ZERO, AS_IS) < 0.03  # a third lower
    assert found.compatible(FIRST, PERFECT) < 0.03  # a sixth lower
    behind = found.polyp_behind(FIRST)  # if our figure is the card's, so is our polyp Dice
    assert behind.low <= found.whole["polyp", ""].mean() <= behind.high
    monkeypatch.setattr(hypotheses, "CARD", {**made, TEST: made[TEST] + 9})
    assert np.isnan(found.polyp_behind(FIRST).mean)  # too far to extrapolate


def test_the_answer_names_what_fits_and_how_far_off_the_rest_is(trained, monkeypatch):
    found = hypotheses.hypotheses(trained)
    table = hypotheses.verdicts(found)
    assert len(found) == 1
    assert table["p"].is_monotonic_decreasing
    assert set(table["average"]) == set(AVERAGES)
    nothing = dict.fromkeys(CARD, 2.0)
    monkeypatch.setattr(hypotheses, "CARD", nothing)
    said = hypotheses.answer(hypotheses.verdicts(found))
    assert said[0].startswith("No hypothesis is compatible")
    best = hypotheses.verdicts(found)["by"].abs().min()
    assert f"is off by {best:.3f}." in said[1]
    top = table.iloc[0]
    monkeypatch.setattr(hypotheses, "CARD", {name: top[name].mean for name in CARD})
    said = hypotheses.answer(hypotheses.verdicts(found))
    assert "`unused-third` at width 4" in said[0]
    assert top["average"] in said[0]
    assert len(said) == 2


def test_seeds_must_share_scheme_and_width(trained):
    (run, table), (other, _) = trained
    record = {**other.record, "settings": {**other.record["settings"], "width": 6}}
    (other.path / "config.json").rename(other.path / "kept.json")
    try:
        (other.path / "config.json").write_text(json.dumps(record))
        with pytest.raises(ValueError, match=r"schemes and widths .*: give seeds of one"):
            hypotheses.hypothesis([(run, table), (other, table)])
        assert [h.width for h in hypotheses.hypotheses([(run, table), (other, table)])] == [4, 6]
    finally:
        (other.path / "kept.json").replace(other.path / "config.json")


def test_the_third_class_that_would_be_needed(trained):
    table = hypotheses.third_class(trained)
    for row in table.itertuples():
        assert np.isnan(row.third) or row.third == 0  # absent from the truth
        assert row.background + row.polyp + row.needed == pytest.approx(3 * CARD[TEST])


def test_stored_sums_are_read_back_unchanged(trained):
    run, table = trained[0]
    assert not card_sums.is_measured(run)
    with pytest.raises(RunError, match=r"holds no card_sums\.csv"):
        card_sums.read_sums(run)
    run.save_table(card_sums.TABLE, table)
    again = card_sums.read_sums(run)
    (run.path / "card_sums.csv").unlink()
    assert losses(card_sums.sums_of(again, "val"))[AS_IS] == pytest.approx(
        losses(card_sums.sums_of(table, "val"))[AS_IS], abs=1e-5
    )
    pd.testing.assert_frame_equal(again[["id", "tp", "fn"]], table[["id", "tp", "fn"]])


def test_only_runs_of_the_cards_recipe_are_found(trained, monkeypatch):
    run, _ = trained[0]
    monkeypatch.setenv("POLYP_RESULTS", str(run.path.parent))
    found = hypotheses.card_runs()
    assert run.name not in [r.name for r in found]  # it was trained on phantoms
    for other in found:
        config = other.config
        assert (config.dataset, config.image_size, config.epochs) == ("kvasir-seg", 256, 20)
        assert get_scheme(config.scheme).logits == 3


def test_split_ids_are_those_of_the_run(trained, dataset):
    _, table = trained[0]
    ids = load_split("phantom-240").limited(20).test
    target = get_scheme("unused-third").encode(dataset.masks[dataset.rows(ids)])
    counts = card_sums.sums_of(table, "test").counts
    assert (counts.tp + counts.fn)[:, 1].tolist() == (target == 1).sum((1, 2)).tolist()
    assert table.loc[table["part"] == "test", "id"].unique().tolist() == list(ids)


def test_figures_show_every_hypothesis_and_the_card(trained):
    found = hypotheses.hypotheses(trained)
    figure = plots.hypothesis_scores(found)
    labels = figure.legends[0].get_texts()
    assert {text.get_text() for text in labels} == {"unused-third, width 4", "model card"}
    cloud = plots.hypothesis_clouds(found, [FIRST, TWO], AS_IS)
    assert [axes.get_title() for axes in cloud.axes] == [f"Dice: {FIRST}", f"Dice: {TWO}"]
    for axes, way in zip(cloud.axes, (FIRST, TWO), strict=True):
        inside = axes.patches[0].contains_points
        points = axes.transData.transform(found[0].drawn[[(TEST, way), (LOSS, AS_IS)]].to_numpy())
        assert 0.85 <= inside(points).mean() <= 1
