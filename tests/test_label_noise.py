"""Frames annotated twice: shifted, copied or different; on synthetic frames and Kvasir-SEG."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from polyp_utils.analyse import label_noise
from polyp_utils.analyse.label_noise import annotated_twice, ceiling, label_noise_findings
from polyp_utils.data.dataset import PolypDataset

HEIGHT, WIDTH = 120, 150


def frame(seed):
    """Smooth noise without dark pixels, uint8 (H, W, 3)."""
    noise = np.random.default_rng(seed).integers(60, 250, (12, 15, 3), np.uint8)
    return np.kron(noise, np.ones((10, 10, 1), np.uint8))


def mask(top, left, height=40, width=50):
    levels = np.zeros((HEIGHT, WIDTH), np.uint8)
    levels[top : top + height, left : left + width] = 255
    return levels


CROP = (slice(7, None), slice(11, None))
RNG = np.random.default_rng(9)
GRAINY = np.clip(frame(0) + RNG.integers(-2, 3, (HEIGHT, WIDTH, 3)), 0, 255).astype(np.uint8)
FRAMES = {
    "a": (frame(0), mask(40, 50)),
    "crop": (GRAINY[CROP], mask(40, 55)[CROP]),  # 5 of 50 columns off: Dice 0.9
    "copy": (frame(0), mask(40, 50)),  # and a copy of the annotation
    "brighter": (frame(0) + 5, mask(44, 50)),
    "other": (frame(1), mask(40, 55)),
}


@pytest.fixture
def dataset(monkeypatch):
    ids = sorted(FRAMES)
    longer = {i: max(FRAMES[i][1].shape) for i in ids}
    rows = [("a", other, False, longer["a"] / longer[other], 0.0) for other in ids[1:]]
    pairs = pd.DataFrame(rows, columns=["id_a", "id_b", "mirrored", "scale", "rotation"])
    monkeypatch.setattr(label_noise, "known_pairs", lambda name: pairs)
    sizes = torch.tensor([FRAMES[i][1].shape for i in ids])
    return SimpleNamespace(
        name="drawn",
        info=SimpleNamespace(title="Drawn"),
        sizes=sizes,
        rows=lambda wanted: torch.tensor([ids.index(i) for i in wanted], dtype=torch.int64),
        original=FRAMES.get,
        pairs=pairs,
    )


def test_a_shifted_frame_with_another_mask_is_found_and_scored_by_hand(dataset):
    (row,) = annotated_twice(dataset).to_dict("records")
    assert (row["id_a"], row["id_b"]) == ("a", "crop")
    assert row["dice"] == pytest.approx(0.9)
    assert 0.5 < row["difference"] < 2


@pytest.mark.parametrize("change", [{"mirrored": True}, {"scale": 1.3}, {"rotation": -2.0}])
def test_a_fit_that_is_not_a_pure_shift_is_ignored(dataset, monkeypatch, change):
    pairs = dataset.pairs.assign(**change)
    monkeypatch.setattr(label_noise, "known_pairs", lambda name: pairs)
    assert annotated_twice(dataset).empty


def test_sentences_with_and_without_a_ceiling(dataset, monkeypatch):
    scores = pd.Series([0.5, 0.95, np.nan, 0.97])
    none, few = pd.DataFrame({"dice": []}), pd.DataFrame({"dice": [0.9, 0.8]})
    enough = pd.DataFrame({"dice": np.linspace(0.9, 1, 11)})
    assert ceiling(none) is ceiling(few) is None
    assert ceiling(enough).mean == pytest.approx(0.95)
    assert ceiling(enough).n == 11
    assert label_noise_findings(none, scores, dataset)[0].endswith("cannot be measured.")
    assert label_noise_findings(few, scores, dataset)[0].startswith(
        "2 pairs of frames of Drawn look the same and are annotated separately (Dice 0.800 to 0.900"
    )
    first, second = label_noise_findings(enough, scores, dataset)
    assert "agree at Dice 0.950 [" in first
    assert "from 0.900 to 1.000" in first
    assert second.startswith(
        f"{(scores >= ceiling(enough).mean).sum()} of 3 frames here reach that"
    )
    monkeypatch.setattr(label_noise, "known_pairs", lambda name: None)
    assert annotated_twice(dataset).empty
    assert "audit --dataset drawn` looks for them" in label_noise_findings(none, scores, dataset)[0]


@pytest.mark.data
def test_kvasir_seg_holds_17_frames_twice(kvasir_root):
    twice = annotated_twice(PolypDataset("kvasir-seg", 256))
    assert len(twice) == 17
    assert len({*twice["id_a"], *twice["id_b"]}) == 34
    assert 0.92 < twice["dice"].mean() < 0.96
    assert twice["dice"].max() < 0.99  # not copies
