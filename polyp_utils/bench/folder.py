"""A folder of frames: the verb ``predict`` against the card's snippet, and against its own stages.

Each turn is a process of its own, one after the other. The plain loop does frame by frame what
people write: the card's network in float32, all probabilities enlarged, their argmax as PNG. The
stages are timed alone, on one thread: what they add up to, spread over the cores, is the least that
the work beside the network can take.
"""

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image

from polyp_utils.apply import outputs
from polyp_utils.apply.interpret import interpret
from polyp_utils.apply.predict import predict_paths, squared
from polyp_utils.bench.folder_findings import ALL, LOOP, MAPS
from polyp_utils.bench.runtimes import CARD, load_forward
from polyp_utils.data.catalog import get_info
from polyp_utils.data.pixels import read_frame
from polyp_utils.data.sources import open_source
from polyp_utils.deploy.load import load_model
from polyp_utils.deploy.openvino import threads_for
from polyp_utils.model.predict import predict_copies, to_original
from polyp_utils.runs.run import Run

SIZE = (1280, 1024)  # of the frames, width and height


def folder_speed(
    runs: list[Run], dataset: str = "kvasir-seg", frames: int = 48, rounds: int = 3
) -> pd.DataFrame:
    """Frames per second of each way for each run, and where the time goes.

    Args:
        runs: whose weights are used.
        dataset: whose frames are used, enlarged to `SIZE` and saved as JPEG.
        frames: in the folder.
        rounds: turns that each way takes.

    Returns:
        Rows ``run``, ``width``, ``image_size``, ``cores`` (of the machine), ``what`` (one of the
        ways, ``network``, or a stage), ``milliseconds`` per frame (median of the turns).
    """
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        given = Path(folder) / "frames"
        _frames(given, dataset, frames)
        for run in runs:
            config = run.config
            facts = {"run": run.name, "width": config.width, "image_size": config.image_size}
            facts["cores"] = os.cpu_count() or 1
            turns: dict[str, list[float]] = {}
            for turn in range(rounds):
                for way, (what, work) in enumerate(_WAYS.items()):
                    out = Path(folder) / f"{run.name}-{turn}-{way}"
                    with ProcessPoolExecutor(1, get_context("spawn")) as process:
                        found = process.submit(work, run.weights, given, out).result()
                    for name, seconds in found.items():
                        turns.setdefault(name or what, []).append(1e3 * seconds / frames)
            rows += [facts | {"what": k, "milliseconds": np.median(v)} for k, v in turns.items()]
    return pd.DataFrame(rows)


def _frames(folder: Path, dataset: str, count: int) -> None:
    folder.mkdir()
    source = open_source(get_info(dataset))
    for number, frame_id in enumerate(source.ids[:count]):
        image = Image.fromarray(source.read_image(frame_id)).resize(SIZE, Image.Resampling.BICUBIC)
        image.save(folder / f"{number:04}.jpg", quality=90)


@contextlib.contextmanager
def _clock(took: dict[str, float], what: str) -> Iterator[None]:
    """Adds the seconds that pass within to what ``what`` took."""
    start = time.perf_counter()
    yield
    took[what] = took.get(what, 0.0) + time.perf_counter() - start


def _plain(weights: Path, folder: Path, out: Path) -> dict[str, float]:
    model, forward = load_model(weights, device="cpu"), load_forward(CARD, weights, "cpu")
    paths = sorted(folder.iterdir())

    def one(path: Path) -> None:
        frame = np.array(Image.open(path).convert("RGB"))
        x = squared(frame, model)[None].float() / 255
        classes = to_original(forward(x)[0], frame.shape[:2]).argmax(dim=0)
        outputs.save_class_map(out / f"{path.stem}.png", classes.byte().numpy(), model.scheme)

    one(paths[0])
    took: dict[str, float] = {}
    with _clock(took, ""):
        for path in paths:
            one(path)
    return took


def _maps(weights: Path, folder: Path, out: Path) -> dict[str, float]:
    return {"": predict_paths([folder], out, weights, pictures=False).seconds}


def _all(weights: Path, folder: Path, out: Path) -> dict[str, float]:
    return {"": predict_paths([folder], out, weights).seconds}


def _stages(weights: Path, folder: Path, out: Path) -> dict[str, float]:
    """Seconds of the network alone, with all threads, and of each stage alone, with one."""
    model, took = load_model(weights), dict[str, float]()
    paths = sorted(folder.iterdir())
    with threads_for(model.network):
        squares = torch.stack([squared(read_frame(path), model) for path in paths])
        list(predict_copies(model.network, squares[:4], model.compute, turns=[()]))
        with _clock(took, "network"):
            copies = list(predict_copies(model.network, squares, model.compute, 4, turns=[()]))
    torch.set_num_threads(1)
    for path, found in zip(paths, copies, strict=True):
        with _clock(took, "decode"):
            frame = read_frame(path)
        with _clock(took, "resize"):
            squared(frame, model)
        with _clock(took, "class map and regions"):
            seen = interpret(found, model, frame.shape[:2])
        with _clock(took, "PNG"):
            outputs.save_class_map(out / "x.png", seen.classes, model.scheme)
        with _clock(took, "outlines"):
            outputs.save_jpeg(out / "x.jpg", outputs.outlined(frame, seen.kinds))
        with _clock(took, "thumbnail"):
            outputs.save_jpeg(out / "y.jpg", outputs.thumbnail(frame, seen.kinds))
    return took


_WAYS = {LOOP: _plain, MAPS: _maps, ALL: _all, "stages": _stages}
