"""The whole benchmark: one session, one table.

Every row is a median with quartiles and the number of measurements behind it; readers of the table
(notebook 08) compute ratios from it, always within one session.
"""

import platform
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from polyp_utils.bench import ceiling, inference, loops, training
from polyp_utils.bench.data import data_start
from polyp_utils.bench.report import NOT_HELD
from polyp_utils.bench.runtimes import CARD, is_held
from polyp_utils.common.config import RunConfig
from polyp_utils.common.device import Compute, explaining, get_compute, keep_freed_memory
from polyp_utils.common.files import write_csv, write_json
from polyp_utils.data.dataset import PolypDataset
from polyp_utils.train.start import git_commit

FOLDER = "benchmark"  # under results/
WIDTHS = (64, 32, 16)
# Steps for the cost model, besides the training measured anyway: width, image size, batch.
POINTS = ((16, 128, 8), (16, 384, 8), (16, 256, 16), (32, 128, 8))
# {}: the precision in which the hardware is fast. On a GPU only the first two run.
COMPARED = (
    CARD,
    "ours, PyTorch {}",
    "ours, OpenVINO {}",
    "ONNX Runtime, fp32",
    "ONNX Runtime, int8",
    "OpenVINO, int8",
)
# Width and image size for inference, besides the widths measured anyway: those of card-small.
PLACES = ((16, 128),)
_NOWHERE = {"width": 0, "image_size": 0, "batch": 0}
COLUMNS = ["group", "what", "width", "image_size", "batch", "value", "low", "high", "n", "unit"]


@explaining()
def benchmark(
    dataset: str,
    folder: Path,
    widths: Iterable[int] = WIDTHS,
    image_size: int = 256,
    batch_size: int = 8,
    device: str = "auto",
    rounds: int = 3,
    seconds: float = 2.0,
    points: Iterable[tuple[int, int, int]] = POINTS,
    places: Iterable[tuple[int, int]] = PLACES,
) -> pd.DataFrame:
    """Measures and writes ``bench.csv`` (after each part) and ``machine.json`` into a folder.

    Args:
        dataset: the data set whose frames are used; any will do.
        folder: created if missing.
        widths: network widths to measure.
        image_size: side of the network's input in pixels.
        batch_size: batch size in training.
        device: as in `get_compute`.
        rounds: turns of each candidate.
        seconds: length of a turn in training; a quarter of that in inference.
        points: width, image size and batch of further steps that the cost model is fitted to.
        places: further pairs of width and image size at which inference is measured.

    Returns:
        Columns `COLUMNS`: ``group`` (machine, training, layer, profile, data, inference, frame,
        cost), ``what``, median ``value`` with quartiles ``low`` and ``high`` of ``n``
        measurements, and ``unit``.

    Raises:
        ValueError: the data set has too few frames.
    """
    keep_freed_memory()
    widths = tuple(widths)
    compute = get_compute(device)
    frames, needed = len(PolypDataset(dataset, image_size)), loops.FRAMES + loops.VALIDATED
    if frames < needed:
        raise ValueError(f"{dataset} has {frames} frames; the loops take {needed}: try 'phantom'")
    folder.mkdir(parents=True, exist_ok=True)
    configs = [training.settings(width, image_size, batch_size) for width in widths]
    parts: dict[str, Iterator[list[Any]]] = {
        "the machine": _machine(compute),
        **{f"width {c.width}": _width(dataset, c, device, rounds, seconds) for c in configs},
        "data": _start(dataset, image_size),
        "inference": _inference(
            [*((width, image_size) for width in widths), *places], rounds, seconds / 4, compute
        ),
        **{f"cost at {point}": _point(dataset, point, device, seconds) for point in points},
    }
    description = describe_machine(compute, dataset=dataset)
    start = time.perf_counter()
    rows: list[list[Any]] = []
    for number, (name, part) in enumerate(parts.items(), 1):
        rows += part  # measures
        table = pd.DataFrame(rows, columns=COLUMNS)
        seconds = round(time.perf_counter() - start)
        write_csv(folder / "bench.csv", table)
        write_json(folder / "machine.json", description | {"seconds": seconds})
        print(f"{number} of {len(parts)} parts measured ({name}), {seconds} s", flush=True)
    return table


