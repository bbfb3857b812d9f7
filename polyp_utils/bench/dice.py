"""Whether the runtimes agree on trained weights: Dice under each, on the same frames."""

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from polyp_utils.bench.runtimes import CARD, load_forward, prepare_runtimes, runtimes_here
from polyp_utils.common.config import RunConfig
from polyp_utils.common.exceptions import WeightsError
from polyp_utils.data.dataset import PolypDataset
from polyp_utils.data.grouping import known_groups
from polyp_utils.data.labels import get_scheme, is_polyp
from polyp_utils.data.split import Split
from polyp_utils.deploy.onnx import calibration_images
from polyp_utils.model.predict import to_polyp_mask
from polyp_utils.model.unet import UNet
from polyp_utils.model.weights import load_weights, read_header
from polyp_utils.runs.run import Run, find_run, split_of
from polyp_utils.score.intervals import mean_interval
from polyp_utils.score.overlap import count, dice


@dataclass(frozen=True)
class WeightsFile:
    """Weights without a run folder, with as much of a `Run` as scoring them needs.

    Attributes:
        name: for tables.
        weights: the file.
        config: data set, split, scheme, network size and width.
        split: the frames of each part.
    """

    name: str
    weights: Path
    config: RunConfig
    split: Split


def find_weights(source: str, **settings: Any) -> Run | WeightsFile:
    """A finished run by name or path, or a weights file.

    Args:
        source: as in `find_run`, or the path of a safetensors file.
        settings: ``dataset``, ``split``, ``scheme`` and ``image_size`` of a file without that
            metadata; None: not known.

    Raises:
        RunError, ValueError: as in `find_run`.
        WeightsError: not our weights, or settings that neither the file nor the caller gives.
    """
    path = Path(source).expanduser()
    if not path.is_file():
        return find_run(source)
    header = read_header(path)
    stored = header.settings
    known = {key: stored.get(key, value) for key, value in settings.items()}
    missing = [f"--{key.replace('_', '-')}" for key, value in known.items() if value is None]
    if missing:
        raise WeightsError(
            f"{path} does not say how it was trained: give {', '.join(missing)}; the split must "
            "be that of its training, or it is tested on frames that it has seen"
        )
    config = RunConfig.from_recipe("card", **known, width=header.width, limit=stored.get("limit"))
    split = split_of(config, header.metadata.get("split_ids", ""))
    return WeightsFile(path.stem, path, config, split)


def dice_of_runs(runs: Iterable[Run | WeightsFile]) -> pd.DataFrame:
    """`dice_by_runtime` of several runs, with columns ``run``, ``width`` and ``image_size``.

    Raises:
        FileNotFoundError: a run without weights.
    """
    tables = []
    for run in runs:
        if not run.weights.is_file():
            raise FileNotFoundError(f"{run.weights} does not exist: use a run that has its weights")
        config = run.config
        found = dice_by_runtime(run, PolypDataset(config.dataset, config.image_size))
        place = {"run": run.name, "width": config.width, "image_size": config.image_size}
        tables.append(pd.DataFrame({**place, **found}))
        print(f"{run.name}: {len(found)} runtimes", flush=True)
    return pd.concat(tables, ignore_index=True)


def dice_by_runtime(
    run: Run | WeightsFile, dataset: PolypDataset, runtimes: Iterable[str] | None = None
) -> pd.DataFrame:
    """Polyp Dice of trained weights on their test part under each runtime, at the original size.

    int8 is calibrated on frames of the training part.

    Args:
        run: a run, or a file, that has its weights.
        dataset: its data set, opened at its network size.
        runtimes: keys of `FORWARDS`; None: `runtimes_here`. The card's snippet is added as the
            baseline; runtimes whose package is missing are skipped, with a message.

    Returns:
        Columns ``runtime``; ``dice``, mean over frames; ``delta``, the mean difference to the
        card's snippet over frames with a Dice under both, with its 95 % interval ``low`` to
        ``high`` (BCa, near-duplicates resampled together); ``largest`` absolute difference of a
        frame; ``n``, the number of frames.
    """
    config, scheme = run.config, get_scheme(run.config.scheme)
    split = run.split
    ids = split.test
    images = dataset.images[dataset.rows(ids)]
    truths = [is_polyp(torch.from_numpy(dataset.original_mask(i))) for i in ids]
    per_frame: dict[str, Tensor] = {}
    with tempfile.TemporaryDirectory() as folder:
        network = load_weights(UNet(3, scheme.logits, config.width), run.weights)
        calibration = calibration_images(config, split)
        weights = prepare_runtimes(Path(folder), network, config.to_dict(), calibration)
        for name in dict.fromkeys((CARD, *(runtimes or runtimes_here()))):
            try:
                forward = load_forward(name, weights)
            except ImportError as error:
                print(f"{name} is skipped: {error}")
                continue
            found = []
            for image, truth in zip(images, truths, strict=True):
                (probabilities,) = forward(image[None] / 255)
                height, width = truth.shape
                mask = to_polyp_mask(probabilities, scheme, (height, width))
                found.append(dice(count(mask[None], truth[None], 2))[0, 1])
            per_frame[name] = torch.stack(found)
    groups = list(known_groups(dataset, ids).values())
    rows = []
    for name, scores in per_frame.items():
        deltas = scores - per_frame[CARD]
        delta = mean_interval(deltas.tolist(), groups=groups)
        row = {"runtime": name, "dice": float(scores.nanmean()), "delta": delta.mean}
        row |= {"low": delta.low, "high": delta.high}
        rows.append({**row, "largest": float(deltas.nan_to_num().abs().max()), "n": len(scores)})
    return pd.DataFrame(rows)
