"""The model card of a run, as the Hub reads it.

Every number comes from the run's files, so a card is written again, not edited.
"""

import json
import shlex
import shutil
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

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
from polyp_utils.data.labels import POLYP, get_scheme
from polyp_utils.data.split import PARTS, Split
from polyp_utils.data.splits import load_split
from polyp_utils.model.predict import halve_weights, is_halved
from polyp_utils.model.unet import UNet
from polyp_utils.publish.shown import hidden_figures, hide_frames
from polyp_utils.runs import archive
from polyp_utils.runs.run import Run
from polyp_utils.score.evaluation import VAL_COUNTS, check_data, validation_table
from polyp_utils.train.learner import COSINE_END

MAX_COMMITTED_BYTES = 20_000_000  # of weights, in git


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
    check_data(run, dataset, load_split(config.split, config.dataset).limited(config.limit))
    levels = levels_table(validation_levels(run, dataset))
    return {VAL_COUNTS: validation_table(run, dataset), VAL_LEVELS: levels}


def _hide_frames(run: Run) -> None:
    name = get_info(run.config.dataset).name
    for path in hidden_figures(run.path, name):
        path.unlink()
    for path in run.path.glob("*.ipynb"):
        hide_frames(path, name)


def _card(run: Run, summary: dict[str, Any], repo_id: str) -> str:
    config, record, training = run.config, run.record, run.training
    scheme, info = get_scheme(config.scheme), get_info(config.dataset)
    split = load_split(config.split, config.dataset).limited(config.limit)
    width, size, binary = config.width, config.image_size, scheme.logits == 1
    with torch.device("meta"):
        parameters = sum(p.numel() for p in UNet(3, scheme.logits, width).parameters())
    classes = "\n".join(
        f"| {index} | {name} | {'yes' if index in scheme.polyp else 'no'} |"
        for index, name in enumerate(scheme.classes)
    )
    planned = " planned" if "note" in record else ""
    has_alarms = (run.path / "false_alarms.csv").is_file()
    where = f"{parameters * 4 / 1e6:.1f} MB"
    if run.weights.is_file():
        where = f"{run.weights.stat().st_size / 1e6:.1f} MB, in this folder"
        if is_halved(run.weights):
            where += ", kernels in float16"
            where += "" if "note" in record else " (scores: of the same in float32)"
    else:
        where += ", not in this folder (files above 20 MB stay out of git): the command makes them"
    terms = f"they derive from {info.title} ({info.licence}), so they are for research only"
    unseen = "How often the network marks something in frames without polyps is not measured"
    unseen += f"{'; stand-ins are in `false_alarms.csv`' if has_alarms else ''}."
    if _drawn(config):
        terms = "they derive from frames that the code draws, so its licence holds for them too"
        unseen = "The frames are drawn: the scores say nothing about endoscopy."
    return f"""---
{_front_matter(run, summary)}---

# {run.name}

A U-Net that marks polyps in colonoscopy frames, trained on {info.title} with the recipe
`{config.recipe}` of `polyp_utils`.
{_note(record)}
{_headline(summary)}

## Network

Four encoder stages ({", ".join(str(width * 2**i) for i in range(4))} channels), bottleneck
({width * 16}), four decoder stages with skip connections,
head (3×3 convolution {width} → {width // 2}, batch norm, ReLU), 1×1 convolution.

- Parameters: {parameters:,}
- Input: RGB, float in [0, 1], {size}×{size} px
- Output per pixel: {"one logit" if binary else f"{scheme.logits} logits"}

## Classes

Label scheme `{scheme.name}`: {scheme.note}.

| index | class | polyp |
|---|---|---|
{classes}

## Data

- {info.title}, {info.homepage or "no download"}. Terms: {info.licence}.
- Citation: {info.citation}.
- Split `{config.split}`: {", ".join(f"{part} {len(split.part(part))}" for part in PARTS)} frames.
- Fingerprint of the data: `{record["fingerprints"]["data"]}`
- Fingerprint of the split: `{record["fingerprints"]["split_ids"]}`

## Training

- Epochs{planned}: {config.epochs}, in batches of {config.batch_size}; seed {config.seed}.
- {_optimization(config)}
- Loss: {config.ce_weight:g} × {"binary cross-entropy" if binary else "cross-entropy"}
  + {config.dice_weight:g} × Dice loss.
- A class that a batch lacks: {config.dice_absent}d in the Dice loss. Class weights in the
  cross-entropy: {config.class_weights}. Augmentation: {config.augment}.
- Weights at the start: {_start(config, record)}.
- Kept: {_kept(config, training)}.

{_made(run)}

Weights: {where}.

## Results

{_results(summary)}

## Limits

- One split, one seed: how much another would change the scores is not in their intervals.
- {" ".join(filter(None, (_leaks(split, config), record.get("init_leak"))))}
- Frames are resized to {size}×{size} px, whatever their shape; small polyps suffer first.
- {unseen}
- For research and teaching. Not a medical device.

## Use

With `polyp_utils`, the package of the repository; `{repo_id}` stands for where the weights lie:

```python
import torch
from huggingface_hub import hf_hub_download
from safetensors.torch import load_file

from polyp_utils.model import UNet

model = UNet(in_channels=3, num_classes={scheme.logits}, width={width})
model.load_state_dict(load_file(hf_hub_download("{repo_id}", "{run.weights.name}")))
model.eval()

x = torch.rand(1, 3, {size}, {size})  # your frames: RGB in [0, 1], (B, 3, H, W)
with torch.no_grad():
    classes = {"(model(x).sigmoid() > 0.5)[:, 0].long()" if binary else "model(x).argmax(dim=1)"}
# (B, H, W): {", ".join(f"{index} {name}" for index, name in enumerate(scheme.classes))}
```

Frames of any size, uint8 RGB (H, W, 3), to a mask of their size:

```python
from polyp_utils import load_model

mask = load_model("{repo_id}").polyp_mask(frame)  # bool (H, W)
```

## Licence

Code: MIT. Weights: {terms}.
"""


