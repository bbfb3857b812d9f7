"""Scores from counts against hand-computed values, numpy and MONAI."""

import numpy as np
import pytest
import torch

from polyp_utils.score.overlap import (
    Counts,
    batch_dice,
    card_dice,
    confusion_matrix,
    count,
    dice,
    iou,
    precision,
    recall,
)

SCORES = {"dice": dice, "iou": iou, "precision": precision, "recall": recall}
NAN = float("nan")


def random_maps(classes=3, batch=4, size=(9, 7), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(classes, (2, batch, *size), generator=generator)


def counts_of(tp, fp, fn, tn=0):
    return Counts(*(torch.tensor([[value]]) for value in (tp, fp, fn, tn)))


@pytest.mark.parametrize(
    ("tp", "fp", "fn", "scores"),
    [
        (3, 1, 2, {"dice": 6 / 9, "iou": 3 / 6, "precision": 3 / 4, "recall": 3 / 5}),
        (5, 0, 0, dict.fromkeys(SCORES, 1.0)),
        (0, 2, 3, dict.fromkeys(SCORES, 0.0)),  # both present, no overlap
        (0, 4, 0, dict.fromkeys(SCORES, 0.0)),  # predicted but absent
        (0, 0, 4, dict.fromkeys(SCORES, 0.0)),  # present but missed
        (0, 0, 0, dict.fromkeys(SCORES, NAN)),  # absent from both
    ],
)
def test_scores_by_hand(tp, fp, fn, scores):
    found = {name: score(counts_of(tp, fp, fn)).item() for name, score in SCORES.items()}
    assert found == pytest.approx(scores, nan_ok=True)


@pytest.mark.parametrize(
    ("counts", "expected"), [((0, 0, 0), 1.0), ((0, 4, 0), 0.0), ((3, 1, 2), 6 / 9)]
)
def test_card_dice_scores_an_absent_class_as_one(counts, expected):
    assert card_dice(counts_of(*counts)) == pytest.approx(expected)


def test_consecutive_images_are_pooled_into_batches():
    hits = torch.tensor([[4], [0], [2]])
    counts = Counts(hits, torch.tensor([[1], [3], [0]]), torch.tensor([[1], [0], [0]]), 0 * hits)
    expected = {1: [8 / 10, 0, 1], 2: [8 / 13, 1], 0: [12 / 17], 8: [12 / 17]}
    for size, values in expected.items():
        assert batch_dice(counts, size)[:, 0].tolist() == pytest.approx(values)
    empty = Counts(*(0 * c for c in counts))
    assert batch_dice(empty, 2).isnan().all()
    assert batch_dice(empty, 2, absent=0.5).tolist() == [[0.5], [0.5]]


def test_counts_by_hand():
    prediction = torch.tensor([[[0, 1, 1], [2, 2, 0]]])
    target = torch.tensor([[[0, 1, 2], [2, 0, 0]]])
    counts = count(prediction, target, 4)
    assert [x.tolist() for x in counts] == [
        [[2, 1, 1, 0]],
        [[0, 1, 1, 0]],
        [[1, 0, 1, 0]],
        [[3, 4, 3, 6]],
    ]
    expected = [4 / 5, 2 / 3, 2 / 4, NAN]
    assert dice(counts)[0].tolist() == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8])
def test_confusion_matrix_equals_numpy(classes, dtype):
    prediction, target = random_maps(classes, seed=classes).to(dtype)
    expected = np.zeros((4, classes, classes), np.int64)
    image = np.arange(4)[:, None, None]
    np.add.at(expected, (image, target.numpy(), prediction.numpy()), 1)
    matrix = confusion_matrix(prediction, target, classes)
    assert matrix.dtype == torch.int64
    assert np.array_equal(matrix.numpy(), expected)


def test_bool_masks_are_two_classes():
    prediction, target = random_maps(2)
    as_bool, as_int = (count(prediction.to(t), target.to(t), 2) for t in (torch.bool, torch.int64))
    for a, b in zip(as_bool, as_int, strict=True):
        assert torch.equal(a, b)


def test_iou_follows_from_dice_and_swapping_maps_swaps_precision_and_recall():
    prediction, target = random_maps()
    counts, swapped = count(prediction, target, 3), count(target, prediction, 3)
    torch.testing.assert_close(iou(counts), dice(counts) / (2 - dice(counts)))
    assert torch.equal(precision(counts), recall(swapped))
    assert torch.equal(dice(counts), dice(swapped))


def test_dice_equals_monai_where_the_class_is_present():
    prediction, target = random_maps(batch=6)

    def one_hot(x):
        return torch.nn.functional.one_hot(x, 3).movedim(-1, 1)

    monai = pytest.importorskip("monai.metrics")
    expected = monai.DiceMetric(include_background=True)(one_hot(prediction), one_hot(target))
    torch.testing.assert_close(dice(count(prediction, target, 3)).float(), expected.float())


def test_an_image_scores_the_same_alone_as_in_a_batch():
    prediction, target = random_maps()
    together = dice(count(prediction, target, 3))
    alone = [dice(count(p[None], t[None], 3)) for p, t in zip(prediction, target, strict=True)]
    assert torch.equal(together, torch.cat(alone))
    flipped = dice(count(prediction.flip(2), target.flip(2), 3))
    assert torch.equal(together, flipped)


@pytest.mark.parametrize(
    ("prediction", "target", "message"),
    [
        (torch.zeros(1, 4, 4).long(), torch.zeros(1, 4, 5).long(), r"\(1, 4, 4\).*\(1, 4, 5\)"),
        (torch.zeros(4, 4).long(), torch.zeros(4, 4).long(), r"class indices \(B, H, W\)"),
        (torch.full((1, 2, 2), 3), torch.zeros(1, 2, 2).long(), "prediction holds class 3 … 3"),
        (torch.zeros(1, 2, 2).long(), torch.full((1, 2, 2), -1), "target holds class -1"),
        (torch.zeros(1, 2, 2).byte(), torch.full((1, 2, 2), 255).byte(), "target holds class 255"),
        (torch.full((1, 2, 2), 0.7), torch.zeros(1, 2, 2).long(), "prediction is torch.float32"),
    ],
)
def test_invalid_class_maps_are_refused(prediction, target, message):
    with pytest.raises(ValueError, match=message):
        count(prediction, target, 3)
