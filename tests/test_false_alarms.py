"""False-alarm rates, on tables made by hand."""

import numpy as np
import pandas as pd
import pytest

from polyp_utils.analyse.false_alarms import (
    CROPS,
    PHANTOMS,
    RATES,
    alarm_findings,
    false_alarm_rates,
)


def table_of(objects, frames=CROPS, groups=None):
    n = len(objects)
    rows = {"frames": frames, "id": [str(i) for i in range(n)], "group": groups or range(n)}
    marked = np.array(objects, float)
    return pd.DataFrame({**rows, "of_frame": 0.25, "objects": marked, "share": marked / 100})


def test_rates_by_hand():
    table = pd.concat([table_of([0, 0, 3, 1, np.nan]), table_of([2] * 4, PHANTOMS)])
    table.loc[table["objects"].isna(), "of_frame"] = np.nan
    found = false_alarm_rates(table)
    assert list(found) == [CROPS, PHANTOMS]
    assert [found[CROPS][rate].mean for rate in RATES] == pytest.approx([0.5, 1.0, 0.01])
    assert [found[PHANTOMS][rate].mean for rate in RATES] == pytest.approx([1.0, 2.0, 0.02])
    assert {interval.n for interval in found[CROPS].values()} == {4}


def test_near_duplicates_add_no_evidence():
    alone, together = (
        false_alarm_rates(table_of([1, 1, 1, 0, 0, 0] * 4, groups=groups))[CROPS][RATES[0]]
        for groups in (None, [i // 3 for i in range(24)])
    )
    assert alone.mean == together.mean
    assert together.high - together.low > 1.2 * (alone.high - alone.low)


def test_findings_count_and_say_what_is_left_out():
    table = pd.concat([table_of([0, 0, 3, 1, np.nan]), table_of([0] * 50, PHANTOMS)])
    table.loc[table["objects"].isna(), "of_frame"] = np.nan
    crops, phantoms, size = alarm_findings(table)
    assert crops.startswith("Crops beside the polyp (4): one false alarm or more in 2, 0.500 [")
    assert "1.000 [" in crops
    assert "(with none in 50, the true share may be up to 0.060)" in phantoms
    assert "true share" not in crops
    assert size.startswith("A crop covers 25 % of its frame (median), so the network sees it")
    assert "enlarged 2.0 times; 1 of 5 frames have no room" in size
    nothing = alarm_findings(table_of([np.nan]).assign(of_frame=np.nan))
    assert nothing == ["There was no crop and no phantom to look at."]
