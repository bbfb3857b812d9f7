"""Strata, correlations, the model and its sentences on tables with known relations."""

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from polyp_utils.analyse.dice_drivers import (
    FEATURES,
    MARKS,
    by_stratum,
    correlations,
    dice_by_strata,
    dice_model,
    driver_findings,
)


def features(n=40, seed=0):
    """A table like `error_table`'s: Dice rises with the area and falls with the contrast."""
    rng = np.random.default_rng(seed)
    dice = rng.uniform(0.2, 1, n)
    return pd.DataFrame(
        {
            "id": [f"f{i}" for i in range(n)],
            "group": [f"f{i}" for i in range(n)],
            "dice": dice,
            "area_share": dice + rng.normal(0, 0.05, n),
            "off_centre": rng.uniform(size=n),
            "brightness": np.full(n, 50.0),
            "contrast": -dice + rng.normal(0, 0.2, n),
            "sharpness": rng.uniform(size=n),
            "specular": rng.uniform(size=n),
            "sessile": np.zeros(n, bool),
            "n_polyps": np.ones(n, int),
            "touches_border": np.arange(n) % 4 == 0,
            "overlay": np.where(np.arange(n) < 30, "none", "green box"),
        }
    )


@pytest.mark.parametrize("bins", [2, 4])
def test_strata_of_a_number_are_its_quantiles(bins):
    table = features()
    found = by_stratum(table, "area_share", bins)
    groups = np.array_split(table.sort_values("area_share")["dice"].to_numpy(), bins)
    edges = np.quantile(table["area_share"], np.linspace(0, 1, bins + 1))
    labels = [f"{100 * a:.0f}–{100 * b:.0f} %" for a, b in itertools.pairwise(edges)]
    assert found["stratum"].tolist() == labels
    assert found["mean"].tolist() == pytest.approx([group.mean() for group in groups])
    assert found["n"].tolist() == [40 // bins] * bins
    assert (found["low"] < found["mean"]).all()
    assert (found["mean"] < found["high"]).all()


@pytest.mark.parametrize(
    ("column", "labels"),
    [
        ("overlay", ["green box", "none"]),
        ("touches_border", ["no", "yes"]),
        ("n_polyps", ["0", "1", "2", "3", "4", "5", "6"]),
    ],
)
def test_strata_of_a_category_are_its_values(column, labels):
    table = features().assign(n_polyps=np.arange(40) % 7)
    table.loc[3, "dice"] = np.nan
    found = by_stratum(table, column)
    expected = table.groupby(column)["dice"].agg(["mean", "count"])
    assert found["stratum"].tolist() == labels
    assert found["mean"].tolist() == pytest.approx(expected["mean"].tolist())
    assert found["n"].tolist() == expected["count"].tolist()


def test_correlations_come_strongest_first_with_their_sign():
    table = features()
    found = correlations(table).set_index("feature")
    order = [FEATURES[name] for name in ("area_share", "contrast")]
    assert found.index[:2].tolist() == order
    for name in ("area_share", "contrast", "off_centre"):
        rho = stats.spearmanr(table[name], table["dice"]).statistic
        assert found.loc[FEATURES[name], "rho"] == pytest.approx(rho)
    assert found.loc[order[0], "low"] > 0 > found.loc[order[1], "high"]
    assert found["rho"].isna().tolist() == [False] * 5 + [True] * 2  # constant here


def test_findings_state_what_the_table_holds():
    table = features()
    table.loc[0, "dice"] = np.nan
    text = driver_findings(table)
    scored = table["dice"].dropna()
    assert all(sentence.endswith(".") for sentence in text)
    assert text[0].startswith(f"{(scored < 0.5).sum()} of 39 frames score below 0.5; the mean is")
    assert f"{scored.mean():.3f} [" in text[0]
    assert f"the median {scored.median():.3f}" in text[0]
    by_feature = {name: next(s for s in text if FEATURES[name] in s) for name in FEATURES}
    assert by_feature["area_share"].startswith("Dice rises with")
    assert by_feature["contrast"].startswith("Dice falls with")
    assert by_feature["off_centre"].startswith("No steady rise or fall")
    assert "hardly varies" in by_feature["brightness"]
    assert "hardly varies" in by_feature["n_polyps"]


def test_findings_compare_frames_with_and_without_overlay_and_border_contact():
    table = features()
    *_, of_overlay, of_border, _ = driver_findings(table)
    for sentence, rows in (
        (of_overlay, table["overlay"] == "green box"),
        (of_border, table["touches_border"]),
    ):
        with_it, without = (table.loc[r, "dice"] for r in (rows, ~rows))
        assert sentence.startswith("With ")
        assert f": {with_it.mean():.3f} [" in sentence
        assert f"(n = {len(with_it)}); without: {without.mean():.3f} [" in sentence
        assert sentence.endswith(f"(n = {len(without)}).")


def test_findings_do_not_compare_a_single_frame():
    table = features().assign(overlay="none", touches_border=[True] + [False] * 39)
    assert driver_findings(table)[-3:] == [
        "Too few frames with or without an overlay to compare.",
        "Too few frames with or without contact with the border to compare.",
        "Too few frames with or without a flat or sessile polyp (Kvasir-Sessile) to compare.",
    ]


def test_a_model_finds_the_effects_that_made_the_scores():
    rng = np.random.default_rng(6)
    table = features(400)
    table["area_share"] = np.exp(rng.normal(-2, 0.7, 400))
    table["contrast"] = rng.normal(30, 10, 400)
    size, contrast = np.log(table["area_share"]), table["contrast"]
    noise = rng.normal(0, 0.02, 400)
    table["dice"] = 0.7 + 0.05 * (size - size.mean()) / size.std() - 0.002 * (contrast - 30) + noise
    table.loc[table["touches_border"], "dice"] -= 0.1
    model = dice_model(table)
    found = model.effects.set_index("property")
    assert list(found.index[:3]) == [
        "contact with the border",
        FEATURES["area_share"],
        FEATURES["contrast"],
    ]
    for name, effect in (
        ("contact with the border", -0.1),
        (FEATURES["area_share"], 0.05),
        (FEATURES["contrast"], -0.002 * contrast.std()),
    ):
        assert found.loc[name, "low"] < effect < found.loc[name, "high"]
    for name in ("off_centre", "sharpness", "specular"):
        assert abs(found.loc[FEATURES[name], "effect"]) < 0.005
    assert FEATURES["brightness"] not in found.index  # it does not vary, so it explains nothing
    assert 0.9 < model.explained < 1
    assert model.frames == 400
    first, second, *_, last = model.findings
    assert first.startswith(f"Together, the {len(found)} properties that vary explain 9")
    effect = found.loc["contact with the border", "effect"]
    assert second.startswith(f"With the others held, Dice changes by {effect:.3f} [")
    assert second.endswith("] with contact with the border.")
    assert last.startswith("No clear effect of their own: ")
    assert FEATURES["contrast"] not in last


def test_too_few_frames_give_no_model():
    model = dice_model(features(30))
    assert model.effects.empty
    assert np.isnan(model.explained)
    (said,) = model.findings
    assert said == (
        f"No model of Dice is fitted: {model.properties} properties vary, and ten frames are "
        "needed for each; there are 30."
    )


def test_nothing_explains_noise():
    table = features(200).assign(dice=np.random.default_rng(3).uniform(size=200))
    table["area_share"] = np.random.default_rng(4).uniform(0.1, 0.9, 200)
    assert abs(dice_model(table).explained) < 0.1  # 0.04 more without the adjustment


def test_copies_in_groups_widen_the_intervals():
    table = features(120)
    copies = pd.concat([table] * 3, ignore_index=True)
    one, three = dice_model(table).effects, dice_model(copies).effects
    widths = [(e["high"] - e["low"]).mean() for e in (one, three)]
    assert widths[1] == pytest.approx(widths[0], rel=0.15)
    means = [by_stratum(t, "touches_border").set_index("stratum") for t in (table, copies)]
    for end in ("low", "high"):
        assert means[0].loc["no", end] == pytest.approx(means[1].loc["no", end], abs=0.02)


def test_every_property_in_the_table_has_strata():
    table = features()
    assert list(dice_by_strata(table)) == [*FEATURES.values(), *MARKS.values()]
    named = dice_by_strata(table.drop(columns="sessile"))
    assert list(named) == [*FEATURES.values(), MARKS["overlay"], MARKS["touches_border"]]
    assert not any("Kvasir-Sessile" in s for s in driver_findings(table.drop(columns="sessile")))


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([25.8, 44.9, 49.1, 51.7, 59.4], ["26–45", "45–49", "49–52", "52–59"]),
        ([1.11, 1.86, 2.0, 2.05, 2.37], ["1.11–1.86", "1.86–2.00", "2.00–2.05", "2.05–2.37"]),
        ([-1.5, -1.25, -1.0, -0.5, 0.25], ["-1.5–-1.2", "-1.2–-1.0", "-1.0–-0.5", "-0.5–0.2"]),
    ],
)
def test_strata_are_named_with_as_few_digits_as_tell_them_apart(values, labels):
    table = features(5).assign(sharpness=values)
    assert by_stratum(table, "sharpness")["stratum"].tolist() == labels
