"""Types of error on masks drawn by hand."""

import numpy as np
import pandas as pd
import pytest

from polyp_utils.analyse.failure_types import (
    BANDS,
    COSTS,
    OBJECTS,
    band_table,
    cost_findings,
    dice_costs,
    failure_findings,
    find_objects,
    object_errors,
    pixel_errors,
)


def boxes(*corners, shape=(256, 256)):
    mask = np.zeros(shape, bool)
    for top, left, height, width in corners:
        mask[top : top + height, left : left + width] = True
    return mask


POLYP = (100, 100, 40, 60)
KINDS = ("found", "missed", "split", "merged", "spilled", "hallucinated")


FAR = (10, 10, 20, 20)


@pytest.mark.parametrize(
    ("predicted", "truth", "expected"),
    [
        ([], [], {}),
        ([POLYP], [POLYP], {"found": 1}),
        ([], [POLYP, FAR], {"missed": 2}),
        ([FAR], [], {"hallucinated": 1}),
        ([FAR], [POLYP], {"missed": 1, "hallucinated": 1}),
        ([FAR], [POLYP, FAR], {"found": 1, "missed": 1}),
        ([(100, 100, 40, 25), (100, 135, 40, 25)], [POLYP], {"found": 1, "split": 1}),
        ([(90, 90, 60, 140)], [POLYP, (100, 170, 40, 55)], {"found": 2, "merged": 1}),
        ([(100, 100, 120, 60)], [POLYP], {"found": 1, "spilled": 1}),  # 80 of 120 rows lie outside
        ([(100, 100, 40, 50)], [POLYP], {"found": 1}),  # part of it, in one piece
        ([(100, 100, 40, 6)], [POLYP], {"found": 1}),  # exactly a tenth of it
        ([(100, 100, 40, 5)], [POLYP], {"missed": 1}),  # a twelfth of it, though all polyp
        ([(100, 100, 2, 16)], [POLYP], {"missed": 1}),  # a speck: 32 of 65,536 px
        ([POLYP, (10, 10, 4, 8)], [POLYP, (200, 200, 4, 8)], {"found": 1}),  # specks on both sides
        # It covers the polyp, but only a 17th of it is polyp: found and spilled, not hallucinated.
        ([(40, 40, 160, 160)], [(100, 100, 30, 50)], {"found": 1, "spilled": 1}),
        # Two regions, each covering a twelfth of the polyp and mostly outside it, do not find it.
        (
            [(30, 100, 75, 40), (135, 100, 75, 40)],
            [POLYP],
            {"missed": 1, "hallucinated": 2},
        ),
    ],
)
def test_outcomes_of_polyps(predicted, truth, expected):
    found = object_errors(boxes(*predicted), boxes(*truth))
    assert list(found) == list(KINDS)
    assert {name: count for name, count in found.items() if count} == expected


def test_objects_tell_which_polyps_are_found():
    objects = find_objects(boxes(FAR, (200, 200, 20, 20)), boxes(POLYP, FAR))
    assert [polyp[10, 10] for polyp in objects.polyps] == [True, False]  # from top to bottom
    assert objects.found.tolist() == [True, False]
    assert objects.hallucinated.tolist() == [False, True]


def test_wrong_pixels_by_band():
    truth = boxes(POLYP)
    assert set(pixel_errors(truth, truth).values()) == {0}
    grown = boxes((95, 100, 45, 60))  # five rows too many, three of them in the band
    assert pixel_errors(grown, truth) == {
        "lost_inside": 0,
        "lost_rim": 0,
        "spilt_rim": 3 * 60,
        "spilt_outside": 2 * 60,
    }
    empty = pixel_errors(np.zeros_like(truth), truth)
    assert empty["lost_rim"] == 40 * 60 - 34 * 54
    assert empty["lost_inside"] == 34 * 54
    nothing = pixel_errors(truth, np.zeros_like(truth))
    assert nothing["spilt_outside"] == 40 * 60
    full = pixel_errors(np.zeros((64, 64), bool), np.ones((64, 64), bool))
    assert full["lost_inside"] == 64 * 64  # the frame's edge is not an outline


def test_bands_add_up_to_all_wrong_pixels(blobs):
    predicted, truth = blobs(6, 120, 150) > 0, blobs(6, 120, 150, seed=1) > 0
    for one, other in zip(predicted, truth, strict=True):
        found = pixel_errors(one, other)
        assert found["lost_inside"] + found["lost_rim"] == (other & ~one).sum()
        assert found["spilt_rim"] + found["spilt_outside"] == (one & ~other).sum()


def errors_of(dice, bands, objects=(1, 0, 0, 0, 0, 0), pixels=1000):
    columns = dict(zip(BANDS, bands, strict=True)) | dict(zip(OBJECTS, objects, strict=True))
    return {"dice": dice, "pixels": pixels, **columns}


def table_of(*rows):
    return pd.DataFrame(rows).assign(group=range(len(rows)))


def test_shares_of_the_wrong_area_by_hand():
    table = table_of(
        errors_of(0.9, (0, 50, 50, 0)),
        errors_of(0.1, (1200, 0, 0, 0), pixels=4000),  # 0.3 of a larger frame
        errors_of(0.8, (0, 0, 0, 100)),
        errors_of(1.0, (0, 0, 0, 0)),
        errors_of(np.nan, (0, 0, 0, 0)),
    )
    found = band_table(table).set_index(["frames", "band"])
    share = found["share"].unstack()[list(BANDS.values())]
    assert share.loc["all frames"].tolist() == pytest.approx([0.6, 0.1, 0.1, 0.2])
    assert share.loc["the worst quarter"].tolist() == pytest.approx([1, 0, 0, 0])
    assert share.loc["the rest"].tolist() == pytest.approx([0, 0.25, 0.25, 0.5])
    first = found.xs("lost inside", level="band")
    assert first["n"].to_dict() == {"all frames": 3, "the worst quarter": 1, "the rest": 2}
    assert first.loc["all frames", "wrong"] == pytest.approx(0.5 / 4)
    assert first.loc["all frames", "low"] < 0.6 < first.loc["all frames", "high"]


