"""Writes the run card, a run's model card as the Hub reads it; its text is `run_card.md.jinja`.

Every number comes from the run's files, so a card is regenerated, never edited.
"""

import shlex
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import jinja2
import torch

from polyp_utils.common.config import RECIPES, RunConfig
from polyp_utils.common.exceptions import RunError
from polyp_utils.common.files import atomic
from polyp_utils.data.catalog import DatasetInfo, get_info
from polyp_utils.data.known import leaks
from polyp_utils.data.labels import POLYP
from polyp_utils.data.naming import name_without_place
from polyp_utils.data.split import PARTS
from polyp_utils.model.unet import UNet
from polyp_utils.model.weights import is_halved
from polyp_utils.runs.run import Run
from polyp_utils.score.intervals import Interval
from polyp_utils.train.learner import COSINE_END

_TEMPLATE = Path(__file__).with_suffix(".md.jinja")


def write_run_card(run: Run, repo_id: str = "", dataset: str = "") -> Path:
    """Writes the run card, the run's ``README.md``, from the run's files alone.

    Args:
        run: a finished run; the card has results once the run has been evaluated.
        repo_id: Hub repository of the weights and of the ONNX file; without it the card shows a
            placeholder and no ONNX file.
        dataset: the name of its data set on this machine; empty: as recorded.

    Raises:
        RunError: the run is not finished.
    """
    if not run.finished:
        raise RunError(f"{run.path} is not finished: train it to its end before writing its card")
    summary = run.summary if (run.path / "summary.json").is_file() else {}
    card = run.path / "README.md"
    with atomic(card) as temporary:
        temporary.write_text(_card(run, summary, repo_id, dataset), encoding="utf-8")
    return card


def _card(run: Run, summary: dict[str, Any], repo_id: str, dataset: str) -> str:
    config, record = run.config, run.record
    dataset = dataset or config.dataset
    scheme, info = run.scheme, get_info(dataset)
    with torch.device("meta"):
        parameters = sum(p.numel() for p in UNet(3, scheme.logits, config.width).parameters())
    template = jinja2.Template(
        _TEMPLATE.read_text(encoding="utf-8"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=lambda value: value.replace("<", "&lt;") if isinstance(value, str) else value,
    )
    return template.render(
        front_matter=_front_matter(run, info, summary, ["onnx"] if repo_id else []),
        run=run,
        repo_id=repo_id or f"user/{run.name}",
        pushed=bool(repo_id),
        config=config,
        record=record,
        training=run.training,
        summary=summary,
        dice=next((row for row in _merged(summary) if row["score"] == "dice"), None),
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
        leaks=leaks(run.split, dataset),
        has_alarms=(run.path / "false_alarms.csv").is_file(),
        commits=dict.fromkeys(stage["commit"] for stage in (record, *record.get("resumed", []))),
        command=_command(
            replace(config, name="") if "note" in record else config,
            anywhere=run.published or bool(repo_id),
        ),
        cosine_end=COSINE_END,
        timedelta=timedelta,
        interval=Interval.of,
    )


def _front_matter(run: Run, info: DatasetInfo, summary: dict[str, Any], tags: list[str]) -> str:
    from huggingface_hub import EvalResult, ModelCardData  # only needed here

    drawn, task = _drawn(run.config), "image-segmentation"
    results = [
        EvalResult(
            task_type=task,
            dataset_type=info.name,
            dataset_name=info.title,
            dataset_split=summary["part"],
            metric_type=row["score"],
            metric_name=f"{row['score']}, {POLYP}, {row['size']} size, per image",
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
        tags=["polyp-segmentation", "colonoscopy", "medical", "unet", "safetensors", *tags],
        datasets=[info.name],
        metrics=list(dict.fromkeys(["dice", *(result.metric_type for result in results)])),
        model_name=run.name if results else None,  # read with the results only
        eval_results=results or None,
    ).to_yaml()


def _merged(summary: dict[str, Any]) -> list[dict[str, Any]]:
    rows = summary.get("scores", [])
    return [row for row in rows if row["class"] == POLYP and row["mean"] is not None]


def _drawn(config: RunConfig) -> bool:
    return config.dataset == "phantom"


def _command(config: RunConfig, anywhere: bool) -> str:
    """The command line that trains this run: its recipe, and the settings that differ.

    ``anywhere``: without folders of this machine.
    """
    recipe = RECIPES[config.recipe].to_dict()
    if anywhere:
        config = replace(config, dataset=name_without_place(config.dataset))
    words = ["python", "-m", "polyp_utils", "train", "--recipe", config.recipe]
    for key, value in config.to_dict().items():
        if value != recipe[key]:
            flag = key.replace("_", "-")
            boolean = [f"--{flag}" if value else f"--no-{flag}"]
            words += boolean if isinstance(value, bool) else [f"--{flag}", str(value)]
    return shlex.join(words)
