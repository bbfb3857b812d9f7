"""Frames, folders and videos to class maps, tables and a page: the verb ``predict``.

Decoding and resizing, the network, and what is written of a frame overlap: threads do the first and
the last, and only a window of frames is in memory, so any number of them may come.
"""

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import polyp_utils
from polyp_utils.apply import outputs
from polyp_utils.apply.inputs import Input, find_inputs
from polyp_utils.apply.interpret import Prediction, interpret
from polyp_utils.apply.page import write_page
from polyp_utils.apply.results import Results
from polyp_utils.apply.stream import Loaded, in_order, predictions
from polyp_utils.apply.video import Film, count_frames, film_of, open_video, refuse_shared
from polyp_utils.common.exceptions import DataError
from polyp_utils.common.progress import Progress, duration
from polyp_utils.data.pixels import read_frame
from polyp_utils.data.transforms import resize_image
from polyp_utils.deploy.load import Model, load_model
from polyp_utils.deploy.openvino import threads_for

SELF_DOUBT, DISAGREEMENT = "self_doubt", "disagreement"  # what the tables call the doubt


class Done(NamedTuple):
    """What a run has left in its folder.

    Attributes:
        path: the folder.
        frames: in it, those of earlier runs included; of videos one per second.
        videos: in it, likewise.
        unreadable: inputs that were skipped.
        new: frames of this run; of videos all.
        seconds: that it took, after the model was loaded.
    """

    path: Path
    frames: int
    videos: int
    unreadable: int
    new: int
    seconds: float

    def __str__(self) -> str:
        rate = f"{self.new} in {duration(self.seconds)}, {self.new / self.seconds:.1f} per second"
        skipped = (
            f"; {self.unreadable} could not be read: unreadable.csv" if self.unreadable else ""
        )
        videos = f" and {self.videos} video{'s'[: self.videos - 1]}" if self.videos else ""
        return f"{self.path} holds {self.frames} frames{videos} ({rate}{skipped})"


@dataclass(frozen=True)
class Wanted:
    """What is written of a frame beside its class map and its rows in the tables."""

    pictures: bool = True  # outlines and a thumbnail
    probabilities: bool = False  # P(polyp) per pixel


def predict_paths(
    paths: Iterable[str | Path],
    out: str | Path,
    weights: str | Path = "",
    mirrored: bool = False,
    probabilities: bool = False,
    pictures: bool = True,
    device: str = "auto",
    precision: str = "auto",
    runtime: str = "auto",
    keys: str | Path = "",
    scheme: str | None = None,
    image_size: int | None = None,
) -> Done:
    """Predicts every image and video among paths, and writes what is found into a folder.

    A run that was stopped goes on when it is asked for again: a finished frame is not done twice.

    Args:
        paths: images, folders (searched through), glob patterns and videos.
        out: the folder, see `polyp_utils.apply.results`.
        weights: as in `load_model`; empty: the released ones.
        mirrored: see each frame mirrored too, at four times the cost.
        probabilities: write P(polyp) per pixel too.
        pictures: write outlines, thumbnails and the page to look at them; without, only class maps
            and tables.
        device: as in `load_model`.
        precision: as in `load_model`.
        runtime: as in `load_model`.
        keys: as in `load_model`.
        scheme: as in `load_model`.
        image_size: as in `load_model`.

    Returns:
        What was done; the unreadable inputs are listed in ``unreadable.csv``.

    Raises:
        DataError: nothing to look at, see `find_inputs`.
        ExtraError: there are videos, and PyAV is not installed.
        RunError: the folder holds something else, or cannot be written.
        OSError: a file cannot be written: no half of one is left, and the run can go on.
        FileNotFoundError, WeightsError, HubError: as in `load_model`.
    """
    out = Path(out).expanduser()
    inputs = find_inputs(paths, out)
    refuse_shared(inputs)
    lengths = {each.name: count_frames(each) if each.is_video else 1 for each in inputs}
    model = load_model(
        weights,
        scheme,
        image_size,
        device=device,
        mirrored=mirrored,
        precision=precision,
        runtime=runtime,
        keys=keys,
    )
    wanted = Wanted(pictures, probabilities)
    settings = {"mirrored": mirrored, "probabilities": probabilities, "pictures": pictures}
    doubt = DISAGREEMENT if mirrored else SELF_DOUBT
    start = time.perf_counter()
    with Results(out, facts_of(model), settings, doubt) as results, _workers() as pool:
        finished = results.done | {video["name"] for video in results.videos}
        for each in inputs:
            results.check_source(each.name, each.path)
        todo = [each for each in inputs if each.name not in finished]
        if before := len(results.done):
            print(f"{out}: {before} frames are done already; going on with the others", flush=True)
        counts = [lengths[each.name] for each in todo]
        total = None if 0 in counts else sum(counts)
        of = f" of {total}" if total else ""
        rows, skipped = 0, 0
        with (
            Progress("frames", total=total, unit="frame") as progress,
            threads_for(model.network),
            contextlib.closing(_found(todo, model, results, wanted, pool)) as found,
        ):
            for row in found:
                rows, skipped = rows + (not row.reason), skipped + bool(row.reason)
                rate = (rows + skipped) / (time.perf_counter() - start)
                progress.advance(f"{rows + skipped}{of} frames, {rate:.1f} per second")
                if row.reason:
                    progress.line(f"skipped: {row.reason}")
        for reason in (video["reason"] for video in results.videos if "reason" in video):
            print(reason, flush=True)
        seconds = time.perf_counter() - start
        results.finish(
            versions={"polyp_utils": polyp_utils.__version__, "torch": torch.__version__},
            device=model.compute.describe(),
            classes=_colours(model),
            frames=len(results.done),
            unreadable=skipped,
            this_time={"frames": rows, "seconds": round(seconds, 3)},
        )
    if pictures:
        write_page(out)
    return Done(out, len(results.done), len(results.videos), skipped, rows, seconds)


