"""From settings to a finished run: checks and opens what they name, trains and predicts."""

import contextlib
import shutil
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from polyp_utils.common import processes
from polyp_utils.common.config import RunConfig
from polyp_utils.common.device import (
    Compute,
    explaining,
    get_compute,
    has_compiler,
)
from polyp_utils.common.exceptions import DataError, RunError
from polyp_utils.data.catalog import get_info
from polyp_utils.data.dataset import PolypDataset
from polyp_utils.data.labels import Scheme, get_scheme
from polyp_utils.data.naming import full_name
from polyp_utils.data.parts import Data, load_parts
from polyp_utils.data.split import Split
from polyp_utils.data.splits import leak_warning
from polyp_utils.model.losses import inverse_sqrt_weights
from polyp_utils.runs.run import Run, run_of, split_of
from polyp_utils.train.initial import Initial, find_initial
from polyp_utils.train.learner import Learner, micro_batches
from polyp_utils.train.start import open_run
from polyp_utils.train.trainer import Trainer


def fit(config: RunConfig) -> Run:
    """Trains a run to its end, or reports that it is already finished.

    ``batch_size`` counts the frames of one optimizer step, whatever the number of processes.

    Raises:
        ValueError: settings or data that cannot work; raised before any step.
        RunError: the run folder holds another run, is in use, or cannot be written.
        DivergedError: the loss is not finite.
        DeviceError: the GPU has too little memory, is in use, or is not supported.
        ProcessError: another process of this run cannot start.
    """
    sizes = {key: getattr(config, key) for key in ("batch_size", "micro_batches", "width")}
    settings = ", ".join(f"{key} {value}" for key, value in sizes.items())
    with processes.joined(), explaining(settings), contextlib.ExitStack() as held:
        with processes.agreed():
            config = replace(config, dataset=full_name(config.dataset))  # as it is recorded
            initial, leak = _initial(config), ""  # before frames are decoded
            split, scheme, compute, parts, fingerprints, doubts = prepare_training(config)
            if initial:
                fingerprints["init_weights"], leak = initial.fingerprint, initial.leak
            remarks = {"init_leak": leak, "doubts": doubts}
            opened = open_run(config, fingerprints, compute.describe(), split, **remarks)
            run = held.enter_context(opened)
        if processes.from_first(lambda: run.finished):
            print(f"{run.name} is finished: nothing to train")
            if processes.rank() == 0:  # left behind if it was killed at the very end
                shutil.rmtree(run.path / "last", ignore_errors=True)
            return run
        frames = f"{len(parts['train'])} frames of {get_info(config.dataset).title}"
        frames += f" at {config.image_size} px, {len(parts['val'])} for validation"
        slow = "" if config.compile_mode == "none" else "; the first steps take minutes to compile"
        print(f"{run.name}: {frames}, on {compute.describe()}{slow}", flush=True)
        for remark in filter(None, (split.remark, leak_warning(split, config.dataset))):
            print(remark)
        learner = Learner(config, scheme, compute, _class_weights(config, parts["train"]))
        trainer = Trainer(learner, run)
        if not trainer.resume() and initial:
            print(initial.load(learner.model))
            learner.start_average()
        trainer.train(parts["train"], parts["val"])
        trainer.finish({part: parts[part] for part in config.held_out})
        print(f"{run.name} is finished, in {run.path}")
    return run


class Prepared(NamedTuple):
    """What a training needs: ``fingerprints`` of data and split, ``doubts`` about the masks."""

    split: Split
    scheme: Scheme
    compute: Compute
    parts: dict[str, Data]
    fingerprints: dict[str, str]
    doubts: str


def prepare_training(config: RunConfig) -> Prepared:
    """Checks the settings, and opens the data.

    Raises:
        ValueError: settings or data that cannot work.
    """
    scheme = get_scheme(config.scheme)
    split = split_of(config)
    compute = get_compute(config.device, config.precision)
    micro_batches(config)
    _check_compiler(config, compute)
    if config.class_weights != "none" and scheme.logits == 1:
        raise ValueError(
            f"class_weights is {config.class_weights!r} but scheme {scheme.name} has one logit: "
            "use class_weights 'none', or a scheme with classes"
        )
    if config.batch_size > len(split.train):
        raise ValueError(
            f"batch_size is {config.batch_size} but the training part of {split.name} has "
            f"{len(split.train)} frames: use at most that many"
        )
    dataset = PolypDataset(config.dataset, config.image_size)
    scheme.check(dataset.masks, dataset.info.title)
    parts = load_parts(dataset, split, compute.device)
    if not dataset.polyp_pixels[dataset.rows(split.train), 0].any():
        raise DataError(
            f"none of the {len(split.train)} masks in the training part of {split.name} has a "
            f"polyp pixel: there is nothing to learn; check the masks of {dataset.info.title}"
        )
    prints = {"data": dataset.fingerprint, "split_ids": split.fingerprint}
    doubts = "; ".join(map(str, dataset.doubts))
    return Prepared(split, scheme, compute, parts, prints, doubts)


def _initial(config: RunConfig) -> Initial | None:
    """The weights to start from; once a run has finished an epoch, their file may be gone."""
    run = run_of(config)
    try:
        return find_initial(config)
    except (FileNotFoundError, RunError, ValueError):
        if not (run.path / "history.csv").is_file() or "init_weights" not in (
            there := run.record["fingerprints"]
        ):
            raise
        return Initial(Path(config.init), there["init_weights"], {}, False, "")


def _check_compiler(config: RunConfig, compute: Compute) -> None:
    if config.compile_mode == "none":
        return
    if not has_compiler(compute.device):
        raise ValueError(
            f"compile_mode is {config.compile_mode!r} but this machine has no C++ compiler (on a "
            "GPU: no triton): install one, or use compile_mode 'none'"
        )
    graphs = compute.device.type == "cuda" and config.compile_mode != "default"
    if graphs and micro_batches(config) > processes.size():  # pytorch/pytorch#169545
        raise ValueError(
            f"compile_mode is {config.compile_mode!r}, whose CUDA graphs cannot accumulate "
            f"gradients, but micro_batches is {config.micro_batches}: use 0, or compile_mode "
            "'default'"
        )


def _class_weights(config: RunConfig, train: Data) -> Tensor | None:
    """Class weights of the cross-entropy, from the pixels of the training part; None: equal."""
    if config.class_weights == "none":
        return None
    scheme = get_scheme(config.scheme)
    pixels = [
        torch.bincount(scheme.encode(train.masks[rows]).flatten(), minlength=len(scheme.classes))
        for rows in torch.arange(len(train)).split(64)
    ]
    weights = inverse_sqrt_weights(torch.stack(pixels).sum(dim=0).cpu())  # MPS has no float64
    return weights.to(train.device)
