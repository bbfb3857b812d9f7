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

import pandas as pd

from polyp_utils.common.config import RunConfig
from polyp_utils.common.exceptions import TakenError
from polyp_utils.common.files import write_csv, write_json
from polyp_utils.common.paths import repo_root
from polyp_utils.runs.run import Run

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