def facts_of(model: Model) -> dict[str, Any]:
    """What tells a model from others: its file's hash, its key map, what its output means."""
    assert model.path is not None  # it was loaded from a file
    name = model.path.parent.name if model.path.name == "model.safetensors" else model.path.name
    digest = hashlib.sha256(model.path.read_bytes()).hexdigest()[:16]
    scheme = model.scheme
    facts = {"name": name, "sha256": digest, "scheme": scheme.name, "classes": [*scheme.classes]}
    return facts | {"image_size": model.image_size, "choices": model.choices or None}


def _colours(model: Model) -> dict[str, str]:
    """Colour of each class but the background in class maps, as CSS writes it."""
    colours = ("#{:02x}{:02x}{:02x}".format(*colour) for colour in outputs.COLOURS)
    return dict(list(zip(model.scheme.classes, colours, strict=False))[1:])


def _workers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count() or 1, "predict")


def _found(
    inputs: Iterable[Input],
    model: Model,
    results: Results,
    wanted: Wanted,
    pool: ThreadPoolExecutor,
) -> Generator[Loaded, None, None]:
    """The frames of all inputs, images before videos, each when it is safe."""
    images, videos = (
        [each for each in inputs if each.is_video == of_videos] for of_videos in (False, True)
    )
    frames = (_loader(each, model) for each in images)
    yield from written(predictions(frames, model, pool), model, results, wanted, pool)
    for each in videos:
        try:
            with open_video(each) as clip, film_of(clip, results, wanted.pictures) as film:
                found = predictions(clip.frames(lambda frame: squared(frame, model)), model, pool)
                yield from written(found, model, results, wanted, pool, film)
        except DataError as error:
            results.skip(each.path, str(error))
            yield Loaded(each.name, each.path, reason=str(error))


def _loader(each: Input, model: Model) -> Callable[[], Loaded]:
    def load() -> Loaded:
        start = time.perf_counter()
        try:
            frame = read_frame(each.path)
        except (DataError, OSError) as error:
            return Loaded(each.name, each.path, reason=str(error))
        square = squared(frame, model)
        seconds = time.perf_counter() - start
        return Loaded(each.name, each.path, frame=frame, square=square, seconds=seconds)

    return load


def squared(frame: np.ndarray, model: Model) -> Tensor:
    """A frame, uint8 (H, W, 3), at the network's size, uint8 (3, S, S)."""
    pixels = torch.from_numpy(frame.copy() if not frame.flags.writeable else frame)
    return resize_image(pixels.permute(2, 0, 1), (model.image_size, model.image_size))


def written(
    found: Iterable[tuple[Loaded, Tensor | None]],
    model: Model,
    results: Results,
    wanted: Wanted,
    pool: ThreadPoolExecutor,
    film: Film | None = None,
) -> Iterator[Loaded]:
    """Writes what is found of each frame; yields the frames in order, each when it is safe.

    All are added to the film, if there is one; those that have no name are for it alone.
    """

    def write(pair: tuple[Loaded, Tensor | None]) -> tuple[Loaded, dict[str, Any], list[Any], Any]:
        loaded, copies = pair
        if loaded.frame is None or copies is None:
            return loaded, {}, [], None
        start = time.perf_counter()
        seen = interpret(copies, model, loaded.frame.shape[:2])
        if loaded.name:
            save(results.path, loaded, seen, model, wanted)
        drawn = film.draw(loaded, seen.kinds) if film else None
        row = row_of(loaded, seen, results.doubt, time.perf_counter() - start)
        return loaded, row, seen.regions, drawn

    for loaded, row, regions, drawn in in_order(pool, write, found):
        if loaded.reason:
            results.skip(loaded.source, loaded.reason)
        elif loaded.name:
            results.add(row, [_named(region, results.doubt) for region in regions])
        if film:
            film.add(row, drawn)
        yield loaded._replace(frame=None, square=None)


def save(out: Path, loaded: Loaded, seen: Prediction, model: Model, wanted: Wanted) -> None:
    """Writes the files of a frame."""
    assert loaded.frame is not None
    outputs.save_class_map(out / f"masks/{loaded.name}.png", seen.classes, model.scheme)
    if wanted.probabilities:
        outputs.save_probabilities(out / f"probabilities/{loaded.name}.png", seen.polyp)
    if wanted.pictures:
        for folder, draw in (("overlays", outputs.outlined), ("thumbnails", outputs.thumbnail)):
            drawn = draw(loaded.frame, seen.kinds)
            outputs.save_jpeg(out / f"{folder}/{loaded.name}.jpg", drawn)


def row_of(loaded: Loaded, seen: Prediction, doubt: str, seconds: float) -> dict[str, Any]:
    """The frame's row in ``frames.csv``."""
    height, width = seen.classes.shape
    return {
        "frame": loaded.name,
        "source": loaded.source,
        "time": "" if np.isnan(loaded.time) else loaded.time,
        "height": height,
        "width": width,
        "found": bool(seen.regions),
        "regions": len(seen.regions),
        "area": sum(region["area"] for region in seen.regions),
        "seconds": loaded.seconds + seconds,
        doubt: seen.doubt,
    }


def _named(region: dict[str, Any], doubt: str) -> dict[str, Any]:
    return {doubt if key == "doubt" else key: value for key, value in region.items()}
