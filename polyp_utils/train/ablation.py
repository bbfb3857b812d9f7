"""Ablation: from the card's recipe to ``release``, one change at a time.

Every setting is trained with several seeds and scored on **validation**; the test part is neither
predicted nor scored. Each finished run leaves two small files in ``results/published/ablation``,
its settings and times and its scores per frame; a run with files there is not trained again.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from polyp_utils.common.config import RunConfig
from polyp_utils.common.exceptions import TakenError
from polyp_utils.common.files import write_csv, write_json
from polyp_utils.common.paths import repo_root
from polyp_utils.runs.run import Run
from polyp_utils.score.intervals import Interval, seeds_interval

PLAIN, MIRRORED, UNAVERAGED = "plain", "mirrored", "unaveraged"  # ways to score a run
ALL = "all of these together"
NOISE = 0.015  # Dice: about the difference that another seed makes, see `score.literature`


class Setting(NamedTuple):
    """A setting to train.

    Attributes:
        against: name of the setting it is compared with; empty for the first.
        choice: how it differs from that setting, in words.
        recipe: the recipe it starts from.
        changes: settings that override the recipe's.
    """

    against: str
    choice: str
    recipe: str
    changes: Mapping[str, Any]


SETTINGS: dict[str, Setting] = {
    "card": Setting("", "the card's recipe", "card", {"epochs": 20}),
    "longer": Setting("card", "40 epochs instead of 20", "card", {"epochs": 40}),
    "augmented": Setting("longer", "augmentation", "card", {"epochs": 40, "augment": "strong"}),
    "release": Setting(
        "augmented",
        "AdamW, lr 1e-3, cosine, batches of 16, clipping, averaging",
        "release",
        {"epochs": 40},
    ),
    "shorter": Setting("release", "20 epochs instead of 40", "release", {"epochs": 20}),
    "no-augmentation": Setting(
        "release", "no augmentation", "release", {"epochs": 40, "augment": "none"}
    ),
    "light-augmentation": Setting(
        "release", "light augmentation", "release", {"epochs": 40, "augment": "light"}
    ),
    "binary": Setting("release", "scheme binary", "release", {"epochs": 40, "scheme": "binary"}),
    "unused-third": Setting(
        "release", "scheme unused-third", "release", {"epochs": 40, "scheme": "unused-third"}
    ),
}


def folder_of(width: int, image_size: int) -> Path:
    """The folder for the files of all runs of one size."""
    return repo_root() / f"results/published/ablation/w{width}-{image_size}px"


def config_of(name: str, seed: int, **size: Any) -> RunConfig:
    """The settings of one run.

    Args:
        name: key of `SETTINGS`.
        seed: random seed of the run.
        size: ``width``, ``image_size`` and other settings that all runs share, as in `RunConfig`.
    """
    setting = SETTINGS[name]
    shared = {"split": "grouped", "score_test": False, **size, "seed": seed}
    config = RunConfig.from_recipe(setting.recipe, **shared, **setting.changes)
    run_name = f"ablation-w{config.width}-{config.image_size}px-{name}-s{seed}"
    return replace(config, name=run_name)


def ablate(seeds: int, folder: Path, **size: Any) -> None:
    """Trains the runs that the folder lacks, seed by seed, and stores each as it finishes.

    Several processes may work side by side: each skips runs that another is training.

    Args:
        seeds: number of seeds, counted from 0.
        folder: from `folder_of`.
        size: as in `config_of`.

    Raises:
        ValueError, RunError: as in `fit`, or a stored run has other settings.
    """
    from polyp_utils.train.fit import fit

    for seed in range(seeds):
        for name in SETTINGS:
            config = config_of(name, seed, **size)
            stem = folder / f"{name}-s{seed}"
            if _is_stored(stem, config):
                continue
            try:
                run = fit(config)
            except TakenError:
                print(f"{config.run_name} is being trained by another process")
                continue
            store(run, stem)
            print(f"wrote {stem}.csv and .json", flush=True)


def _is_stored(stem: Path, config: RunConfig) -> bool:
    path = stem.with_suffix(".json")
    if not path.is_file():
        return False
    settings = json.loads(path.read_text(encoding="utf-8"))["settings"]
    stored = RunConfig.from_record(settings).to_dict()
    for key, value in config.to_dict().items():
        if key not in {"device", "precision", "name"} and stored[key] != value:
            raise ValueError(
                f"{path} is from a run with {key} {stored[key]!r}, not {value!r}: move it away, or "
                "use its settings"
            )
    return True


def store(run: Run, stem: Path) -> None:
    """Writes ``<stem>.csv``, one row per validation frame, and then ``<stem>.json``.

    Its columns are ``id``, ``group`` and the polyp Dice at original size: `PLAIN`, `MIRRORED` and,
    if the run averages its weights, `UNAVERAGED`.
    """
    write_csv(stem.with_suffix(".csv"), scores_of(run))
    history, record = run.history, run.record
    write_json(
        stem.with_suffix(".json"),
        {
            "settings": run.config.to_dict(),
            "fingerprints": record["fingerprints"],
            "seconds_per_epoch": history["seconds"].round(2).tolist(),
            "val_polyp_dice": history["val_polyp_dice"].round(4).tolist(),
            **{key: record[key] for key in ("device", "commit", "started", "versions")},
        },
    )


def scores_of(run: Run) -> pd.DataFrame:
    """Polyp Dice of a run's validation frames: the table that `store` writes."""
    from polyp_utils.data.dataset import PolypDataset
    from polyp_utils.runs.predictions import of_network, of_run
    from polyp_utils.score.evaluation import evaluate
    from polyp_utils.score.protocols import polyp_scores

    config = run.config
    dataset, ids = PolypDataset(config.dataset, config.image_size), run.split.val
    ways = {PLAIN: of_run(run, "val"), MIRRORED: of_network(run, dataset, ids, config.device, True)}
    if run.unaveraged.is_file():
        ways[UNAVERAGED] = of_network(run, dataset, ids, config.device, weights=run.unaveraged)
    found = {
        way: evaluate(predictions, dataset, all_scores=False) for way, predictions in ways.items()
    }
    table = pd.DataFrame({way: polyp_scores(e.per_image) for way, e in found.items()})
    groups = found[PLAIN].groups
    table.insert(0, "group", [groups.get(i, i) for i in table.index])
    return table.round(5).reset_index()


