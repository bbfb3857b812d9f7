"""The whole benchmark: one process, one session, one table.

Every row is a median with quartiles and the number of measurements behind it; ratios are made by
whoever reads the table (notebook 08), from rows of one session.
"""

import platform
import tempfile
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from polyp_utils.bench import ceiling, inference, training
from polyp_utils.bench.data import data_start
from polyp_utils.config import RunConfig
from polyp_utils.data.dataset import PolypDataset
from polyp_utils.device import Compute, get_compute, keep_freed_memory
from polyp_utils.files import write_csv, write_json
from polyp_utils.hub import load_model
from polyp_utils.model import UNet
from polyp_utils.runs import git_commit, save_weights

WIDTHS = (64, 32, 16)
# Of the cost model, beside the training that is measured anyway: width, image size, batch.
POINTS = ((16, 128, 8), (16, 384, 8), (16, 256, 16), (32, 128, 8))
RUNTIMES = (inference.CARD, "ours, bf16", "ONNX Runtime, fp32", "OpenVINO, bf16")
_TURN = 0.5  # seconds of each runtime's turns
_NOWHERE = {"width": 0, "image_size": 0, "batch": 0}
MEMORY_POINTS = ((16, 128, 8), (16, 384, 8))
COLUMNS = ["group", "what", "width", "image_size", "batch", "value", "low", "high", "n", "unit"]


def benchmark(
    dataset: str,
    folder: Path,
    widths: Iterable[int] = WIDTHS,
    image_size: int = 256,
    batch_size: int = 8,
    device: str = "auto",
    rounds: int = 3,
    points: Iterable[tuple[int, int, int]] = POINTS,
) -> pd.DataFrame:
    """Measures and writes ``bench.csv`` (after each part) and ``machine.json`` into a folder.

    Args:
        dataset: whose frames are used; any will do.
        folder: made if it is not there.
        widths: of the network, each measured.
        image_size: of the network's input.
        batch_size: in training.
        device: as in `get_compute`.
        rounds: turns that each of two loops takes.
        points: width, image size and batch of the steps that the cost model is fitted to.

    Returns:
        Rows of `COLUMNS`: ``group`` (machine, layer, training, data, inference,
        frame, cost), ``what``, median ``value``
        with quartiles ``low`` and ``high`` of ``n`` measurements, and ``unit``.
    """
    keep_freed_memory()
    widths = tuple(widths)
    compute = get_compute(device)
    data = PolypDataset(dataset, image_size)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "machine.json", _description(compute, dataset))
    parts: list[Callable[[], Iterator[list[Any]]]] = [
        lambda: _machine(compute),
        *(partial(_width, data, width, batch_size, compute, rounds) for width in widths),
        lambda: _start(dataset, image_size),
        lambda: _inference(widths, image_size, rounds),
        lambda: _cost(dataset, points, compute, device),
    ]
    rows: list[list[Any]] = []
    for number, part in enumerate(parts, 1):
        rows += part()
        table = pd.DataFrame(rows, columns=COLUMNS)
        write_csv(folder / "bench.csv", table)
        print(f"{number} of {len(parts)} parts measured", flush=True)
    return table


def _width(
    data: PolypDataset, width: int, batch_size: int, compute: Compute, rounds: int
) -> Iterator[list[Any]]:
    config = training.settings(width, data.images.shape[-1], batch_size)
    for row in training.convolution_seconds(config, compute, rounds).to_dict("records"):
        for name in ceiling.PASSES:
            if not np.isnan(row[name]):
                yield _row("layer", f"{row['layer']}, {name}", config, [row[name]], "s")
    yield from _training(data, config, compute, rounds)
    yield from _processes(data.name, config, compute.device.type)


def _start(dataset: str, image_size: int) -> Iterator[list[Any]]:
    place = {**_NOWHERE, "image_size": image_size}
    for name, value, unit in data_start(dataset, image_size):
        yield _row("data", name, place, [value], unit)


def _training(
    data: PolypDataset, config: RunConfig, compute: Compute, rounds: int
) -> Iterator[list[Any]]:
    yield _row("training", "arithmetic", config, [training.step_flops(config)], "FLOP/step")
    rates = training.training_rates(data, config, compute, rounds)
    for (loop, what), group in rates.groupby(["loop", "what"]):
        yield _row("training", f"{loop}, {what}", config, group["rate"], "images/s")
        if (loop, what) == ("ours", "training"):
            yield _row("cost", "step", config, config.batch_size / group["rate"], "s")