def _width(
    dataset: str, config: RunConfig, device: str, rounds: int, seconds: float
) -> Iterator[list[Any]]:
    """Training at one width: both loops, and the convolutions alone."""
    flops = ceiling.training_flops(config.width, config.image_size, config.batch_size)
    yield _row("training", "arithmetic", config, [flops], "FLOP/step")
    found = training.measure_training(dataset, config, device, rounds, seconds)
    groups = {"convolutions": "layer", "profile": "profile"}
    for key, rows in found.groupby(["loop", "what"], sort=False):
        loop, what = map(str, key)
        if loop in groups:
            yield _row(groups[loop], what, config, rows["value"], "s")
        else:
            name, unit = f"{loop}, {what}".replace("_", " "), training.UNITS[what]
            yield _row("training", name, config, rows["value"], unit)
    yield from _cost(found, config)


def _start(dataset: str, image_size: int) -> Iterator[list[Any]]:
    place = {**_NOWHERE, "image_size": image_size}
    for name, value, unit in data_start(dataset, image_size):
        yield _row("data", name, place, [value], unit)


def _inference(
    places: Iterable[tuple[int, int]], rounds: int, seconds: float, compute: Compute
) -> Iterator[list[Any]]:
    device, precision = compute.device.type, _precision(compute)
    wanted = COMPARED if device == "cpu" else COMPARED[:2]  # the others support only the CPU
    runtimes = [name.format(precision) for name in wanted]
    calls, frames = inference.speed(places, runtimes, (1, 8), rounds, seconds, device)
    for row in calls.to_dict("records"):
        name, place = _named(row["runtime"]), {key: row[key] for key in _NOWHERE}
        yield _row("inference", name, place, row["rates"], "images/s")
        for what, unit in (("p50_ms", "ms, p50"), ("p95_ms", "ms, p95"), ("mb", "MB")):
            n = 1 if what == "mb" else row["calls"]
            yield _row("inference", name, place, [row[what]], unit, n)
    for row in frames.assign(batch=1).to_dict("records"):
        name, place = _named(row["runtime"]), {key: row[key] for key in _NOWHERE}
        for part in ("predict", "mask"):
            yield _row("frame", f"{name}: {part}", place, row[f"{part}_ms"], "ms")


def _named(runtime: str) -> str:
    return runtime if is_held(runtime) else runtime + NOT_HELD


def _point(
    dataset: str, point: tuple[int, int, int], device: str, seconds: float
) -> Iterator[list[Any]]:
    """A further point of the cost model."""
    config = training.settings(*point)
    yield from _cost(
        training.measure_training(dataset, config, device, 1, seconds, ["ours"]), config
    )


def _cost(found: pd.DataFrame, config: RunConfig) -> Iterator[list[Any]]:
    ours = found[found["loop"] == "ours"].set_index("what")["value"]
    yield _row("cost", "step", config, config.batch_size / ours[["training"]], "s")
    yield _row("cost", "memory", config, ours[["peak_memory"]], "MiB")


def _machine(compute: Compute) -> Iterator[list[Any]]:
    for dtype in dict.fromkeys((torch.float32, compute.dtype)):
        precise = Compute(compute.device, dtype)
        kind = _precision(precise)
        rates = ceiling.matrix_product(precise) / 1e12
        yield _row("machine", f"matrix product, {kind}", _NOWHERE, rates, "TFLOP/s")
        what = f"3×3 convolution of 256 channels at 64², {kind}"
        rates = ceiling.one_convolution(precise) / 1e12
        yield _row("machine", what, _NOWHERE, rates, "TFLOP/s")
    copies = ceiling.memory_copy(compute) / 1e9
    yield _row("machine", "memory copy, read and written", _NOWHERE, copies, "GB/s")


def _precision(compute: Compute) -> str:
    return "bf16" if compute.dtype == torch.bfloat16 else "fp32"


def _row(
    group: str,
    what: str,
    at: RunConfig | dict[str, int],
    values: Iterable[float],
    unit: str,
    n: int = 0,
) -> list[Any]:
    """A row of `COLUMNS`; ``n`` where one value stands for more measurements."""
    if isinstance(at, RunConfig):
        at = {"width": at.width, "image_size": at.image_size, "batch": at.batch_size}
    array = np.asarray(list(values), dtype=float)
    low, median, high = np.quantile(array, [0.25, 0.5, 0.75])
    place = [at["width"], at["image_size"], at["batch"]]
    return [group, what, *place, median, low, high, n or len(array), unit]


def describe_machine(compute: Compute, **facts: Any) -> dict[str, Any]:
    """What was measured on: hardware, software, commit, time; and further facts."""
    return {
        "device": compute.describe(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": git_commit(),
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        **facts,
    }
