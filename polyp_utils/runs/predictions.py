"""Predictions of any system: from a run, a network, a folder of images, or arrays.

All become `Predictions`, so that every score is computed in the same way for every system.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from polyp_utils.common.device import Compute, get_compute
from polyp_utils.common.exceptions import DataError
from polyp_utils.data.cache import Rows
from polyp_utils.data.dataset import PolypDataset
from polyp_utils.data.labels import Scheme, get_scheme
from polyp_utils.model.predict import freeze, predict
from polyp_utils.model.unet import UNet
from polyp_utils.model.weights import load_weights
from polyp_utils.runs.content import Content, content_of, look_at, read_content
from polyp_utils.runs.files import prediction_files
from polyp_utils.runs.levels import from_levels, to_levels
from polyp_utils.runs.run import Run
from polyp_utils.runs.values import check_values, detect, parse_values


@dataclass(frozen=True)
class Predictions:
    """Class probabilities per frame.

    Attributes:
        name: the system's name in tables.
        scheme: what its classes mean.
        ids: frame ids, in the order of scoring.
        read: id -> probabilities, float32 (C, h, w) in [0, 1], of any size.
        values: what values of another system are taken for, see `polyp_utils.runs.values`.
        notes: what was seen of another system's predictions, in words.
        sizes: id -> height and width of another system's predictions.
    """

    name: str
    scheme: Scheme
    ids: tuple[str, ...]
    read: Callable[[str], Tensor]
    values: str = ""
    notes: tuple[str, ...] = ()
    sizes: Mapping[str, tuple[int, int]] = field(default_factory=dict)


def of_run(run: Run, part: str = "test") -> Predictions:
    """A run's stored predictions for ``val`` or ``test``, at network size.

    Reading raises RunError: a prediction is missing, damaged, or of another size.
    """
    read = partial(run.probabilities, part, scheme=run.scheme)
    return Predictions(run.name, run.scheme, run.split.part(part), read)


def of_network(
    run: Run,
    dataset: PolypDataset,
    ids: Iterable[str] = (),
    device: str = "auto",
    mirrored: bool = False,
    weights: Path | None = None,
) -> Predictions:
    """Predictions of a run's network for any data set; kept in memory in 8 bits, as stored.

    Args:
        run: a run with weights.
        dataset: opened at the run's network size.
        ids: frames to predict; empty: all.
        device: as in `get_compute`.
        mirrored: as in `predict`.
        weights: another weights file of the run, see `Run.unaveraged`; None: the kept ones.

    Raises:
        FileNotFoundError: the run's weights are not on disk.
        ValueError: the data set is opened at another size.
        WeightsError: see `load_weights`; or the network's output for a frame is not finite.
    """
    network, compute = network_of(run, dataset, device, weights=weights)
    names = tuple(ids) or dataset.ids
    images = Rows(dataset.images, dataset.rows(names))
    called = [f"{frame_id} by {weights or run.name}" for frame_id in names]
    found = predict(network, images, compute, mirrored=mirrored, names=called)
    name = f"{run.name}, mirrored" if mirrored else run.name
    return of_probabilities(zip(names, found, strict=True), run.scheme, name)


def network_of(
    run: Run,
    dataset: PolypDataset,
    device: str = "auto",
    precision: str = "auto",
    weights: Path | None = None,
) -> tuple[UNet, Compute]:
    """A run's network, frozen for `predict`, and its device and precision.

    Raises:
        FileNotFoundError, ValueError: as in `of_network`.
    """
    config, side = run.config, dataset.images.shape[-1]
    if side != config.image_size:
        raise ValueError(f"{run.name} takes {config.image_size} px: open the data set at that size")
    compute = get_compute(device, precision)
    network = load_weights(UNet(3, run.scheme.logits, config.width), weights or run.weights)
    return freeze(network, compute), compute


def of_probabilities(found: Iterable[tuple[str, Tensor]], scheme: Scheme, name: str) -> Predictions:
    """Class probabilities, kept in memory in 8 bits, as a run stores them.

    Args:
        found: id and probabilities, float (C, h, w), of each frame.
        scheme: what the classes mean.
        name: the system's name in tables.

    Raises:
        ValueError: probabilities of a frame that are not in [0, 1].
    """
    levels = {frame_id: to_levels(probabilities, frame_id) for frame_id, probabilities in found}
    return Predictions(name, scheme, tuple(levels), lambda i: from_levels(levels[i]))


def of_folder(
    folder: str | Path,
    ids: Iterable[str] = (),
    name: str = "",
    values: str = "",
    known: Iterable[str] = (),
) -> Predictions:
    """Masks or maps of P(polyp) written by any system, one image ``<id>.png`` per frame.

    Args:
        folder: holds images or NumPy arrays (``.npy``) of one channel, of any size; how they are
            named: `prediction_files`.
        ids: required frames, for example a test part; empty: all in the folder.
        name: the system's name in tables; empty: the folder's.
        values: what the values mean, see `polyp_utils.runs.values`; empty: found over all files.
        known: ids of the whole data set, by which shortened names are recognised.

    Raises:
        DataError: no such folder or file, two files for one id, a file that cannot be read, or
            values of which what is polyp is not certain.
        ValueError: ``values`` is not a meaning.
    """
    folder = Path(folder)
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise DataError(f"{folder} {what}: give a folder of predictions, <id>.png each")
    files, said = prediction_files(folder, tuple(ids), tuple(known))
    return _of_contents(
        tuple(files), lambda i: read_content(files[i]), name or folder.name, values, said
    )


def of_arrays(
    arrays: Mapping[str, np.ndarray], name: str = "arrays", values: str = ""
) -> Predictions:
    """Masks or maps of P(polyp) in memory: id -> bool, whole or real numbers, (h, w).

    Args:
        arrays: of each frame; what their values mean is found over all, as in `of_folder`.
        name: the system's name in tables.
        values: as in `of_folder`.

    Raises:
        ValueError: wrong type, shape or range; what is polyp is not certain.
    """
    return _of_contents(tuple(arrays), lambda i: content_of(arrays[i], i), name, values)


def _of_contents(
    ids: tuple[str, ...],
    content: Callable[[str], Content],
    name: str,
    values: str,
    said: Sequence[str] = (),
) -> Predictions:
    meaning = parse_values(values) if values else None
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        looks = list(pool.map(lambda frame_id: look_at(content(frame_id)), ids))
    meaning = meaning or detect(looks)
    check_values(meaning, looks)
    return Predictions(
        name,
        get_scheme("binary"),
        ids,
        lambda frame_id: _two(meaning.polyp(content(frame_id))),
        str(meaning),
        (f"values: {meaning.note} ({meaning})", *said),
        {frame_id: look.size for frame_id, look in zip(ids, looks, strict=True)},
    )


def _two(polyp: np.ndarray) -> Tensor:
    """P(background) and P(polyp), (2, h, w)."""
    values = torch.from_numpy(polyp)
    return torch.stack([1 - values, values])