def _processes(dataset: str, config: RunConfig, device: str) -> Iterator[list[Any]]:
    for loop in training.LOOPS:
        found = training.of_process(loop, dataset, config, device)
        for what, unit in (("first batch", "s"), ("peak memory", "MiB")):
            yield _row("training", f"{loop}, {what}", config, [found[what]], unit)
        if loop == "ours":
            yield _row("cost", "memory", config, [found["peak memory"]], "MiB")


def _inference(widths: Iterable[int], image_size: int, rounds: int) -> Iterator[list[Any]]:
    """On the CPU, wherever training was measured: the runtimes are those of the CPU."""
    found = inference.speed(widths, RUNTIMES, (1, 8), image_size, rounds, _TURN)
    for row in found.to_dict("records"):
        place = {"width": row["width"], "image_size": image_size, "batch": row["batch"]}
        rates = [row["images_per_second"], row["low"], row["high"]]
        yield _row("inference", row["runtime"], place, rates, "images/s")
        for what, unit in (("p50_ms", "ms, p50"), ("p95_ms", "ms, p95"), ("mb", "MB")):
            yield _row("inference", row["runtime"], place, [row[what]], unit)
    for width in widths:
        with tempfile.TemporaryDirectory() as folder:
            weights = Path(folder, "model.safetensors")
            settings = {"scheme": "trimap", "image_size": image_size, "width": width}
            save_weights(weights, UNet(3, 3, width), {"settings": settings})
            times = inference.frame_times(load_model(weights, device="cpu"))
        place = {"width": width, "image_size": image_size, "batch": 1}
        for name, value in times.items():
            unit = "share" if name == "mask_share" else "ms"
            yield _row("frame", str(name).removesuffix("_ms"), place, [value], unit)


def _cost(
    dataset: str, points: Iterable[tuple[int, int, int]], compute: Compute, device: str
) -> Iterator[list[Any]]:
    for point in points:
        config = training.settings(*point)
        seconds = training.step_seconds(PolypDataset(dataset, point[1]), config, compute)
        yield _row("cost", "step", config, [seconds], "s")
        if point in MEMORY_POINTS:
            found = training.of_process("ours", dataset, config, device)
            yield _row("cost", "memory", config, [found["peak memory"]], "MiB")


def _machine(compute: Compute) -> Iterator[list[Any]]:
    for dtype in dict.fromkeys((torch.float32, compute.dtype)):
        kind = "bf16" if dtype == torch.bfloat16 else "fp32"
        precise = Compute(compute.device, dtype)
        rate = [ceiling.matrix_product(precise, 1) / 1e12 for _ in range(5)]
        yield _row("machine", f"matrix product, {kind}", _NOWHERE, rate, "TFLOP/s")
        layer = ceiling.Convolution("3×3", (8, 256, 64, 64), (256, 256, 3, 3), False, True)
        rate = [layer.flops / layer.seconds(precise, 1)["forward"] / 1e12 for _ in range(5)]
        what = f"3×3 convolution of 256 channels at 64², {kind}"
        yield _row("machine", what, _NOWHERE, rate, "TFLOP/s")
    copies = [ceiling.memory_copy(compute, 1) / 1e9 for _ in range(5)]
    yield _row("machine", "memory copy, read and written", _NOWHERE, copies, "GB/s")


def _row(
    group: str, what: str, at: RunConfig | dict[str, int], values: Iterable[float], unit: str
) -> list[Any]:
    if isinstance(at, RunConfig):
        at = {"width": at.width, "image_size": at.image_size, "batch": at.batch_size}
    array = np.asarray(list(values), dtype=float)
    low, median, high = np.quantile(array, [0.25, 0.5, 0.75])
    place = [at["width"], at["image_size"], at["batch"]]
    return [group, what, *place, median, low, high, len(array), unit]


def _description(compute: Compute, dataset: str) -> dict[str, Any]:
    return {
        "device": compute.describe(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": git_commit(),
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "dataset": dataset,
    }
