"""Published figures are complete, consistent, and compared under their own protocols."""

from collections import Counter

import pandas as pd
import pytest

from polyp_utils.data.catalog import CATALOG
from polyp_utils.data.splits import split_names
from polyp_utils.score.literature import NOT_SAID, beside, published_figures
from polyp_utils.score.protocols import PROTOCOLS


def iou_of(dice):
    """The IoU that goes with a Dice of the same counts."""
    return dice / (2 - dice)


@pytest.fixture(scope="module")
def protocols():
    """A made-up run's scores, which differ by protocol: 0.1, 0.2, …; IoU is a quarter of Dice."""
    rows = []
    for k, protocol in enumerate(PROTOCOLS, start=1):
        for score, mean in (("dice", k / 10), ("iou", k / 40)):
            row = {"protocol": protocol, "score": score, "mean": mean, "low": 0, "high": 1}
            rows.append({**row, "n": 5, "method": "BCa"})
    return pd.DataFrame(rows)


def test_every_figure_has_a_known_protocol_or_says_why_not():
    for figure in published_figures():
        assert figure.protocol in PROTOCOLS or (figure.protocol == "" and figure.remark)
        assert figure.protocol != "card"  # it is not a polyp Dice
        assert figure.tested_on in CATALOG
        assert figure.split in {*split_names(), "own", "random", "pranet", NOT_SAID}
        assert figure.system
        assert figure.source
        assert figure.trained_on


def test_no_figure_is_listed_twice():
    keys = Counter((f.system, f.trained_on, f.tested_on, f.protocol) for f in published_figures())
    assert keys.most_common(1)[0][1] == 1


def test_dice_and_iou_of_a_figure_are_consistent():
    """Pooled, one determines the other; the per-image mean is at least that (Jensen)."""
    scored_twice = [f for f in published_figures() if f.dice > 0 and f.iou > 0]  # false for NaN
    assert sum(f.protocol == "pooled" for f in scored_twice) >= 2
    for figure in scored_twice:
        if figure.protocol == "pooled":
            assert figure.iou == pytest.approx(iou_of(figure.dice), abs=2e-4)
        else:
            assert iou_of(figure.dice) < figure.iou < figure.dice < 1
    assert all(0 < f.dice < 1 or 0 < f.iou < 1 for f in published_figures())


def test_the_arithmetic_behind_lm_nets_remark():
    """Two classes with these mean pooled Dice and IoU: the worse one has a Dice of .900."""
    (figure,) = (f for f in published_figures() if f.system == "LM-Net")
    assert "about .900 pooled" in figure.remark
    background = 2 * figure.dice - 0.900
    assert (iou_of(background) + iou_of(0.900)) / 2 == pytest.approx(figure.iou, abs=5e-4)


def test_ours_is_the_value_under_the_figures_protocol(protocols):
    table = beside(protocols, "kvasir-seg")
    for k, protocol in enumerate(PROTOCOLS, start=1):
        of_it = table[(table["protocol"] == protocol) & (table["score"] == "Dice")]
        assert set(of_it["ours [95 %]"]) <= {f"{k / 10:.3f} [0.000, 1.000]"}
    assert {"at-network-size", "pooled", "pranet"} < set(table["protocol"])
    (row,) = table[table["system"] == "ResUNet++ (Fan et al. 2020 and later)"].to_dict("records")
    assert (row["theirs"], row["ours [95 %]"]) == ("0.807", "0.400 [0.000, 1.000]")
    assert row["difference"] == "-0.407"


def test_iou_is_compared_if_no_dice_was_reported(protocols):
    table = beside(protocols, "kvasir-seg").set_index("system")
    row = table.loc["U-Net, augmented (Batchkala and Ali 2020)"]
    assert (row["score"], row["theirs"]) == ("IoU", "0.719")
    assert (row["ours [95 %]"], row["difference"]) == ("0.050 [0.000, 1.000]", "-0.669")


def test_a_figure_whose_protocol_cannot_be_matched_is_listed_as_such(protocols):
    table = beside(protocols, "kvasir-seg")
    unmatched = table[table["protocol"] == "cannot be matched"]
    assert len(unmatched) == sum(not f.protocol for f in published_figures())
    assert set(unmatched["ours [95 %]"]) == set(unmatched["difference"]) == {"–"}
    (trust,) = unmatched.loc[unmatched["system"].str.startswith("LM-Net"), "trust"]
    assert trust.startswith("not comparable; mean of background and polyp")


@pytest.mark.parametrize(
    ("ours", "expected"),
    [
        ("official-880", {"official-880": "yes", "own": "no", "random": "no"}),
        ("grouped", {"official-880": "no", "own": "no", NOT_SAID: "not known"}),
        ("lists/mine.csv", {"official-880": "not known", "own": "not known"}),
        ("", {"official-880": "no", "pranet-kvasir": "no", NOT_SAID: "not known"}),
    ],
)
def test_the_split_is_compared(protocols, ours, expected):
    table = beside(protocols, "kvasir-seg", ours)
    for theirs, same in expected.items():
        of_it = table["trained on"].str.endswith(f"split {theirs}")
        assert set(table.loc[of_it, "same split"]) == {same}


def test_a_set_without_figures_has_no_rows(protocols):
    assert beside(protocols, "phantom").empty
    assert len(beside(protocols, "etis")) == 3
