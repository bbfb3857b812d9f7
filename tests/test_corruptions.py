"""A fixed sample of corrupted inputs; all of them: `python -m polyp_utils faults`."""

import numpy as np
import pytest

from polyp_utils.data.masks import MaskFile
from polyp_utils.faults.corrupted import (
    AS_NAMED,
    LOST,
    MESSAGE,
    TRACEBACK,
    WRONG,
    Corrupted,
    try_corruptions,
)
from polyp_utils.faults.corruption import CORRUPTIONS, REFUSED


@pytest.fixture(scope="module")
def corrupted(tmp_path_factory):
    world = Corrupted(tmp_path_factory.mktemp("corrupted"))
    yield world
    world.close()


@pytest.mark.parametrize("first", range(0, 100, 10))
def test_each_comes_to_what_it_must(corrupted, first):
    rows = [corrupted.suffer(seed) for seed in range(first, first + 10)]
    assert [row for row in rows if row["outcome"] != AS_NAMED] == []


def test_a_wrong_number_a_traceback_a_loss_and_a_poor_message_are_noticed(corrupted, monkeypatch):
    seed = list(CORRUPTIONS).index("class_labels")

    def outcome(check):
        monkeypatch.setattr(MaskFile, "check", check)
        return corrupted.suffer(seed)

    def fails(error):
        def check(mask):
            raise error

        return check

    def deletes(mask):
        mask.name.unlink()
        raise ValueError(f"{mask.name} is deleted")

    row = outcome(lambda mask: None)
    assert (row["expected"], row["outcome"]) == (REFUSED, WRONG)
    assert outcome(fails(KeyError("levels")))["outcome"] == TRACEBACK
    assert outcome(fails(ValueError("bad mask")))["outcome"] == MESSAGE
    assert outcome(deletes)["outcome"] == LOST


def test_the_campaign_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    tried = []

    def suffer(self, seed):
        tried.append(seed)
        return {"seed": seed, "outcome": AS_NAMED, "message": ""}

    monkeypatch.setattr(Corrupted, "__init__", lambda self, folder: None)
    monkeypatch.setattr(Corrupted, "close", lambda self: None)
    monkeypatch.setattr(Corrupted, "suffer", suffer)
    try_corruptions(tmp_path / "table.csv", 3)
    table = try_corruptions(tmp_path / "table.csv", 5)
    assert tried == list(table["seed"]) == list(np.arange(5))
