"""The model card of a run, as the Hub reads it; its text stands in `run_card.md.jinja`.

Every number comes from the run's files, so a card is written again, not edited.
"""

import json
import shlex
import shutil
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import torch

from polyp_utils.analyse.calibration import VAL_LEVELS, levels_table, validation_levels
from polyp_utils.common.config import RECIPES, RunConfig
from polyp_utils.common.exceptions import RunError
from polyp_utils.common.files import atomic
from polyp_utils.common.paths import repo_root
from polyp_utils.data.catalog import get_info
from polyp_utils.data.dataset import PolypDataset
from polyp_utils.data.known import leaks
from polyp_utils.data.labels import POLYP
from polyp_utils.data.split import PARTS
from polyp_utils.model.predict import halve_weights, is_halved
from polyp_utils.model.unet import UNet
from polyp_utils.publish.shown import hidden_figures, hide_frames
from polyp_utils.runs import archive
from polyp_utils.runs.run import Run
from polyp_utils.score.evaluation import VAL_COUNTS, check_data, validation_table
from polyp_utils.train.learner import COSINE_END

MAX_COMMITTED_BYTES = 20_000_000  # of weights, in git
_TEMPLATE = Path(__file__).with_suffix(".md.jinja")


def write_model_card(run: Run, repo_id: str = "") -> Path:
    """Writes the run's ``README.md``, a card as the Hub reads it, from the run's files alone.

    Args:
        run: a finished run; the card has results once the run has been evaluated.
        repo_id: where the weights will be had; without it the card shows a placeholder.

    Raises:
        RunError: the run is not finished.
    """
    if not run.finished:
        raise RunError(f"{run.path} is not finished: train it to its end before writing its card")
    path = run.path / "summary.json"
    summary = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    card = run.path / "README.md"
    with atomic(card) as temporary:
        temporary.write_text(_card(run, summary, repo_id or f"user/{run.name}"), encoding="utf-8")
    return card


def publish(run: Run, light: bool = False) -> Run:
    """Copies a finished run to ``results/published``, so that it is light to clone.

    - Weights of up to 20 MB, in 16 bits; the card is written anew, as it says where they are.
    - The predictions of the test part in one file; of the validation part what the analyses need
      of it, as counts (``val_counts.csv`` and ``val_levels.csv``).
    - No frames of a set that may not be shown, see `polyp_utils.publish.shown`: neither figures nor
      outputs of executed notebooks. Published again, a run that lies there has them taken out.

    ``light``: only settings and tables, which is what a run needs that takes part in a study and is
    not looked at by itself.

    Raises:
        RunError: the run is not finished, or another one of that name is published.
        FileNotFoundError: its data, which the counts are made with, are not here.
    """
    if not run.finished:
        raise RunError(f"{run.path} is not finished: train it to its end before publishing it")
    target = repo_root() / "results/published" / run.name
    if target == run.path:
        _hide_frames(run)
        return run
    if (target / "config.json").is_file() and Run(target).record != run.record:
        raise RunError(f"{target} holds another run of that name: rename one of them")
    counts = {} if light else _validation(run)
    names = [run.weights.name, run.unaveraged.name]
    names += ["predictions", "figures", "*.ipynb"] if light else PARTS  # predictions, unpacked
    left_out = shutil.ignore_patterns("last", ".*", *names)
    shutil.copytree(run.path, target, ignore=left_out, dirs_exist_ok=True)
    for name, table in counts.items():
        Run(target).save_table(name, table)
    if not light and (tested := run.path / "predictions/test").is_dir():
        archive.pack(tested, Run(target).archive_path("test"))
    _hide_frames(Run(target))
    there = run.weights.is_file() and not light
    if there and run.weights.stat().st_size <= 2 * MAX_COMMITTED_BYTES:
        halve_weights(run.weights, Run(target).weights)
    write_model_card(Run(target))
    return Run(target)


