"""Self-doubt, AUROC and risk–coverage against known values."""

import numpy as np
import pytest
import torch

from polyp_utils.analyse.uncertainty import auroc, risk_coverage_table, self_doubt
from polyp_utils.data.labels import get_scheme

TRIMAP = get_scheme("trimap")


def test_self_doubt_by_hand():
    polyp = torch.tensor([[0.9, 0.6], [0.1, 0.0]])
    doubt = self_doubt(torch.stack([1 - polyp, polyp, 0 * polyp]), TRIMAP)
    assert doubt == pytest.approx(1 - 2 * 1.5 / (1.6 + 2))
    for sure in (torch.zeros(2, 2), torch.ones(2, 2)):
        assert self_doubt(torch.stack([1 - sure, sure, 0 * sure]), TRIMAP) == 0


def test_auroc_by_hand():
    assert auroc([1, 2, 3, 4], [False, False, True, True]).mean == 1
    assert auroc([4, 3, 2, 1], [False, False, True, True]).mean == 0
    assert auroc([1, 3, 2, 4], [False, False, True, True]).mean == 0.75
    assert auroc([1, 1, 1, 1], [False, False, True, True]).mean == 0.5
    assert np.isnan(auroc([1, 2], [True, True]).mean)
    rng = np.random.default_rng(0)
    useless = auroc(rng.uniform(size=200), rng.uniform(size=200) < 0.3)
    assert useless.low < 0.5 < useless.high
    assert 0.1 < useless.high - useless.low < 0.25


def test_auroc_draws_whole_groups():
    rng = np.random.default_rng(0)
    score, bad = rng.uniform(size=60), np.arange(60) % 3 == 0
    alone, four = auroc(score, bad), auroc(np.tile(score, 4), np.tile(bad, 4))
    together = auroc(np.tile(score, 4), np.tile(bad, 4), groups=[*range(60)] * 4)
    assert together[:3] == pytest.approx(alone[:3])
    assert four.high - four.low < 0.6 * (alone.high - alone.low)


def test_risk_coverage_by_hand():
    table = risk_coverage_table([0.1, 0.9, 0.5, 0.2], [0.9, 0.1, np.nan, 0.5])
    assert table["coverage"].tolist() == pytest.approx([1 / 3, 2 / 3, 1])
    assert table["dice"].tolist() == pytest.approx([0.9, 0.7, 0.5])
    assert table["best"].tolist() == pytest.approx([0.9, 0.7, 0.5])
    wrong = risk_coverage_table([0.9, 0.1], [0.9, 0.1])
    assert wrong["dice"].tolist() == pytest.approx([0.1, 0.5])
    assert wrong["best"].tolist() == pytest.approx([0.9, 0.5])
