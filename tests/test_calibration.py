"""Calibration of predictions whose calibration error is known."""

import numpy as np
import pytest
import torch

from polyp_utils.analyse.calibration import (
    LEVELS,
    LevelCounts,
    calibration_error,
    fit_temperature,
    level_counts,
    outline_band,
    reliability_table,
    scaled,
    threshold_table,
)
from polyp_utils.data.dataset import PolypDataset
from polyp_utils.runs.predictions import of_arrays


def counts_of(said, true, frames=20, pixels=1_000_000):
    """Frames in which a share ``true[i]`` of the pixels at level ``said[i]`` are polyp."""
    cells = np.zeros((frames, LEVELS), int)
    polyp = cells.copy()
    for level, share in zip(said, true, strict=True):
        cells[:, level], polyp[:, level] = pixels, round(share * pixels)
    return LevelCounts(cells, polyp)


def test_a_calibrated_system_has_no_error_and_temperature_1():
    levels = np.arange(1, LEVELS - 1)
    honest = counts_of(levels, levels / 255)
    assert calibration_error(honest).mean < 1e-5
    assert fit_temperature(honest) == pytest.approx(1, abs=1e-2)
    table = reliability_table(honest)
    np.testing.assert_allclose(table["said"], table["true"], atol=1e-5)
    assert len(table) == 15
    assert table["share"].sum() == pytest.approx(1)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_a_temperature_undoes_what_it_did(temperature):
    levels = np.arange(20, LEVELS - 20)
    sure = counts_of(levels, scaled(levels, temperature))
    assert fit_temperature(sure) == pytest.approx(temperature, rel=1e-3)
    assert calibration_error(sure).mean > 0.03
    assert calibration_error(sure, temperature).mean < 1e-5


def test_the_error_by_hand():
    found = calibration_error(counts_of([51, 204], [0.3, 0.5]))  # predicts 0.2 and 0.8
    assert found.mean == pytest.approx((0.1 + 0.3) / 2)
    assert found[1:4] == pytest.approx((found.mean, found.mean, 20))  # all frames are alike


def test_scores_by_threshold_by_hand():
    pixels, polyp = np.zeros((2, 2, LEVELS), int)
    pixels[0, [0, 128, 200]], polyp[0, [128, 200]] = (4, 4, 2), (2, 2)
    pixels[1, [0, 127]] = 8, 2  # no polyp: left out where nothing is marked, 0 where something is
    table = threshold_table(LevelCounts(pixels, polyp)).set_index("threshold")
    assert len(table) == LEVELS - 1
    half = table.loc[0.5]  # level 127 is below, 128 above it
    assert half["dice"] == pytest.approx(2 * 4 / (6 + 4))
    assert (half["precision"], half["recall"]) == (pytest.approx(4 / 6), 1)
    assert table["dice"].iloc[0] == pytest.approx(2 * 4 / (6 + 4) / 2)
    assert table["recall"].iloc[150] == pytest.approx(0.5)


def test_frames_that_differ_widen_the_interval():
    same = counts_of([204], [0.5])
    polyp = same.polyp.copy()
    polyp[::2] *= 2
    polyp[1::2] = 0
    found = calibration_error(LevelCounts(same.pixels, polyp))
    assert found.mean == pytest.approx(0.3)
    assert found.high - found.low > 0.2


def test_the_band_lies_on_both_sides_of_the_outline():
    polyp = torch.zeros(256, 256, dtype=torch.bool)
    polyp[100:150, 80:160] = True
    band = outline_band(polyp)
    assert band[:, 120].nonzero().flatten().tolist() == [
        97,
        98,
        99,
        100,
        101,
        102,
        *range(147, 153),
    ]
    assert not outline_band(torch.zeros(64, 64, dtype=torch.bool)).any()


def test_counts_of_real_predictions(session_cache):
    data = PolypDataset("phantom", 32)
    ids = data.ids[:4]
    masks = data.masks[data.rows(ids)].numpy() > 127
    counts = level_counts(
        of_arrays({i: 0.2 + 0.6 * m for i, m in zip(ids, masks, strict=True)}), data
    )
    everything, band = counts["all"], counts["band"]
    assert everything.pixels.sum(axis=1).tolist() == [32 * 32] * 4
    assert everything.pixels[:, 204].tolist() == masks.sum(axis=(1, 2)).tolist()
    assert everything.polyp[:, 204].sum() == masks.sum()
    assert everything.polyp[:, 51].sum() == 0
    assert 0 < band.pixels.sum() < everything.pixels.sum() / 2
    assert calibration_error(everything).mean == pytest.approx(0.2, abs=1e-3)