def _validation(run: Run) -> dict[str, pd.DataFrame]:
    """Tables by name that stand for the predictions of the validation part, if it has these."""
    if not (run.path / "predictions/val").is_dir():
        return {}
    config = run.config
    dataset = PolypDataset(config.dataset, config.image_size)
    check_data(run, dataset)
    levels = levels_table(validation_levels(run, dataset))
    return {VAL_COUNTS: validation_table(run, dataset), VAL_LEVELS: levels}


def _hide_frames(run: Run) -> None:
    name = get_info(run.config.dataset).name
    for path in hidden_figures(run.path, name):
        path.unlink()
    for path in run.path.glob("*.ipynb"):
        hide_frames(path, name)


def _card(run: Run, summary: dict[str, Any], repo_id: str) -> str:
    config, record = run.config, run.record
    scheme, info = run.scheme, get_info(config.dataset)
    with torch.device("meta"):
        parameters = sum(p.numel() for p in UNet(3, scheme.logits, config.width).parameters())
    template = jinja2.Template(
        _TEMPLATE.read_text(encoding="utf-8"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return template.render(
        front_matter=_front_matter(run, summary),
        run=run,
        repo_id=repo_id,
        config=config,
        record=record,
        training=run.training,
        summary=summary,
        headline=next((row for row in _merged(summary) if row["score"] == "dice"), None),
        info=info,
        drawn=_drawn(config),
        scheme=scheme,
        binary=scheme.logits == 1,
        size=config.image_size,
        widths=[config.width * 2**i for i in range(5)],
        parameters=parameters,
        halved=run.weights.is_file() and is_halved(run.weights),
        parts=PARTS,
        split=run.split,
        leaks=leaks(run.split, config.dataset),
        has_alarms=(run.path / "false_alarms.csv").is_file(),
        commits=dict.fromkeys(stage["commit"] for stage in (record, *record.get("resumed", []))),
        command=_command(replace(config, name="") if "note" in record else config),
        cosine_end=COSINE_END,
        timedelta=timedelta,
    )


def _front_matter(run: Run, summary: dict[str, Any]) -> str:
    from huggingface_hub import EvalResult, ModelCardData  # only needed here

    info, drawn = get_info(run.config.dataset), _drawn(run.config)
    task = "image-segmentation"
    results = [
        EvalResult(
            task_type=task,
            dataset_type=info.name,
            dataset_name=info.title,
            dataset_split=summary["part"],
            metric_type=row["score"],
            metric_name=f"{row['score']}, {POLYP}, {row['protocol']}",
            metric_value=row["mean"],
        )
        for row in _merged(summary)
    ]
    return ModelCardData(
        license="mit" if drawn else "other",
        license_name=None if drawn else "research-only",
        license_link=info.homepage or None,
        library_name="pytorch",
        pipeline_tag=task,
        tags=["polyp-segmentation", "colonoscopy", "medical", "unet", "safetensors"],
        datasets=[info.name],
        metrics=list(dict.fromkeys(["dice", *(result.metric_type for result in results)])),
        model_name=run.name if results else None,  # it belongs to the results
        eval_results=results or None,
    ).to_yaml()


def _merged(summary: dict[str, Any]) -> list[dict[str, Any]]:
    rows = summary.get("scores", [])
    return [row for row in rows if row["class"] == POLYP and row["mean"] is not None]


def _drawn(config: RunConfig) -> bool:
    return config.dataset == "phantom"


def _command(config: RunConfig) -> str:
    """The command line that trains this run: the recipe and what differs from it."""
    recipe = RECIPES[config.recipe].to_dict()
    words = ["python", "-m", "polyp_utils", "train", "--recipe", config.recipe]
    for key, value in config.to_dict().items():
        if value != recipe[key]:
            flag = key.replace("_", "-")
            boolean = [f"--{flag}" if value else f"--no-{flag}"]
            words += boolean if isinstance(value, bool) else [f"--{flag}", str(value)]
    return shlex.join(words)
