"""How fast the same weights predict under each runtime, and whether they say the same.

A runtime maps images, float32 (B, 3, H, W) in [0, 1], to class probabilities, float32
(B, C, H, W), on one device. Each is timed in a process of its own, in turns: thread pools of one
would slow down another, and how memory is kept belongs to the runtime.
"""

import itertools
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, wait
from contextlib import ExitStack
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from polyp_utils.bench.ceiling import synchronise
from polyp_utils.config import ExtraError
from polyp_utils.data.dataset import PolypDataset
from polyp_utils.data.labels import get_scheme, is_polyp
from polyp_utils.data.splits import load_split
from polyp_utils.device import get_compute
from polyp_utils.export import export_onnx
from polyp_utils.hub import FILE, Model, load_model
from polyp_utils.inference import (
    load_weights,
    read_metadata,
    save_weights,
    to_polyp_mask,
    to_probabilities,
)
from polyp_utils.metrics import count, dice
from polyp_utils.model import UNet
from polyp_utils.runs import Run
from polyp_utils.runtime import threads_for

Forward = Callable[[Tensor], Tensor]
CARD = "card's snippet, fp32"
_FRAME = (1024, 1280)  # height and width in pixels, the largest frames of Kvasir-SEG but a few


def _card(weights: Path, device: str) -> Forward:
    settings = read_metadata(weights)["settings"]
    model = UNet(3, get_scheme(settings["scheme"]).logits, settings["width"])
    load_weights(model, weights).eval().to(device)
    return torch.no_grad()(lambda images: to_probabilities(model(images)))


def _ours(runtime: str, precision: str, weights: Path, device: str) -> Forward:
    model = load_model(weights, device=device, precision=precision, runtime=runtime)

    @torch.inference_mode()
    def forward(images: Tensor) -> Tensor:
        with threads_for(model.network), model.compute.autocast():
            return to_probabilities(model.network(images))

    return forward


def _onnx_runtime(weights: Path, device: str) -> Forward:
    try:
        import onnxruntime
    except ImportError as error:
        raise ExtraError("onnxruntime", "export") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    providers = ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(_onnx_file(weights), options, providers=providers)
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def _onnx_file(weights: Path) -> Path:
    path = weights.with_suffix(".onnx")
    return path if path.is_file() else export_onnx(weights, path)


FORWARDS: dict[str, Callable[[Path, str], Forward]] = {
    CARD: _card,
    "ours, PyTorch fp32": partial(_ours, "torch", "fp32"),
    "ours, PyTorch bf16": partial(_ours, "torch", "bf16"),
    "ours, OpenVINO fp32": partial(_ours, "openvino", "fp32"),
    "ours, OpenVINO bf16": partial(_ours, "openvino", "bf16"),
    "ONNX Runtime, fp32": _onnx_runtime,
}


def speed(
    widths: Iterable[int] = (64, 32, 16),
    runtimes: Iterable[str] = tuple(FORWARDS),
    batches: Iterable[int] = (1, 8),
    image_size: int = 256,
    rounds: int = 10,
    seconds: float = 1.0,
    device: str = "cpu",
) -> pd.DataFrame:
    """Times U-Nets of random weights, from input floats to probabilities.

    Args:
        widths: of the networks.
        runtimes: keys of `FORWARDS`; one whose package is missing is left out, and named.
        batches: images per call.
        image_size: side of the square images in pixels.
        rounds: turns that each runtime gets.
        seconds: how long a turn lasts, at least one call.
        device: cpu or cuda, where images and probabilities are; only PyTorch knows the latter.

    Returns:
        Rows ``width``, ``runtime``, ``batch``; ``rates``, images per second of each round, a list;
        ``p50_ms``, ``p95_ms`` per call, over all ``calls``; ``mb`` (10⁶ bytes) of the file that
        is loaded.
    """
    batches, rows = tuple(batches), []
    spawn = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        workers = {
            name: stack.enter_context(ProcessPoolExecutor(1, mp_context=spawn)) for name in runtimes
        }
        wait([worker.submit(get_compute, device) for worker in workers.values()])  # imports
        for width in widths:
            weights = random_weights(Path(folder), width, image_size)
            asked = (weights, image_size, device)
            _warm_up(workers, batches, *asked)
            for (name, batch), turns in _turns(workers, batches, rounds, seconds, *asked).items():
                p50, p95 = np.percentile(np.concatenate(turns), [50, 95])
                rows.append(
                    {
                        "width": width,
                        "runtime": name,
                        "batch": batch,
                        "rates": [batch / np.mean(turn) for turn in turns],
                        "p50_ms": 1e3 * p50,
                        "p95_ms": 1e3 * p95,
                        "calls": sum(map(len, turns)),
                        "mb": _file(name, weights).stat().st_size / 1e6,
                    }
                )
    return pd.DataFrame(rows)


def random_weights(folder: Path, width: int, image_size: int) -> Path:
    """Writes a network that was never trained; its file."""
    settings = {"scheme": "trimap", "image_size": image_size, "width": width}
    path = folder / f"w{width}.safetensors"
    save_weights(path, UNet(3, get_scheme("trimap").logits, width), {"settings": settings})
    return path


