"""Scores of made-up predictions: known in theory, or recomputed with numpy and scipy."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import ndimage

from polyp_utils.common.config import RunConfig
from polyp_utils.common.exceptions import RunError
from polyp_utils.common.files import write_json
from polyp_utils.data.labels import POLYP, SCHEMES, get_scheme
from polyp_utils.data.splits import load_split
from polyp_utils.model.predict import polyp_and_classes
from polyp_utils.score.evaluation import evaluate_run
from polyp_utils.score.image import score_image
from polyp_utils.score.intervals import mean_interval
from polyp_utils.score.literature import CARD
from polyp_utils.score.protocols import NETWORK, ORIGINAL, PROTOCOLS
from polyp_utils.train.start import open_run

SIZE = 32
SPLIT = "phantom-240"
SCORES = ["dice", "iou", "precision", "recall"]  # recomputed below
LOSS = 0.25


@pytest.fixture(scope="module")
def with_empty(dataset):
    """A limit at which the validation part has one frame without a polyp."""
    masks = dataset.masks[dataset.rows(load_split(SPLIT).val)]
    return 1 + (masks == 0).all(dim=2).all(dim=1).int().argmax().item()


def constant(*probabilities):
    """The same everywhere, whatever the truth."""
    values = torch.tensor(probabilities)[:, None, None]
    return lambda levels: values.expand(-1, *levels.shape)


def perfect(scheme):
    """One-hot probabilities of the true classes, at network size."""
    classes = torch.arange(len(get_scheme(scheme).classes))[:, None, None]
    return lambda levels: (get_scheme(scheme).encode(levels[None]) == classes).float()


def random_levels(levels):
    """Three probabilities in steps of 1/255 that sum to 1, so that a PNG stores them exactly."""
    cuts = np.random.default_rng(int(levels.sum())).integers(256, size=(2, *levels.shape))
    low, high = np.sort(cuts, axis=0)
    return torch.from_numpy(np.stack([low, high - low, 255 - high])) / 255


def finished_run(dataset, scheme, predict, limit=4, data=None, **settings):
    """An untrained run: ``predict`` turns the mask (S, S) into probabilities."""
    given = {"image_size": SIZE, "scheme": scheme, "limit": limit, **settings}
    config = RunConfig.from_recipe("quick", split=SPLIT, **given)
    split = load_split(SPLIT).limited(limit)
    prints = {"data": data or dataset.fingerprint, "split_ids": split.fingerprint}
    with open_run(config, prints, "cpu") as run:
        pass
    write_json(run.path / "training.json", {"kept_at_network_size": {"test": {"loss": LOSS}}})
    for part in ("val", "test"):
        for frame_id, row in zip(split.part(part), dataset.rows(split.part(part)), strict=True):
            run.save_probabilities(part, frame_id, predict(dataset.masks[row]))
    return run


def polyp_rows(evaluation, size):
    table = evaluation.per_image
    return table[(table["class"] == POLYP) & (table["size"] == size)].set_index("id")


def area_shares(dataset, ids, size):
    if size == ORIGINAL:
        return np.array([(dataset.original_mask(i) > 127).mean() for i in ids])
    return (dataset.masks[dataset.rows(ids)] > 127).double().mean(dim=(1, 2)).numpy()


def by_numpy(predicted, truth):
    """Dice, IoU, precision and recall of two bool masks, by set arithmetic."""
    both, either = (predicted & truth).sum(), (predicted | truth).sum()
    if not either:
        return [np.nan] * 4
    dice = 2 * both / (predicted.sum() + truth.sum())
    shares = (both / part.sum() if part.any() else 0.0 for part in (predicted, truth))
    return [dice, both / either, *shares]


# --- known scores --------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_perfect_map_scores_one_and_at_the_original_size_its_resolution(scheme, dataset):
    found = evaluate_run(finished_run(dataset, scheme, perfect(scheme)), dataset=dataset)
    at_network = found.per_image[found.per_image["size"] == NETWORK]
    assert (at_network[SCORES].dropna() == 1).all(axis=None)
    dice = polyp_rows(found, ORIGINAL)["dice"]
    assert dice.between(0.8, 0.9999).all()
    assert dice.mean() > 0.9


@pytest.mark.parametrize("size", [ORIGINAL, NETWORK])
def test_predicting_polyp_everywhere_scores_as_the_area_implies(size, dataset, with_empty):
    run = finished_run(dataset, "binary", constant(0.0, 1.0), with_empty)
    found = polyp_rows(evaluate_run(run, "val", dataset), size)
    area = area_shares(dataset, found.index, size)
    assert (area == 0).sum() == 1
    assert found["dice"].to_numpy() == pytest.approx(2 * area / (1 + area))
    assert found["iou"].to_numpy() == pytest.approx(area)
    assert found["precision"].to_numpy() == pytest.approx(area)
    assert (found["recall"] == (area > 0)).all()  # absent but predicted: 0


@pytest.mark.parametrize("size", [ORIGINAL, NETWORK])
def test_an_empty_prediction_scores_zero_or_is_left_out_of_the_mean(size, dataset, with_empty):
    run = finished_run(dataset, "trimap", constant(1.0, 0.0, 0.0), with_empty)
    found = evaluate_run(run, "val", dataset)
    rows = polyp_rows(found, size)
    absent = area_shares(dataset, rows.index, size) == 0
    for score in SCORES:
        assert rows.loc[~absent, score].eq(0).all()
        assert rows.loc[absent, score].isna().all()
    summary = found.summary.set_index(["size", "class", "score"])
    assert summary.loc[(size, POLYP, "dice"), "n"] == with_empty - 1
    assert summary.loc[(size, "background", "dice"), "n"] == with_empty


def test_polyp_is_where_its_classes_sum_to_more_than_a_half(dataset):
    """Here argmax gives background, but P(polyp) + P(boundary) = 0.6."""
    found = evaluate_run(finished_run(dataset, "trimap", constant(0.4, 0.3, 0.3)), dataset=dataset)
    recall = found.summary[found.summary["score"] == "recall"].set_index(["size", "class"])["mean"]
    for size in (ORIGINAL, NETWORK):
        assert recall[size, POLYP] == recall[size, "background"] == 1
        assert recall[size, "polyp"] == 0


# --- recomputed scores ---------------------------------------------------------------------------


def test_scores_of_a_noisy_shifted_map_match_numpy_and_scipy(dataset):
    def shifted(levels):
        shift = torch.roll(random_levels(levels) + 3 * perfect("trimap")(levels), (3, -2), (1, 2))
        return shift / shift.sum(dim=0)

    run = finished_run(dataset, "trimap", shifted)
    scheme, evaluation = get_scheme("trimap"), evaluate_run(run, dataset=dataset)
    found = evaluation.per_image.set_index(["id", "size", "class"])[SCORES].sort_index()
    confusion = np.zeros((3, 3), int)
    for frame_id in load_split(SPLIT).test[:4]:
        stored = run.probabilities("test", frame_id, scheme).numpy()
        for size in (ORIGINAL, NETWORK):
            levels = dataset.original_mask(frame_id)
            if size == NETWORK:
                levels = dataset.masks[dataset.rows([frame_id])][0].numpy()
            zoom = (1, *(new / SIZE for new in levels.shape))
            options = {"order": 1, "grid_mode": True, "mode": "nearest"}
            enlarged = ndimage.zoom(stored, zoom, **options)
            classes, polyp = enlarged.argmax(axis=0), enlarged[1:].sum(axis=0) > 0.5
            truth = scheme.encode(torch.from_numpy(levels)[None])[0].numpy()
            expected = [by_numpy(polyp, levels > 127)]
            expected += [by_numpy(classes == index, truth == index) for index in range(3)]
            scores = found.loc[(frame_id, size)].loc[[POLYP, *scheme.classes]].to_numpy()
            np.testing.assert_allclose(scores, expected, atol=2e-3)
            if size == ORIGINAL:
                np.add.at(confusion, (truth, classes), 1)
    assert 0.2 < found["dice"].mean() < 0.95
    np.testing.assert_allclose(evaluation.confusion, confusion, rtol=1e-2, atol=20)
    assert evaluation.confusion.sum() == confusion.sum()


def test_the_merged_polyp_of_three_classes_is_the_polyp_of_two(dataset):
    def union(levels):
        background = random_levels(levels)[0]
        return torch.stack([background, 1 - background])

    three = evaluate_run(finished_run(dataset, "trimap", random_levels), dataset=dataset)
    two = evaluate_run(finished_run(dataset, "binary", union), dataset=dataset)
    for size in (ORIGINAL, NETWORK):
        merged = polyp_rows(three, size)[SCORES]
        pd.testing.assert_frame_equal(merged, polyp_rows(two, size)[SCORES])
        binary = two.per_image[
            (two.per_image["class"] == "polyp") & (two.per_image["size"] == size)
        ]
        assert merged.to_numpy() == pytest.approx(binary[SCORES].to_numpy())
        assert 0 < merged["dice"].mean() < 1


def test_polyp_and_classes_by_hand():
    probabilities = torch.tensor([[[0.6, 0.4, 0.5]], [[0.3, 0.3, 0.5]], [[0.1, 0.3, 0.0]]])
    polyp, classes = polyp_and_classes(probabilities, get_scheme("trimap"))
    assert polyp.tolist() == [[False, True, False]]
    assert classes.tolist() == [[0, 0, 0]]
    polyp, _ = polyp_and_classes(probabilities, get_scheme("unused-third"))
    assert polyp.tolist() == [[False, False, False]]


# --- the card's convention -----------------------------------------------------------------------


def test_card_scores_pool_batches_of_eight_and_score_an_unused_class_one(dataset):
    def shifted(levels):
        return torch.roll(perfect("unused-third")(levels), 4, dims=2)

    run = finished_run(dataset, "unused-third", shifted, limit=19)
    found = evaluate_run(run, dataset=dataset).card
    expected = {}
    for part in ("val", "test"):
        truth = dataset.masks[dataset.rows(load_split(SPLIT).part(part)[:19])].numpy() > 127
        predicted = np.roll(truth, 4, axis=2)
        per_batch = []
        for rows in (slice(0, 8), slice(8, 16), slice(16, 19)):  # the last weighs as much
            background = by_numpy(~predicted[rows], ~truth[rows])[0]
            per_batch.append((background + by_numpy(predicted[rows], truth[rows])[0] + 1) / 3)
        expected[part] = np.mean(per_batch)
    assert list(found) == list(CARD)
    assert list(found.values()) == pytest.approx([expected["val"], expected["test"], LOSS])


def test_a_last_batch_of_one_weighs_as_much_as_a_full_one(dataset):
    ids = load_split(SPLIT).test[:9]
    last = dataset.masks[dataset.rows(ids)][8]

    def all_polyp_on_the_last(levels):
        is_last = torch.equal(levels, last)
        return (constant(0.0, 1.0, 0.0) if is_last else perfect("unused-third"))(levels)

    run = finished_run(dataset, "unused-third", all_polyp_on_the_last, limit=9)
    area = (last > 127).double().mean().item()
    of_last = (0 + 2 * area / (1 + area) + 1) / 3
    assert evaluate_run(run, dataset=dataset).card["test Dice"] == pytest.approx((1 + of_last) / 2)


# --- summary, files, errors ----------------------------------------------------------------------


def test_polyp_dice_at_the_original_size_is_the_primary_score(dataset):
    found = evaluate_run(finished_run(dataset, "trimap", random_levels), dataset=dataset)
    first = found.summary.iloc[0]
    assert first[["size", "class", "score"]].tolist() == [ORIGINAL, POLYP, "dice"]
    expected = mean_interval(polyp_rows(found, ORIGINAL)["dice"])
    assert found.polyp_dice == expected
    overlap = found.summary["score"].isin([*SCORES, "specificity"])
    assert overlap.sum() == 2 * (3 + 1) * 5


@pytest.mark.parametrize(("scheme", "classes"), [("trimap", 3), ("binary", 2), ("unused-third", 3)])
def test_saved_files_hold_all_rows_and_strict_json(scheme, classes, dataset, with_empty):
    def predict(levels):
        return random_levels(levels)[:classes] if classes == 3 else constant(0.25, 0.75)(levels)

    run = finished_run(dataset, scheme, predict, with_empty)
    found = evaluate_run(run, "val", dataset)
    found.save(run, "val")

    table = pd.read_csv(run.path / "per_image.csv")
    assert len(table) == with_empty * 2 * (classes + 1)
    pd.testing.assert_frame_equal(table, found.per_image, check_dtype=False, atol=1e-5)
    assert table[SCORES].stack().dropna().between(0, 1).all()

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    summary = json.loads((run.path / "summary.json").read_text(), parse_constant=refuse)
    assert (summary["part"], summary["n"]) == ("val", with_empty)
    assert summary["card"] == pytest.approx(found.card, abs=1e-5)
    assert len(summary["scores"]) == len(found.summary)
    assert {row["protocol"] for row in summary["protocols"]} == set(PROTOCOLS)
    first, expected = summary["scores"][0], found.summary.iloc[0].to_dict()
    assert [first.pop("size"), expected.pop("size")] == [ORIGINAL, ORIGINAL]
    assert first == pytest.approx(expected, abs=1e-5)


def test_what_cannot_be_scored_is_null_in_the_summary(dataset):
    run = finished_run(dataset, "unused-third", perfect("unused-third"), limit=1)
    evaluate_run(run, dataset=dataset).save(run)
    rows = json.loads((run.path / "summary.json").read_text())["scores"]
    by_class = {row["class"]: row for row in rows if row["score"] == "dice"}
    assert [by_class["unused"][key] for key in ("mean", "low", "high", "n")] == [None] * 3 + [0]
    assert [by_class["polyp"][key] for key in ("low", "high", "n")] == [None, None, 1]


def test_other_data_are_refused(dataset):
    run = finished_run(dataset, "binary", constant(1.0, 0.0), data="0123456789abcdef")
    with pytest.raises(RunError, match=f"0123456789abcdef.*{dataset.fingerprint}"):
        evaluate_run(run, dataset=dataset)


def test_a_missing_prediction_is_named(dataset):
    run = finished_run(dataset, "binary", constant(1.0, 0.0))
    missing = run.prediction_path("test", load_split(SPLIT).test[2])
    missing.unlink()
    with pytest.raises(RunError, match=f"{missing} is missing"):
        evaluate_run(run, dataset=dataset)


def test_evaluate_run_opens_the_runs_data_set_itself(dataset):
    run = finished_run(dataset, "binary", perfect("binary"), limit=2)
    pd.testing.assert_frame_equal(
        evaluate_run(run).per_image, evaluate_run(run, dataset=dataset).per_image
    )


def test_the_true_polyp_is_the_mask_however_the_scheme_labels_its_levels():
    """`jpeg-levels` makes 246–254 another class; its polyp is scored against the whole mask."""
    levels = torch.tensor([[[0, 3, 250, 255]]], dtype=torch.uint8)
    predicted = torch.tensor([[1.0, 1, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0]])[:, None]
    table, _ = score_image(predicted, levels[0], get_scheme("jpeg-levels"))
    assert table.set_index("class").loc[POLYP, "dice"] == 1
    assert table.set_index("class").loc["level 255", "dice"] == pytest.approx(2 / 3)