class Results(NamedTuple):
    """The stored runs of a folder.

    Attributes:
        records: the JSON of each run, by setting and seed.
        scores: the table of each run, by setting and seed, indexed by ``id``.
    """

    records: dict[tuple[str, int], dict[str, Any]]
    scores: dict[tuple[str, int], pd.DataFrame]


def load(folder: Path) -> Results:
    """Reads the stored runs of a folder whose settings are in `SETTINGS`."""
    records, scores = {}, {}
    for name in SETTINGS:
        for path in sorted(folder.glob(f"{name}-s*.json")):
            seed = int(path.stem.removeprefix(f"{name}-s"))
            records[name, seed] = json.loads(path.read_text(encoding="utf-8"))
            table = pd.read_csv(path.with_suffix(".csv"), dtype={"id": str, "group": str})
            scores[name, seed] = table.set_index("id")
    return Results(records, scores)


def comparisons(results: Results) -> pd.DataFrame:
    """Compares each choice with its baseline, on validation.

    A trained setting is compared with its ``against`` over the seeds that both have, and
    ``release`` with the card's recipe as well; weight averaging and mirrored copies are compared
    with the same runs of ``release`` without them.

    Returns:
        One row per choice: ``choice``; ``setting`` and ``way``, `PLAIN` except in the last row;
        ``against``, the baseline's setting (empty: none); ``seeds``, those in common if there is a
        baseline; ``dice``, an `Interval` over seeds and frames (n = 0 without a run); ``gain``, the
        same for the paired differences; ``seconds`` per run, see `seconds_of`, and ``times``, their
        ratio to the baseline's on the same device.
    """
    rows = [
        _row(results, name, PLAIN, setting.against, PLAIN, setting.choice)
        for name, setting in SETTINGS.items()
    ]
    rows += [
        _row(results, "release", PLAIN, "card", PLAIN, ALL),
        _row(results, "release", PLAIN, "release", UNAVERAGED, "averaged weights"),
        _row(results, "release", MIRRORED, "release", PLAIN, "mirrored copies (inference)"),
    ]
    return pd.DataFrame(rows)