def _warm_up(workers: dict[str, ProcessPoolExecutor], batches: Iterable[int], *asked: Any) -> None:
    """Has each runtime load its weights and compute; one that is not installed is taken out."""
    for name, worker in list(workers.items()):
        try:
            for batch in batches:
                worker.submit(_calls, name, batch, 0, *asked).result()
        except ImportError as error:
            print(f"{name} is left out: {error}")
            del workers[name]


def _turns(
    workers: dict[str, ProcessPoolExecutor],
    batches: Iterable[int],
    rounds: int,
    seconds: float,
    *asked: Any,
) -> dict[tuple[str, int], list[list[float]]]:
    """Seconds of each call in each turn, by runtime and batch."""
    calls: dict[tuple[str, int], list[list[float]]] = {}
    for _, batch, name in itertools.product(range(rounds), batches, workers):
        turn = workers[name].submit(_calls, name, batch, seconds, *asked)
        calls.setdefault((name, batch), []).append(turn.result())
    return calls


def _file(runtime: str, weights: Path) -> Path:
    own = runtime == CARD or runtime.startswith("ours")
    return weights if own else weights.with_suffix(".onnx")


@lru_cache(maxsize=1)  # in the runtime's process: of one width after the other
def _forward(runtime: str, weights: Path, device: str) -> Forward:
    return FORWARDS[runtime](weights, device)


def _calls(
    runtime: str, batch: int, seconds: float, weights: Path, image_size: int, device: str
) -> list[float]:
    """Seconds of each call, for so long; runs in the runtime's process."""
    forward, compute = _forward(runtime, weights, device), get_compute(device)
    images = torch.rand(batch, 3, image_size, image_size, device=compute.device)
    times: list[float] = []
    while not times or sum(times) < seconds:
        start = time.perf_counter()
        forward(images)
        synchronise(compute)
        times.append(time.perf_counter() - start)
    return times


def frame_times(model: Model, size: tuple[int, int] = _FRAME, repeats: int = 20) -> pd.Series:
    """Where the time of one frame goes, from uint8 pixels to a mask of ``size`` = (H, W).

    Returns:
        Medians over repeats: ``predict_ms`` (resizing to network size, network, probabilities),
        ``mask_ms`` (back to the frame's size, threshold), ``mask_share`` of both together.
    """
    frame = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        with threads_for(model.network):  # as in `Model.polyp_mask`
            probabilities = model.at_network_size(frame)
            middle = time.perf_counter()
            to_polyp_mask(probabilities, model.scheme, size).numpy()
        times.append((middle - start, time.perf_counter() - middle))
    predicted, masked = np.median(times[1:], axis=0)  # the first warms up
    share = masked / (predicted + masked)
    return pd.Series({"predict_ms": 1e3 * predicted, "mask_ms": 1e3 * masked, "mask_share": share})


def dice_of_runs(runs: Iterable[Run]) -> pd.DataFrame:
    """`dice_by_runtime` of several runs, with their ``run``, ``width`` and test frames ``n``.

    Raises:
        FileNotFoundError: a run without weights.
    """
    tables = []
    for run in runs:
        if not run.weights.is_file():
            raise FileNotFoundError(f"{run.weights} does not exist: take a run with its weights")
        config = run.config
        found = dice_by_runtime(run, PolypDataset(config.dataset, config.image_size))
        tables.append(found.assign(run=run.name, width=config.width))
        print(f"{run.name}: {len(found)} runtimes", flush=True)
    table = pd.concat(tables, ignore_index=True)
    return table[["run", "width", "runtime", "dice", "delta", "largest", "n"]]


def dice_by_runtime(
    run: Run,
    dataset: PolypDataset,
    runtimes: Iterable[str] = tuple(FORWARDS),
) -> pd.DataFrame:
    """Polyp Dice of a run's weights on its test part under each runtime, at the original size.

    Args:
        run: whose weights are at hand.
        dataset: its data set, opened at its network size.
        runtimes: as in `speed`; the card's snippet, which others are compared with, is added.

    Returns:
        Rows ``runtime``; ``dice``, mean over frames; ``delta`` to the card's snippet; ``largest``
        absolute difference of one frame; ``n`` frames.
    """
    ids = load_split(run.config.split, run.config.dataset).limited(run.config.limit).test
    images = dataset.images[dataset.rows(ids)]
    truths = [is_polyp(torch.from_numpy(dataset.original_mask(i))) for i in ids]
    scheme = get_scheme(run.config.scheme)
    per_frame: dict[str, Tensor] = {}
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder, FILE)
        weights.write_bytes(run.weights.read_bytes())  # the ONNX file is written beside it
        for name in dict.fromkeys((CARD, *runtimes)):
            try:
                forward = FORWARDS[name](weights, "cpu")
            except ImportError as error:
                print(f"{name} is left out: {error}")
                continue
            scores = []
            for image, truth in zip(images, truths, strict=True):
                (probabilities,) = forward(image[None] / 255)
                height, width = truth.shape
                mask = to_polyp_mask(probabilities, scheme, (height, width))
                scores.append(dice(count(mask[None], truth[None], 2))[0, 1])
            per_frame[name] = torch.stack(scores)
    card = per_frame[CARD]
    return pd.DataFrame(
        {
            "runtime": name,
            "dice": float(scores.nanmean()),
            "delta": float(scores.nanmean() - card.nanmean()),
            "largest": float((scores - card).nan_to_num().abs().max()),
            "n": len(scores),
        }
        for name, scores in per_frame.items()
    )