def _note(record: dict[str, Any]) -> str:
    return f"\n**{record['note']}**\n" if "note" in record else ""


def _made(run: Run) -> str:
    """By what, how fast and with which command the weights were made."""
    record, training = run.record, run.training
    if "note" in record:
        sha = record["fingerprints"]["init_weights"]
        return f"""Trained elsewhere: the SHA-256 of the file as it was given begins with `{sha}`.
No command of this repository made them; the nearest is

```bash
{_command(replace(run.config, name=""))}
```"""
    commits = dict.fromkeys(stage["commit"] for stage in (record, *record.get("resumed", [])))
    rows = {
        "hardware": training["device"],
        "time (wall clock, with whatever else the machine did)": (
            f"{timedelta(seconds=round(training['seconds']))} (h:mm:ss)"
        ),
        "speed": f"{training['images_per_second']:.1f} images/s",
        "peak memory": f"{training['peak_memory_mib']:.0f} MiB",
        "commit": ", then ".join(commits),
        "versions": ", ".join(f"{name} {version}" for name, version in record["versions"].items()),
    }
    table = "\n".join(f"| {what} | {value} |" for what, value in rows.items())
    return f"""| | |
|---|---|
{table}

The command that gives this run (a `+` after the commit: with changes that are not in it):

```bash
{_command(run.config)}
```"""


def _leaks(split: Split, config: RunConfig) -> str:
    """What stands on two sides of the split, as far as it is known."""
    found = leaks(split, config.dataset)
    if not found:
        return "No one has looked for near-duplicate frames on both sides of the split."
    said = (f"{n} of {of} known {what}" for what, (n, of) in found.items())
    return f"On both sides of the split: {' and '.join(said)}."


def _drawn(config: RunConfig) -> bool:
    return config.dataset == "phantom"