def shown(found: pd.DataFrame) -> pd.DataFrame:
    """`comparisons` formatted for reading, all columns text."""
    return pd.DataFrame(
        {
            "choice": found["choice"],
            "against": found["against"].replace("", "–"),
            "seeds": found["seeds"].astype(str),
            "validation Dice [95 %]": [_said(i, "not run yet") for i in found["dice"]],
            "gain [95 %]": [_said(i, "–", "+") for i in found["gain"]],
            "seconds": ["–" if np.isnan(s) else f"{s:.0f}" for s in found["seconds"]],
            "times as long": ["–" if np.isnan(t) else f"{t:.1f}" for t in found["times"]],
        }
    )


def _said(found: Interval, missing: str, sign: str = "") -> str:
    if not found.n:
        return missing
    return f"{found:{sign}.3f}{' (one seed)' if np.isnan(found.low) else ''}"


def ablation_findings(found: pd.DataFrame) -> list[str]:
    """What `comparisons` say, in sentences."""
    sentences = []
    for row in found.to_dict("records"):
        gain = row["gain"]
        if not gain.n:
            continue
        verdict = "a gain" if gain.low > 0 else "a loss" if gain.high < 0 else "no clear difference"
        if abs(gain.mean) < NOISE and not gain.low <= 0 <= gain.high:
            verdict += f", but less than the {NOISE} that another seed may make"
        verdict = "" if np.isnan(gain.low) else f", {verdict}"  # of one seed there is no interval
        what = f"{row['choice']} (`{row['setting']}` against `{row['against']}`)"
        sentences.append(f"{what[0].upper()}{what[1:]}: {_said(gain, '', '+')}{verdict}.")
    missing = found.loc[found["seeds"] == 0, "choice"].tolist()
    if missing:
        sentences.append(f"Not run yet: {', '.join(missing)}.")
    return sentences


def _row(
    results: Results, name: str, way: str, against: str, other: str, choice: str
) -> dict[str, Any]:
    own = _values(results, name, way)
    base = _values(results, against, other)
    both = sorted(own.keys() & base.keys())
    groups = next((table["group"].tolist() for table in results.scores.values()), [])
    dice = _over([own[seed] for seed in sorted(own)], groups)
    gain = _over([own[seed] - base[seed] for seed in both], groups)
    seconds, others = seconds_of(results, name), seconds_of(results, against)
    times = {seconds[device] / others[device] for device in seconds.keys() & others.keys()}
    row: dict[str, Any] = {"choice": choice, "setting": name, "way": way, "against": against}
    row |= {"seeds": len(both if against else own), "dice": dice, "gain": gain}
    row["seconds"] = min(seconds.values(), default=np.nan)
    return row | {"times": min(times, default=np.nan)}


def _values(results: Results, name: str, way: str) -> dict[int, pd.Series]:
    return {
        seed: table[way]
        for (setting, seed), table in results.scores.items()
        if setting == name and way in table
    }


def _over(columns: list[pd.Series], groups: list[str]) -> Interval:
    if not columns:
        return Interval(np.nan, np.nan, np.nan, 0)
    return seeds_interval(np.stack([column.to_numpy() for column in columns]), groups)


def seconds_of(results: Results, name: str) -> dict[str, float]:
    """Seconds that a run of a setting takes, by device: its fastest epoch times all epochs.

    Validation is included. The fastest epoch counts because other jobs can only slow one down.
    """
    found: dict[str, float] = {}
    for (setting, _), record in results.records.items():
        if setting == name:
            epochs, device = record["seconds_per_epoch"], record["device"]
            found[device] = min(found.get(device, np.inf), min(epochs) * len(epochs))
    return found
