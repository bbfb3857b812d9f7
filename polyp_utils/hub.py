"""Weights in and out: load a model for your own frames, write a run's model card, push it.

Only safetensors files are read, never a pickle. Every number in a card comes from the run's files,
so a card is written again, not edited. Without Python: ``hf upload user/name results/<run>``.
"""

import json
import os
import re
import shlex
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from polyp_utils.config import RECIPES, RunConfig
from polyp_utils.data.catalog import get_info
from polyp_utils.data.labels import SCHEMES, Scheme, get_scheme
from polyp_utils.data.splits import PARTS, load_split
from polyp_utils.data.transforms import resize_image
from polyp_utils.device import Compute, get_compute
from polyp_utils.evaluation import POLYP, polyp_and_classes
from polyp_utils.inference import WeightsError, load_weights, predict, read_metadata, to_original
from polyp_utils.model import UNet
from polyp_utils.runs import Run, RunError, atomic

FILE = "model.safetensors"
_REPO = re.compile(r"([\w-][\w.-]*/[\w-][\w.-]*)(?:@([\w./-]+))?")


class HubError(RuntimeError):
    """Weights that the Hub did not give; the message says why and how to get them by hand."""


@dataclass(frozen=True)
class Model:
    """A trained network and what its output means.

    Attributes:
        network: in evaluation mode, on ``compute.device``.
        scheme: what the class indices mean.
        image_size: side S of the square that frames are resized to, in pixels.
        compute: device and precision.
        metadata: what training wrote beside the weights; empty if another program wrote them.
    """

    network: UNet
    scheme: Scheme
    image_size: int
    compute: Compute
    metadata: dict[str, Any]

    def probabilities(self, image: np.ndarray) -> Tensor:
        """Class probabilities, float32 (C, H, W), of an RGB frame uint8 (H, W, 3) of any size.

        Raises:
            ValueError: another dtype or shape.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"the image is {image.dtype} {image.shape}; give RGB uint8 (H, W, 3)")
        image_CHW = torch.from_numpy(image.copy()).permute(2, 0, 1)  # a view may be flipped
        square = resize_image(image_CHW, (self.image_size, self.image_size))
        (probabilities,) = predict(self.network, square[None], self.compute)
        return to_original(probabilities, (image.shape[0], image.shape[1]))

    def class_map(self, image: np.ndarray) -> np.ndarray:
        """The likeliest class per pixel, uint8 (H, W), at the frame's size."""
        _, classes = polyp_and_classes(self.probabilities(image), self.scheme)
        return classes.to(torch.uint8).numpy()

    def polyp_mask(self, image: np.ndarray) -> np.ndarray:
        """Where P(any polyp class) > 0.5, bool (H, W), at the frame's size."""
        polyp, _ = polyp_and_classes(self.probabilities(image), self.scheme)
        return polyp.numpy()


def load_model(
    source: str | Path,
    scheme: str | None = None,
    image_size: int | None = None,
    device: str = "auto",
) -> Model:
    """Loads a model from a run folder, a safetensors file or the Hub.

    Args:
        source: folder, file, or repository id ``user/name`` or ``user/name@revision``.
        scheme: name of the label scheme; needed only for weights that do not say it.
        image_size: side of the network's input in pixels; the same, or to try another size.
        device: ``auto``, ``cuda``, ``mps`` or ``cpu``.

    Raises:
        FileNotFoundError: no such folder, file or repository id.
        HubError: the Hub did not give the file.
        WeightsError: not safetensors, not our U-Net, or a scheme that is unknown or does not fit.
    """
    path = _find(source)
    metadata = read_metadata(path)
    settings = metadata.get("settings", {})
    width, logits = _shape(path)
    stored, size = settings.get("scheme"), image_size or settings.get("image_size")
    fitting = [name for name, known in SCHEMES.items() if known.logits == logits]
    if not (scheme or stored) or not size:
        raise WeightsError(
            f"{path} does not say its label scheme and input size: give scheme= ({logits} logits: "
            f"one of {', '.join(fitting)}) and image_size= (pixels; the model card's is 256)"
        )
    if scheme and stored and scheme != stored:
        raise WeightsError(f"{path} was trained with scheme {stored!r}, not {scheme!r}")
    found = get_scheme(scheme or stored)
    if found.logits != logits:
        raise WeightsError(
            f"{path} has {logits} logits but scheme {found.name!r} needs {found.logits}: "
            f"one of {', '.join(fitting)} fits"
        )
    compute = get_compute(device)
    network = load_weights(UNet(3, logits, width), path).eval()
    network = network.to(memory_format=torch.channels_last).to(compute.device)
    return Model(network, found, size, compute, metadata)


def _find(source: str | Path) -> Path:
    path = Path(source).expanduser()
    if path.is_dir():
        if not (path / FILE).is_file():
            raise FileNotFoundError(
                f"{path} holds no {FILE}: unfinished, or published without it; the README.md of a "
                "published run has the command that makes it again"
            )
        return path / FILE
    if path.is_file():
        return path
    match = _REPO.fullmatch(str(source))
    if not match or path.suffix == ".safetensors":
        raise FileNotFoundError(
            f"{source} is no run folder, no file, and no repository id of the Hub (user/name or "
            "user/name@revision)"
        )
    return _download(match[1], match[2] or "main")