def _optimization(config: RunConfig) -> str:
    names = {"adam": "Adam", "adamw": "AdamW", "sgd": "SGD with Nesterov momentum 0.9"}
    text = f"{names[config.optimizer]}, learning rate {config.lr:g}"
    if config.weight_decay:
        text += f", weight decay {config.weight_decay:g} on the convolutions"
    if config.clip_norm:
        text += f", gradients cut to length {config.clip_norm:g}"
    if config.schedule == "plateau":
        return (
            f"{text}; times {config.lr_factor:g} when the validation loss has not\n  fallen for "
            f"more than {config.lr_patience} epochs, never below {config.min_lr:g}."
        )
    falls = {"linear": "falls to 0", "cosine": f"falls to {COSINE_END:g} of it as half a cosine"}
    share = f"{100 * config.warmup:g} %"
    rises = f"the rate rises in the\n  first {share} of the steps, then {falls[config.schedule]}"
    return f"{text}; {rises}."


def _start(config: RunConfig, record: dict[str, Any]) -> str:
    if not config.init:
        return "random"
    return f"those of `{config.init}` ({record['fingerprints']['init_weights']})"


def _kept(config: RunConfig, training: dict[str, Any]) -> str:
    weights = "weights"
    if config.ema_decay:
        weights = f"weights averaged exponentially over the steps (decay {config.ema_decay:g})"
    which = "the best epoch on val" if config.keep == "best" else "the last epoch"
    if "kept_epoch" in training:
        which += f", {training['kept_epoch']}"
    score = f"{training['kept_val_polyp_dice']:.3f} on val at {config.image_size} px"
    return f"{weights} of {which}; polyp Dice {score}"


def _front_matter(run: Run, summary: dict[str, Any]) -> str:
    import yaml

    config, info = run.config, get_info(run.config.dataset)
    licence = {"license": "mit"}
    if not _drawn(config):
        licence = {"license": "other", "license_name": "research-only"}
        if info.homepage:
            licence["license_link"] = info.homepage
    metrics = [
        {
            "type": row["score"],
            "name": f"{row['score']}, {POLYP}, {row['protocol']}",
            "value": row["mean"],
        }
        for row in _merged(summary)
    ]
    result = {
        "task": {"type": "image-segmentation"},
        "dataset": {"type": info.name, "name": info.title, "split": summary.get("part")},
        "metrics": metrics,
    }
    values = {
        **licence,
        "library_name": "pytorch",
        "pipeline_tag": "image-segmentation",
        "tags": ["polyp-segmentation", "colonoscopy", "medical", "unet", "safetensors"],
        "datasets": [info.name],
        "metrics": list(dict.fromkeys(["dice", *(row["type"] for row in metrics)])),
    }
    if metrics:
        values["model-index"] = [{"name": run.name, "results": [result]}]
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _merged(summary: dict[str, Any]) -> list[dict[str, Any]]:
    rows = summary.get("scores", [])
    return [row for row in rows if row["class"] == POLYP and row["mean"] is not None]


def _headline(summary: dict[str, Any]) -> str:
    for row in _merged(summary):
        if row["score"] == "dice":
            return (
                f"Polyp Dice **{row['mean']:.3f}** {_interval(row)} on {row['n']} frames of "
                f"{summary['part']} ({row['protocol']}; 95 % interval)."
            )
    return "It has not been evaluated."


def _interval(row: dict[str, Any]) -> str:
    return "–" if row["low"] is None else f"[{row['low']:.3f}, {row['high']:.3f}]"


def _results(summary: dict[str, Any]) -> str:
    if not summary.get("scores"):
        return "This run has not been evaluated: its folder holds no `summary.json`."
    lines = [
        f"{summary['n']} frames of {summary['part']}. Protocol: {summary['protocol']}.",
        "",
        "| protocol | class | score | mean | 95 % interval | n |",
        "|---|---|---|---|---|---|",
    ]
    for row in summary["scores"]:
        mean = "–" if row["mean"] is None else f"{row['mean']:.3f}"
        cells = (row["protocol"], row["class"], row["score"], mean, _interval(row), str(row["n"]))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


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
