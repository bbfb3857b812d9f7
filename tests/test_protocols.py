"""Made-up predictions have the theoretical scores under every protocol."""

import numpy as np
import pandas as pd
import pytest
import torch

from polyp_utils.data.dataset import PolypDataset
from polyp_utils.data.labels import POLYP, get_scheme
from polyp_utils.data.splits import load_split
from polyp_utils.runs.predictions import of_arrays, of_probabilities
from polyp_utils.score.evaluation import Evaluation, evaluate
from polyp_utils.score.image import score_image
from polyp_utils.score.intervals import BCA, NONE, PERCENTILE
from polyp_utils.score.protocols import (
    NETWORK,
    ORIGINAL,
    PROTOCOLS,
    polyp_scores,
    protocol_table,
    threshold_scores,
)

SIZE = 32


@pytest.fixture(scope="module")
def truth(dataset):
    """19 masks, the last one without a polyp."""
    empty = (dataset.masks <= 127).flatten(1).all(dim=1)
    rows = [*(~empty).nonzero()[:18, 0].tolist(), int(empty.nonzero()[0, 0])]
    return {dataset.ids[row]: dataset.original_mask(dataset.ids[row]) > 127 for row in rows}


@pytest.fixture(scope="module")
def perfect(truth, dataset):
    return evaluate(of_arrays(truth), dataset)


@pytest.fixture(scope="module")
def noise(truth):
    """The masks with a fifth of their pixels wrong."""
    rng = np.random.default_rng(1)
    return {i: mask ^ (rng.uniform(size=mask.shape) < 0.2) for i, mask in truth.items()}


@pytest.fixture(scope="module")
def noisy_scores(noise, dataset):
    return evaluate(of_arrays(noise), dataset)


def means(evaluation):
    table = evaluation.protocols
    assert set(table["protocol"]) == set(PROTOCOLS)
    return table.set_index(["protocol", "score"])["mean"].to_dict()


def test_a_perfect_mask(perfect, truth):
    """PraNet's rule scores frames without a polyp 0, and threshold 0 predicts everything."""
    found = means(perfect)
    for score in ("dice", "iou"):
        assert found["image-mean", score] == 1
        assert min(found["at-network-size", score], found["pooled", score]) > 0.99  # one resizing
    area = np.array([mask.mean() for mask in truth.values()])
    expected = np.where(area > 0, (255 + 2 * area / (1 + area)) / 256, 0)
    assert found["pranet", "dice"] == pytest.approx(expected.mean())
    assert found["card", "dice"] > 0.95


def test_an_empty_mask(truth, dataset):
    nothing = of_arrays({i: np.zeros_like(mask) for i, mask in truth.items()})
    found = means(evaluate(nothing, dataset))
    for name in ("image-mean", "at-network-size", "pooled"):
        assert found[name, "dice"] == found[name, "iou"] == 0
    # A constant map is not rescaled: only threshold 0 marks anything, and it marks everything.
    area = np.array([mask.mean() for mask in truth.values()])
    assert found["pranet", "dice"] == pytest.approx((2 * area / (1 + area)).mean() / 256)


def test_a_shifted_mask_pools_and_averages_differently(truth, dataset):
    def shifted(mask):
        return np.roll(mask, (9, -12), (0, 1))

    moved = of_arrays({i: shifted(mask) for i, mask in truth.items()})
    found = means(evaluate(moved, dataset))
    both = [(shifted(mask) & mask).sum() for mask in truth.values()]
    size = [mask.sum() for mask in truth.values()]
    per_image = [b / s for b, s in zip(both, size, strict=True) if s]
    assert found["image-mean", "dice"] == pytest.approx(np.mean(per_image))
    assert found["pooled", "dice"] == pytest.approx(sum(both) / sum(size), abs=0.05)  # at 32 px
    assert found["image-mean", "dice"] < found["pooled", "dice"] < 1  # small polyps lose the most


def test_pranets_score_as_their_loops_compute_it():
    rng = np.random.default_rng(0)
    mask = rng.uniform(size=(20, 24)) > 0.7
    probability = np.clip(0.2 + 0.5 * mask + rng.normal(0, 0.2, mask.shape), 0, 1)
    stretched = (probability - probability.min()) / np.ptp(probability)
    levels = np.round(255 * stretched).astype(np.uint8) / 255
    dice, iou = [], []
    for threshold in np.linspace(0, 1, 256):
        marked = levels >= threshold - 1e-9
        hits = (marked & mask).sum()
        dice.append(2 * hits / (marked.sum() + mask.sum()) if hits else 0)
        iou.append(hits / (marked | mask).sum() if hits else 0)
    found = threshold_scores(probability, mask)
    assert found["pranet_dice"] == pytest.approx(np.mean(dice))
    assert found["pranet_iou"] == pytest.approx(np.mean(iou))


def test_pooled_dice_is_the_dice_of_all_pixels_together(noisy_scores, noise, truth, dataset):
    rows = dataset.rows(truth)
    true = dataset.masks[rows].numpy() > 127
    resized = np.stack(
        [
            torch.nn.functional.interpolate(
                torch.from_numpy(mask.astype(np.float32))[None, None], (SIZE, SIZE), mode="bilinear"
            )[0, 0].numpy()
            > 0.5
            for mask in noise.values()
        ]
    )
    expected = 2 * (resized & true).sum() / (resized.sum() + true.sum())
    table = noisy_scores.protocols.set_index(["protocol", "score"])
    row = table.loc[("pooled", "dice")]
    assert row["mean"] == pytest.approx(expected)
    assert row["low"] < row["mean"] < row["high"]