def _download(repo_id: str, revision: str) -> Path:
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    by_hand = f"get {endpoint}/{repo_id}/resolve/{revision}/{FILE} by hand and give the file's path"
    try:
        from huggingface_hub import errors, hf_hub_download  # not on every machine
    except ImportError as error:
        raise HubError(f"huggingface_hub is not installed: install it, or {by_hand}") from error
    unreachable = f"{repo_id} cannot be fetched from {endpoint}: try again online, or {by_hand}"
    reasons = {
        errors.RepositoryNotFoundError: f"{repo_id} is no file or folder here, and no repository "
        f"that {endpoint} shows you; if it is private or gated, log in first (hf auth login)",
        errors.RevisionNotFoundError: f"{repo_id} has no revision {revision!r}",
        errors.LocalEntryNotFoundError: unreachable,  # before its base class
        errors.EntryNotFoundError: f"{repo_id} has no {FILE} at revision {revision!r}; weights of "
        "another format are not loaded",
    }
    try:
        return Path(hf_hub_download(repo_id, FILE, revision=revision))
    except Exception as error:  # the client's, httpx's and the system's alike
        reason = next((text for kind, text in reasons.items() if isinstance(error, kind)), None)
        raise HubError(f"{reason or unreachable} ({type(error).__name__})") from error


def _shape(path: Path) -> tuple[int, int]:
    """Width and number of logits, read from the header."""
    ends = ("encoder.0.0.weight", "output.weight")
    with safe_open(path, "pt") as file:
        names = set(file.keys())
        if not names.issuperset(ends):
            raise WeightsError(f"{path} holds no U-Net of this package ({len(names)} tensors)")
        width, logits = (file.get_slice(name).get_shape()[0] for name in ends)
    return width, logits


def push(run: Run, repo_id: str, private: bool = False) -> str:
    """Uploads card, weights and record (log in with ``hf auth login``); returns the address."""
    from huggingface_hub import HfApi

    if not run.weights.is_file():
        raise FileNotFoundError(f"{run.weights} is missing: a repository without it is of no use")
    write_model_card(run, repo_id)
    HfApi().create_repo(repo_id, private=private, exist_ok=True)
    files = ["README.md", FILE, "*.json", "history.csv", "figures/*"]
    return HfApi().upload_folder(repo_id=repo_id, folder_path=run.path, allow_patterns=files)


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


def _card(run: Run, summary: dict[str, Any], repo_id: str) -> str:
    config, record, training = run.config, run.record, run.training
    scheme, info = get_scheme(config.scheme), get_info(config.dataset)
    split = load_split(config.split).limited(config.limit)
    width, size, binary = config.width, config.image_size, scheme.logits == 1
    with torch.device("meta"):
        parameters = sum(p.numel() for p in UNet(3, scheme.logits, width).parameters())
    classes = "\n".join(
        f"| {index} | {name} | {'yes' if index in scheme.polyp else 'no'} |"
        for index, name in enumerate(scheme.classes)
    )
    commits = dict.fromkeys(stage["commit"] for stage in (record, *record.get("resumed", [])))
    where = "in this folder"
    if not run.weights.is_file():
        where = "not in this folder (files above 20 MB stay out of git): the command makes them"
    terms = f"they derive from {info.title} ({info.licence}), so they are for research only"
    unseen = "The data hold no normal frames, so specificity on them is not measured."
    if _drawn(config):
        terms = "they derive from frames that the code draws, so its licence holds for them too"
        unseen = "The frames are drawn: the scores say nothing about endoscopy."
    return f"""---
{_front_matter(run, summary)}---

# {run.name}

A U-Net that marks polyps in colonoscopy frames, trained from scratch on {info.title} with the
recipe `{config.recipe}` of `polyp_utils`.

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
  The checkpoint is chosen on val.
- Fingerprint of the data: `{record["fingerprints"]["data"]}`
- Fingerprint of the split: `{record["fingerprints"]["split_ids"]}`

## Training

- Epochs: {config.epochs}, batches of {config.batch_size}, seed {config.seed}.
- Adam, learning rate {config.lr:g}; times {config.lr_factor:g} when the validation loss has not
  fallen for more than {config.lr_patience} epochs, never below {config.min_lr:g}.
- Loss: {config.ce_weight:g} × {"binary cross-entropy" if binary else "cross-entropy"}
  + {config.dice_weight:g} × Dice loss.
- Kept: epoch {training["best_epoch"]}, polyp Dice {training["best_val_polyp_dice"]:.3f} on val
  at {size} px.

| | |
|---|---|
| hardware | {training["device"]} |
| time | {timedelta(seconds=round(training["seconds"]))} (h:mm:ss) |
| speed | {training["images_per_second"]:.1f} images/s |
| peak memory | {training["peak_memory_mib"]:.0f} MiB |
| commit | {", then ".join(commits)} |
| versions | {", ".join(f"{name} {version}" for name, version in record["versions"].items())} |

The command that gives this run (a `+` after the commit: with changes that are not in it):

```bash
{_command(config)}
```

Weights: {parameters * 4 / 1e6:.1f} MB, {where}.

## Results

{_results(summary)}

## Limits

- One split, one seed: how much another would change the scores is not in their intervals.
- Frames are resized to {size}×{size} px, whatever their shape; small polyps suffer first.
- {unseen}
- For research and teaching. Not a medical device.

## Use

With `polyp_utils`, the package of the repository at the commit above:

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
from polyp_utils.hub import load_model

mask = load_model("{repo_id}").polyp_mask(frame)  # bool (H, W)
```

## Licence

Code: MIT. Weights: {terms}.
"""


def _drawn(config: RunConfig) -> bool:
    return config.dataset == "phantom"


def _front_matter(run: Run, summary: dict[str, Any]) -> str:
    import yaml

    config, info = run.config, get_info(run.config.dataset)
    licence = {"license": "mit"}
    if not _drawn(config):
        licence = {"license": "other", "license_name": "research-only"}
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