def test_errors_in_words():
    table = table_of(
        errors_of(0.2, (40, 10, 0, 50), (1, 2, 1, 0, 1, 2)),
        errors_of(0.9, (0, 10, 10, 0), (2, 1, 0, 1, 0, 0)),
    )
    objects, regions, everywhere, _, _ = failure_findings(table)
    assert objects == (
        "As objects: 3 of 6 polyps found, 3 missed in 2 frames; 1 split into two or more regions."
    )
    assert regions == (
        "Of the predicted regions, 1 merge polyps, 1 spill and 2 are hallucinated (in 1 frames)."
    )
    assert everywhere.startswith("In all frames, 6.0 % of the area is wrong on average; of that,")
    assert " 33 % [" in everywhere
    assert "] lost inside, " in everywhere
    perfect = failure_findings(table_of(*[errors_of(1.0, (0, 0, 0, 0))] * 4))
    assert perfect[-1] == "In the rest, 0.0 % of the area is wrong on average."


@pytest.mark.parametrize(
    ("predicted", "truth", "expected"),
    [
        ([POLYP], [POLYP], {}),
        ([], [POLYP], {"cost_unfound": 1}),
        ([FAR], [POLYP], {"cost_unfound": 1}),
        ([FAR], [], {"cost_hallucinated": 1}),
        ([(100, 100, 40, 30)], [POLYP], {"cost_outlines": 1 - 2 / 3}),
        # 2400 px of two polyps, 400 of the other, and as many hallucinated
        ([POLYP], [POLYP, FAR], {"cost_missed": 1 - 4800 / 5200}),
        ([POLYP, FAR], [POLYP], {"cost_hallucinated": 1 - 4800 / 5200}),
        (
            [(100, 100, 40, 30), (200, 10, 20, 20)],
            [POLYP, FAR],
            {
                "cost_missed": 3200 / 4800 - 2400 / 4400,
                "cost_hallucinated": 3200 / 4400 - 3200 / 4800,
                "cost_outlines": 1 - 3200 / 4400,
            },
        ),
    ],
)
def test_costs_by_type_of_error(predicted, truth, expected):
    found = dice_costs(boxes(*predicted), boxes(*truth))
    assert list(found) == list(COSTS)
    assert found == pytest.approx(dict.fromkeys(COSTS, 0) | expected)


def test_costs_add_up_to_all_lost_dice(blobs):
    predicted, truth = blobs(6, 120, 150) > 0, blobs(6, 120, 150, seed=1) > 0
    for one, other in zip(predicted, truth, strict=True):
        dice = 2 * (one & other).sum() / (one.sum() + other.sum())
        costs = dice_costs(one, other)
        assert sum(costs.values()) == pytest.approx(1 - dice)
        assert min(costs.values()) >= 0
    assert np.isnan(list(dice_costs(boxes(), boxes()).values())).all()


def lost_to(outlines, hallucinated=0.0, unfound=0.0):
    costs = dict(zip(COSTS, (unfound, 0.0, hallucinated, outlines), strict=True))
    return {"dice": 1 - sum(costs.values()), **costs}


def test_what_is_missing_in_words():
    rows = [lost_to(0.1)] * 8 + [lost_to(0.1, hallucinated=0.5), lost_to(0, unfound=1.0)]
    table = table_of(*rows, dict.fromkeys(["dice", *COSTS], np.nan))
    known = pd.Series([0.94, 0.96] * 10)
    parts, below, outlines, gain = cost_findings(table, known)
    assert parts.startswith("Of a Dice of 1, 0.240 [")
    assert "is lost (mean of 10 frames): 0.100 [" in parts
    assert "] to frames in which no polyp is found (1 frames); nothing to polyps missed" in parts
    assert "; 0.050 [" in parts
    assert "; 0.090 [" in parts
    assert below == "The 2 frames below 0.5 account for 0.160 of it."
    assert outlines.startswith("Where a polyp is found (9 frames), the outline costs 0.100 [")
    assert "against 0.050 [" in outlines
    assert "(20 pairs): a difference of 0.050 [" in outlines
    assert "mean Dice of 0.760 by 0.045;" in gain
    assert gain.endswith("were like the others, would raise it by 0.084.")
    better = cost_findings(table_of(*[lost_to(0.01)] * 12), known)
    assert better[-1].endswith("would not raise the mean Dice of 0.990.")


def test_what_is_missing_where_label_noise_is_not_known():
    few = cost_findings(table_of(*[lost_to(0.1)] * 4), pd.Series([0.9]))
    assert len(few) == 3
    assert few[-1].endswith("; how far two annotators differ is not known here.")
    lost = cost_findings(table_of(*[lost_to(0, unfound=1.0)] * 4), pd.Series([0.9] * 12))
    assert lost[-1] == "The 4 frames below 0.5 account for 1.000 of it."
    nothing = table_of(dict.fromkeys(["dice", *COSTS], np.nan))
    assert cost_findings(nothing, pd.Series(dtype=float)) == [
        "No frame has a score, so there is no loss of Dice to break down."
    ]