def test_the_card_scores_an_absent_class_as_one(dataset, truth):
    ids = [i for i, mask in truth.items() if not mask.any()][:1]
    found = means(evaluate(of_arrays({i: truth[i] for i in ids}), dataset))
    assert found["card", "dice"] == 1
    assert np.isnan(found["image-mean", "dice"])


def test_groups_widen_the_intervals_of_every_protocol(noisy_scores):
    per_image = noisy_scores.per_image
    copies = [per_image.assign(id=per_image["id"] + f"-{k}") for k in range(4)]
    table = pd.concat(copies, ignore_index=True)
    groups = {i: i.rsplit("-", 1)[0] for i in table["id"].unique()}
    alone, grouped = (
        protocol_table(table, g).set_index(["protocol", "score"]) for g in ({}, groups)
    )
    width = (grouped["high"] - grouped["low"]) / (alone["high"] - alone["low"])
    assert (width > 1.5).all()  # in theory 2


def test_sizes_and_classes_are_those_of_the_table(perfect):
    per_image = perfect.per_image
    assert set(per_image["size"]) == {ORIGINAL, NETWORK}
    assert list(per_image["class"].unique()) == [POLYP, "background", "polyp"]


@pytest.mark.data
def test_a_perfect_mask_at_256_px_loses_what_its_resolution_costs(kvasir_root):
    """To 256 px (nearest) and back (bilinear, threshold 0.5), on 100 frames."""
    kvasir = PolypDataset("kvasir-seg", 256)
    ids = load_split("random-800-s42").test
    masks = kvasir.masks[kvasir.rows(ids)].numpy() > 127
    predictions = of_arrays(dict(zip(ids, masks, strict=True)))
    table = evaluate(predictions, kvasir, all_scores=False).per_image
    assert (polyp_scores(table, size=NETWORK) == 1).all()
    assert polyp_scores(table).mean() == pytest.approx(0.994, abs=1e-3)
    assert polyp_scores(table).min() >= 0.969


# An interval holds its mean, or there is none

SCHEME = get_scheme("unused-third")


def made_up(rng, n, frames_without, predict):
    """The table of n frames of 16 px, those without a polyp last; some predictions miss."""
    rows = []
    for i in range(n):
        mask = np.zeros((16, 16), bool)
        if i < n - frames_without:
            top, left = rng.integers(8, size=2)
            mask[top : top + rng.integers(4, 8), left : left + rng.integers(4, 8)] = True
        polyp = torch.from_numpy(predict(rng, mask).astype(np.float32))
        probabilities = torch.stack([1 - polyp, polyp, torch.zeros_like(polyp)])
        levels = torch.from_numpy(255 * mask.astype(np.uint8))
        for size in (ORIGINAL, NETWORK):
            scores, _ = score_image(probabilities, levels, SCHEME, size == ORIGINAL)
            rows.append(scores.assign(id=f"{i:02}", size=size))
    return pd.concat(rows, ignore_index=True)


def shifted(rng, mask):
    return np.roll(mask, rng.integers(4), axis=1)


def silent(rng, mask):
    return np.zeros_like(mask)


def noisy(rng, mask):
    return mask ^ (rng.uniform(size=mask.shape) < rng.choice([0, 0.02, 0.3]))


def either(rng, mask):
    return (np.ones_like(mask), mask)[rng.integers(2)]


def holds(row):
    if row["method"] == NONE:
        return np.isnan([row["low"], row["high"]]).all()
    return row["method"] in (BCA, PERCENTILE) and row["low"] <= row["mean"] <= row["high"]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("predict", [shifted, silent, noisy, either])
@pytest.mark.parametrize(
    ("n", "frames_without", "in_group"), [(1, 0, 1), (2, 1, 1), (9, 9, 9), (13, 7, 1), (26, 0, 3)]
)
def test_every_interval_holds_its_mean_or_there_is_none(n, frames_without, in_group, predict):
    rng = np.random.default_rng(n)
    table = made_up(rng, n, frames_without, predict)
    ids = table["id"].unique()
    groups = {i: int(i) // in_group for i in ids}
    nothing = of_probabilities([], SCHEME, "made up")
    found = Evaluation(nothing, table, np.zeros((3, 3)), groups)
    rows = found.summary.to_dict("records") + found.protocols.to_dict("records")
    assert [row for row in rows if not holds(row)] == []
    assert {row["protocol"] for row in rows if "protocol" in row} == set(PROTOCOLS)
    scored = [row for row in rows if row["n"] == n and row.get("protocol") != "card"]
    assert {row["method"] for row in scored} <= ({BCA, PERCENTILE} if n > in_group else {NONE})


def test_the_card_has_no_interval_where_the_order_of_frames_matters():
    """Batches of frames without polyps score 1 for polyp; shuffled, no batch is without one."""
    table = made_up(np.random.default_rng(0), 24, 16, shifted)
    mixed = [f"{i:02}" for i in np.random.default_rng(1).permutation(24)]
    rows = {
        order: protocol_table(of_order, {}).set_index("protocol").loc["card"]
        for order, of_order in (
            ("sorted", table),
            ("mixed", table.set_index("id").loc[mixed].reset_index()),
        )
    }
    assert rows["sorted"]["mean"] > rows["mixed"]["mean"] + 0.05
    assert (rows["sorted"]["method"], rows["mixed"]["method"]) == (NONE, PERCENTILE)
    assert rows["mixed"]["low"] < rows["mixed"]["mean"] < rows["mixed"]["high"]
    assert np.isnan(rows["sorted"][["low", "high"]].astype(float)).all()
