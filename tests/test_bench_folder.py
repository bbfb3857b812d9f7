"""The speed of a folder: what is measured, and what it comes to."""

import pandas as pd
import pytest

from polyp_utils.bench import folder
from polyp_utils.bench.folder_findings import (
    ALL,
    LOOP,
    MAPS,
    OF_MAPS,
    OF_PICTURES,
    folder_findings,
)


class Here:
    """A pool of processes that works in this one: what is measured, not how fast."""

    def __init__(self, *_):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def submit(self, work, *arguments):
        found = work(*arguments)
        return type("Future", (), {"result": lambda _: found})()


def test_every_way_and_stage_is_measured(run, monkeypatch, tmp_path):
    monkeypatch.setattr(folder, "ProcessPoolExecutor", Here)
    monkeypatch.setattr(folder, "SIZE", (80, 64))
    table = folder.folder_speed([run], "phantom", frames=2, rounds=2)
    ways = {LOOP, MAPS, ALL, "network", *OF_MAPS, *OF_PICTURES}
    assert set(table["what"]) == ways
    assert (table["milliseconds"] > 0).all()
    assert list(folder_findings(table)["what"]) == [MAPS, ALL]


def test_findings_by_hand():
    took = dict.fromkeys(OF_MAPS, 10.0) | dict.fromkeys(OF_PICTURES, 5.0)
    took |= {LOOP: 200.0, MAPS: 50.0, ALL: 60.0, "network": 25.0}
    table = pd.DataFrame(
        {"run": "r", "cores": 2, "what": took.keys(), "milliseconds": took.values()}
    )
    maps, every = folder_findings(table).to_dict("records")
    assert (maps["frames_per_second"], maps["ratio"]) == (20, 4)
    assert (maps["beside_network"], maps["floor"], maps["of_floor"]) == (25, 20, 1.25)
    assert every["floor"] == 25
    assert every["of_floor"] == pytest.approx(35 / 25)
