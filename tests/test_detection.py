"""Polyps as objects, on masks drawn by hand."""

import numpy as np

from polyp_utils.score.detection import detection_counts


def boxes(*corners, shape=(100, 100)):
    mask = np.zeros(shape, bool)
    for top, left, height, width in corners:
        mask[top : top + height, left : left + width] = True
    return mask


def counts(prediction, target, threshold):
    found = detection_counts(prediction, target)
    return tuple(found[f"{name}_{threshold}"] for name in ("found", "missed", "false"))


def test_found_at_one_threshold_and_missed_at_another():
    target, prediction = boxes((10, 10, 20, 20)), boxes((10, 20, 20, 20))  # IoU 1/3
    assert counts(prediction, target, "01") == (1, 0, 0)
    assert counts(prediction, target, "05") == (0, 1, 1)


def test_two_polyps_in_one_region_count_as_one_found():
    target = boxes((10, 10, 10, 20), (10, 35, 10, 20))
    assert counts(boxes((10, 10, 10, 45)), target, "01") == (1, 1, 0)


def test_each_region_is_matched_once_and_to_the_best():
    target = boxes((10, 10, 20, 20), (60, 60, 20, 20))
    prediction = boxes((10, 10, 20, 9), (10, 21, 20, 9), (60, 60, 20, 20))
    assert counts(prediction, target, "01") == (2, 0, 1)
    assert counts(prediction, target, "05") == (1, 1, 2)


def test_empty_masks_hold_no_objects_and_specks_do_not_count():
    nothing, speck = boxes(), boxes((5, 5, 2, 2))  # 0.04 % of the frame
    assert counts(nothing, nothing, "05") == (0, 0, 0)
    assert counts(speck, nothing, "05") == (0, 0, 0)
    assert counts(boxes((5, 5, 9, 9)), nothing, "05") == (0, 0, 1)
    assert counts(nothing, boxes((5, 5, 9, 9)), "05") == (0, 1, 0)
