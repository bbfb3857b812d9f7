"""The whole benchmark: one process, one session, one table.

Every row is a median with quartiles and the number of measurements behind it; ratios are made by
whoever reads the table (notebook 08), from rows of one session.
"""

import platform
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from polyp_utils.bench import ceiling, training
from polyp_utils.bench.data import data_start
from polyp_utils.data.dataset import PolypDataset
from polyp_utils.device import Compute, get_compute, keep_freed_memory
from polyp_utils.files import write_csv, write_json
from polyp_utils.runs import git_commit

WIDTHS = (64, 32, 16)
COLUMNS = ["group", "what", "width", "batch", "value", "low", "high", "n", "unit"]


def benchmark(
    dataset: str,
    folder: Path,
    widths: Iterable[int] = WIDTHS,
    image_size: int = 256,
    batch_size: int = 8,
    device: str = "auto",
    rounds: int = 3,
) -> pd.DataFrame:
    """Measures and writes ``bench.csv``, ``layers.csv`` and ``machine.json`` into a folder.

    Args:
        dataset: whose frames are used; any will do.
        folder: made if it is not there.
        widths: of the network, each measured.
        image_size: of the network's input.
        batch_size: in training.
        device: as in `get_compute`.
        rounds: turns that each of two loops takes.

    Returns:
        Rows of `COLUMNS`: ``group`` (machine, training, inference, data), ``what``, median
        ``value`` with quartiles ``low`` and ``high`` of ``n`` measurements, and ``unit``.
    """
    keep_freed_memory()
    compute = get_compute(device)
    data = PolypDataset(dataset, image_size)
    rows = list(_machine(compute))
    layers = []
    for width in widths:
        config = training.settings(width, image_size, batch_size)
        print(f"width {width}: convolutions, training", flush=True)
        times = training.convolution_seconds(config, compute, rounds)
        layers.append(times.assign(width=width))
        alone = float(times[list(ceiling.PASSES)].sum().sum())
        flops = training.step_flops(config)
        rows += [
            _row("training", "convolutions alone", width, batch_size, [alone], "s/step"),
            _row("training", "flops", width, batch_size, [flops], "FLOP/step"),
        ]
        rates = training.training_rates(data, config, compute, rounds)
        for (loop, what), group in rates.groupby(["loop", "what"]):
            rows.append(
                _row("training", f"{loop}, {what}", width, batch_size, group["rate"], "images/s")
            )
        for loop in training.LOOPS:
            found = training.of_process(loop, dataset, config, device)
            for what, unit in (("first batch", "s"), ("peak memory", "MiB")):
                rows.append(
                    _row("training", f"{loop}, {what}", width, batch_size, [found[what]], unit)
                )
    for name, value, unit in data_start(dataset, image_size):
        rows.append(_row("data", name, 0, 0, [value], unit))
    table = pd.DataFrame(rows, columns=COLUMNS)
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(folder / "bench.csv", table)
    write_csv(folder / "layers.csv", pd.concat(layers, ignore_index=True))
    write_json(folder / "machine.json", _description(compute, dataset, image_size))
    return table


def _machine(compute: Compute) -> Iterator[list[Any]]:
    for dtype in dict.fromkeys((torch.float32, compute.dtype)):
        kind = "bf16" if dtype == torch.bfloat16 else "fp32"
        precise = Compute(compute.device, dtype)
        rate = [ceiling.matrix_product(precise, 1) / 1e12 for _ in range(5)]
        yield _row("machine", f"matrix product, {kind}", 0, 0, rate, "TFLOP/s")
        layer = ceiling.Convolution("3×3", (8, 256, 64, 64), (256, 256, 3, 3), False, True)
        rate = [layer.flops / layer.seconds(precise, 1)["forward"] / 1e12 for _ in range(5)]
        what = f"3×3 convolution of 256 channels at 64², {kind}"
        yield _row("machine", what, 0, 8, rate, "TFLOP/s")
    copies = [ceiling.memory_copy(compute, 1) / 1e9 for _ in range(5)]
    yield _row("machine", "memory copy, read and written", 0, 0, copies, "GB/s")


def _row(
    group: str, what: str, width: int, batch: int, values: Iterable[float], unit: str
) -> list[Any]:
    array = np.asarray(list(values), dtype=float)
    low, median, high = np.quantile(array, [0.25, 0.5, 0.75])
    return [group, what, width, batch, median, low, high, len(array), unit]


def _description(compute: Compute, dataset: str, image_size: int) -> dict[str, Any]:
    return {
        "device": compute.describe(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": git_commit(),
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "dataset": dataset,
        "image_size": image_size,
    }
