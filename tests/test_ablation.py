"""The ablation: what is trained, what is stored, and what the comparisons say."""

import numpy as np
import pandas as pd
import pytest

from polyp_utils import plots
from polyp_utils.analyse import ablation_results
from polyp_utils.analyse.ablation_results import (
    AblationResults,
    comparisons,
    load,
    quiet_session,
    seconds_of,
)
from polyp_utils.common.config import RECIPES
from polyp_utils.common.exceptions import TakenError
from polyp_utils.runs.run import list_runs
from polyp_utils.score.evaluation import evaluate_run
from polyp_utils.score.protocols import polyp_scores
from polyp_utils.train import ablation
from polyp_utils.train import fit as training
from polyp_utils.train.ablation import SETTINGS, Setting, ablate, config_of

TINY = {"dataset": "phantom", "split": "phantom-240", "limit": 8, "width": 4, "image_size": 32}
TINY |= {"device": "cpu", "precision": "fp32"}


def test_each_setting_differs_from_its_baseline_only_as_it_says():
    of = {name: config_of(name, 0, width=16, image_size=128).to_dict() for name in SETTINGS}
    differ = {
        name: {k for k, v in of[name].items() if of[s.against][k] != v} - {"name", "recipe"}
        for name, s in SETTINGS.items()
        if s.against
    }
    assert differ == {
        "longer": {"epochs"},
        "augmented": {"augment"},
        "release": {
            *("optimizer", "lr", "weight_decay", "schedule", "batch_size", "clip_norm"),
            *("ema_decay", "keep"),
        },
        "shorter": {"epochs"},
        "no-augmentation": {"augment"},
        "light-augmentation": {"augment"},
        "binary": {"scheme"},
        "unused-third": {"scheme"},
    }
    for name, recipe in (("card", "card"), ("release", "release")):
        here = {"width", "image_size", "split", "score_test", "name", "epochs"}
        changed = {k for k, v in of[name].items() if RECIPES[recipe].to_dict()[k] != v}
        assert changed <= here
    assert {config["split"] for config in of.values()} == {"grouped"}
    assert {config["score_test"] for config in of.values()} == {False}


@pytest.fixture
def two_settings(monkeypatch):
    few = {
        "card": Setting("", "the card's recipe", "card", {"epochs": 1, "batch_size": 4}),
        "release": Setting("card", "all", "release", {"epochs": 2, "batch_size": 4}),
    }
    monkeypatch.setattr(ablation, "SETTINGS", few)
    return few


def test_runs_store_their_scores_and_are_not_trained_again(two_settings, tmp_path, monkeypatch):
    folder = tmp_path / "stored"
    ablate(1, folder, **TINY)
    names = [f"{name}-s0.{kind}" for name in ("card", "release") for kind in ("csv", "json")]
    assert sorted(path.name for path in folder.iterdir()) == names
    found = load(folder)
    record, scores = (of["release", 0] for of in found)
    assert len(record["val_polyp_dice"]) == len(record["seconds_per_epoch"]) == 2
    assert list(scores) == ["group", "plain", "mirrored", "unaveraged"]
    assert list(found.scores["card", 0]) == ["group", "plain", "mirrored"]
    runs = {run.config.recipe: run for run in list_runs() if not run.published}
    dice = polyp_scores(evaluate_run(runs["release"], "val").per_image)
    assert scores["plain"].to_dict() == pytest.approx(dice.to_dict(), abs=1e-5, nan_ok=True)
    for run in runs.values():
        assert [path.name for path in (run.path / "predictions").iterdir()] == ["val"]

    trained = []
    monkeypatch.setattr(training, "fit", trained.append)
    monkeypatch.setattr(ablation, "store", lambda run, stem: None)
    ablate(2, folder, **TINY)
    assert [(config.recipe, config.seed) for config in trained] == [("card", 1), ("release", 1)]
    with pytest.raises(
        ValueError, match=r"card-s0\.json is from a run with limit 8, not 6: move it"
    ):
        ablate(1, folder, **TINY | {"limit": 6})


def test_a_run_that_another_process_is_training_is_skipped(
    two_settings, tmp_path, monkeypatch, capsys
):
    def fit(config):
        if config.recipe == "card":
            raise TakenError("taken")

    stored = []
    monkeypatch.setattr(training, "fit", fit)
    monkeypatch.setattr(ablation, "store", lambda run, stem: stored.append(stem.name))
    ablate(1, tmp_path, **TINY)
    assert stored == ["release-s0"]
    assert "card-s0 is being trained by another process" in capsys.readouterr().out


