"""Leaks of random splits, and copied masks, on sets made by hand."""

from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from polyp_utils.analyse.leaks import copied_frames, copied_masks, leaked_share
from polyp_utils.data.split import Split


def pairs_of(*rows):
    return pd.DataFrame(rows, columns=["id_a", "id_b"]).assign(mirrored=False)


def test_the_share_that_leaks_is_what_chance_says():
    ids = [f"{i:03}" for i in range(100)]
    split = Split("s", tuple(ids[:80]), tuple(ids[80:90]), tuple(ids[90:]))
    pairs = pairs_of(*zip(ids[::2], ids[1::2], strict=True))  # each frame has one near-duplicate
    assert leaked_share(pairs, split) == pytest.approx(80 / 99, abs=0.02)
    assert leaked_share(pairs[:25], split) == pytest.approx(40 / 99, abs=0.02)
    assert leaked_share(pairs_of(("000", "elsewhere")), split) == 0
    assert leaked_share(pairs[:0], split) == 0


@pytest.fixture
def drawn():
    masks = torch.zeros(4, 10, 10, dtype=torch.uint8)
    masks[0, :, :4] = masks[1, :, 2:6] = masks[2, :, 6:] = 255  # the last has no polyp
    images = torch.zeros(4, 3, 10, 10, dtype=torch.uint8)

    class Drawn(list):
        info = SimpleNamespace(name="drawn")

        def rows(self, ids):
            return torch.tensor(["abcd".index(i) for i in ids], dtype=torch.int64)

    dataset = Drawn(zip(images, masks, strict=True))
    dataset.masks = masks
    return dataset


def test_a_copied_mask_is_scored_against_the_second_frame(drawn):
    pairs = pairs_of(("a", "c"), ("a", "b"), ("a", "d"), ("b", "c"))
    table = copied_masks(drawn, pairs.assign(mirrored=[False, False, False, True]))
    assert table["id_b"].tolist() == ["b", "c"]  # best first; mirrored, and without polyp: out
    assert table["copied"].tolist() == [0.5, 0]
    assert table["others"].tolist() == pytest.approx([(0.5 + 1 + 0 + 0) / 4, (0 + 0 + 1 + 0) / 4])
    assert copied_masks(drawn, pairs[:0]).empty

    first, second = copied_frames(drawn, table[:1])
    assert (second.prediction == first.truth).all()
    assert first.truth[:, :4].all()
    assert second.title.endswith("Dice 0.50")
    assert first.dataset == "drawn"