def record(seconds, commit="quiet"):
    told = {"device": "cpu", "commit": commit, "val_polyp_dice": [0.5] * len(seconds)}
    return told | {"seconds_per_epoch": seconds}


def test_gains_are_paired_by_seed_and_frame():
    rng = np.random.default_rng(0)
    frames = rng.uniform(0.3, 0.9, 40)
    groups = [str(i // 2) for i in range(40)]
    scores, records = {}, {}
    for seed in range(3):
        base = frames + rng.normal(0, 0.02)
        for name, gain in (("card", 0), ("longer", 0.1)):
            table = pd.DataFrame({"group": groups, "plain": base + gain, "mirrored": base})
            scores[name, seed], records[name, seed] = table, record([3.0, 2.0 + seed, 9.0])
    scores["release", 5] = pd.DataFrame(
        {"group": groups, "plain": frames, "mirrored": frames + 0.02, "unaveraged": frames - 0.3}
    )
    records["release", 5] = record([1.0])
    del scores["longer", 2], records["longer", 2]
    rows = comparisons(AblationResults(records, scores)).set_index("choice")
    longer = rows.loc["40 epochs instead of 20"]
    assert longer["seeds"] == 2
    assert longer["gain"][:4] == pytest.approx((0.1, 0.1, 0.1, 40))
    assert longer["dice"].mean == pytest.approx(
        np.mean([scores["longer", s]["plain"].mean() for s in (0, 1)])
    )
    assert longer["seconds"] == 6
    assert longer["times"] == 1
    assert rows.loc["the card's recipe", "gain"].n == 0
    mirrored = rows.loc["mirrored copies (inference)", "gain"]
    assert rows.loc["averaged weights", "gain"].mean == pytest.approx(0.3)
    assert mirrored.mean == pytest.approx(0.02)
    assert np.isnan(mirrored.low)  # one seed gives no interval
    missing = rows.loc["scheme binary"]
    assert (missing["seeds"], missing["dice"].n, missing["gain"].n) == (0, 0, 0)


def test_times_are_those_of_the_quietest_session_with_the_most_settings():
    quiet = {("card", 1): record([5.0, 5.0]), ("longer", 1): record([6.0, 6.2, 6.1, 6.0])}
    busy = {
        ("card", 0): record([2.0, 4.0], "busy"),
        ("longer", 0): record([9.0, 2.0, 8.0, 2.1], "busy"),
        ("card", 2): record([1.0, 1.0], "of one setting"),
    }
    results = AblationResults(busy | quiet, {})
    assert quiet_session(results) == ("cpu", "quiet")
    assert [seconds_of(results, name) for name in ("card", "longer")] == [10, 24]
    assert np.isnan(seconds_of(results, "release"))
    assert np.isnan(seconds_of(AblationResults({}, {}), "card"))


def test_findings_are_said_and_drawn():
    scores, records = {}, {}
    for seed in range(2):
        for name, gain in (("card", 0.0), ("longer", 0.1), ("augmented", 0.05)):
            table = pd.DataFrame(
                {"group": ["a", "b"], "plain": [0.5 + gain, 0.6 + gain + seed / 9]}
            )
            scores[name, seed], records[name, seed] = table, record([1.0, 1.0])
    scores["release", 0] = pd.DataFrame({"group": ["a", "b"], "plain": [0.9, 0.7]})
    records["release", 0] = record([1.0])
    found = comparisons(AblationResults(records, scores))
    said = ablation_results.ablation_findings(found)
    assert said[0] == (
        "40 epochs instead of 20 (`longer` against `card`): +0.100 [+0.100, +0.100], a gain."
    )
    assert said[1].endswith("against `longer`): -0.050 [-0.050, -0.050], a loss.")
    assert said[2].endswith("(one seed).")
    assert said[-1].startswith("Not run yet: 20 e")
    shown = ablation_results.shown(found)
    assert list(shown["validation Dice [95 %]"].iloc[4:9]) == ["not run yet"] * 5
    (axes,) = plots.ablation_gains(found).axes
    assert len([line for line in axes.lines if line.get_marker() == "o"]) == 4
    assert [text.get_text() for text in axes.texts] == ["not run yet"] * 7
    axes = plots.ablation_curves(AblationResults(records, scores)).axes[0]
    assert len(axes.get_legend().get_texts()) == 4


def test_published_runs_can_be_read():
    folder = ablation.folder_of(16, 128)
    found = load(folder)
    assert found.records.keys() == found.scores.keys()
    for (name, seed), stored in found.records.items():
        config = config_of(name, seed, width=16, image_size=128)
        assert ablation._is_stored(folder / f"{name}-s{seed}", config)
        assert len(found.scores[name, seed]) == 100
        assert stored["settings"]["score_test"] is False
