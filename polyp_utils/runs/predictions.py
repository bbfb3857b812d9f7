"""Predictions of any system: from a run, a network, a folder of images, or arrays.

All become `Predictions`, so that every score is computed in the same way for every system.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from polyp_utils.common.device import Compute, get_compute
from polyp_utils.common.exceptions import DataError, few
from polyp_utils.data.cache import Rows
from polyp_utils.data.dataset import PolypDataset
from polyp_utils.data.labels import Scheme, get_scheme
from polyp_utils.data.listing import walk_files
from polyp_utils.model.predict import freeze, predict
from polyp_utils.model.unet import UNet
from polyp_utils.model.weights import load_weights
from polyp_utils.runs.levels import from_levels, to_levels
from polyp_utils.runs.run import Run

_FORMATS = (".png", ".tif", ".tiff", ".bmp")  # JPEG changes values near the outline


@dataclass(frozen=True)
class Predictions:
    """Class probabilities per frame.

    Attributes:
        name: the system's name in tables.
        scheme: what its classes mean.
        ids: frame ids, in the order of scoring.
        read: id -> probabilities, float32 (C, h, w) in [0, 1], of any size.
    """

    name: str
    scheme: Scheme
    ids: tuple[str, ...]
    read: Callable[[str], Tensor]


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


def of_folder(folder: str | Path, ids: Iterable[str] = (), name: str = "") -> Predictions:
    """Masks or maps of P(polyp) written by any system, one grey image ``<id>.png`` per frame.

    Args:
        folder: holds 8-bit images, 0 to 255, of any size, in a lossless format. An id with folders
            (``ETIS/0``) is a file in folders (``ETIS/0.png``), below this folder or below one that
            holds all. Without any folders the last parts of the ids suffice, if they differ and
            there are no other files.
        ids: required frames, for example a test part; empty: all in the folder.
        name: the system's name in tables; empty: the folder's.

    Raises:
        DataError: no such folder or image, two images for one id, or pixels that are not a map.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder} does not exist: give a folder of predictions, <id>.png each")
    files = _by_id(folder, tuple(ids))
    wanted = tuple(ids) or tuple(files)
    missing = [frame_id for frame_id in wanted if frame_id not in files]
    if missing or not wanted:
        there = f" (it holds {few(files, 3)})" if files else ""
        first = f"first {missing[0]}{there}" if missing else "it holds none"
        raise DataError(
            f"{folder} lacks {len(missing)} of {len(wanted)} predictions, {first}: write one image "
            f"<id>.png per frame ({', '.join(_FORMATS)}; JPEG would change the scores)"
        )
    return Predictions(
        name or folder.name, get_scheme("binary"), wanted, lambda i: _two(_read_map(files[i]))
    )


def _by_id(folder: Path, wanted: tuple[str, ...]) -> dict[str, Path]:
    """The image files below a folder by the ids that they are for."""
    files: dict[str, Path] = {}
    for path in walk_files(folder):
        if path.suffix.lower() in _FORMATS:
            frame_id = path.relative_to(folder).with_suffix("").as_posix()
            if frame_id in files:
                raise DataError(f"{files[frame_id]} and {path} are both for {frame_id}: keep one")
            files[frame_id] = path
    if not set(wanted) & files.keys():
        inside = os.path.commonpath([path.parent for path in files.values()] or [folder])
        below = {p.relative_to(inside).with_suffix("").as_posix(): p for p in files.values()}
        if set(wanted) <= below.keys():
            return below
        last = {frame_id.rpartition("/")[2]: frame_id for frame_id in wanted}
        if len(last) == len(wanted) and last.keys() == files.keys():
            return {last[stem]: path for stem, path in files.items()}
    return files


def _read_map(path: Path) -> np.ndarray:
    """P(polyp) float32 (h, w) from a grey image; a colour image with equal channels is grey."""
    try:
        with Image.open(path, formats=["PNG", "TIFF", "BMP"]) as image:
            image.load()
    except Exception as error:  # Pillow raises a dozen types
        raise DataError(f"{path} cannot be decoded ({error}): write it again") from error
    pixels = np.array(image.convert("L") if image.mode in ("1", "P") else image)
    if pixels.ndim == 3:
        colours = pixels[..., :3]
        if (colours != colours[..., :1]).any():
            raise DataError(f"{path} is coloured: write P(polyp) as grey, 0 to 255")
        pixels = colours[..., 0]
    if pixels.dtype != np.uint8:
        raise DataError(f"{path} holds {pixels.dtype}: write 8-bit grey levels, 0 to 255")
    if 0 < pixels.max() < 2:
        raise DataError(f"{path} holds only 0 and 1, almost black: write polyp as 255")
    return pixels.astype(np.float32) / 255


def of_arrays(arrays: Mapping[str, np.ndarray], name: str = "arrays") -> Predictions:
    """Masks or maps of P(polyp) in memory: id -> bool, uint8 0–255 or float in [0, 1], (h, w).

    Raises:
        ValueError: wrong type, shape or range.
    """
    for frame_id, values in arrays.items():
        kind = values.dtype
        known = kind in (bool, np.uint8) or np.issubdtype(kind, np.floating)
        if not known or values.ndim != 2 or not values.size:
            raise ValueError(
                f"prediction {frame_id} is {kind} {values.shape}: give bool, uint8 or float (h, w)"
            )
        if np.issubdtype(kind, np.floating) and not 0 <= values.min() <= values.max() <= 1:
            raise ValueError(
                f"prediction {frame_id} holds {values.min():g} … {values.max():g}: "
                "probabilities must lie in [0, 1]"
            )

    def read(frame_id: str) -> Tensor:
        values = arrays[frame_id]
        return _two(values.astype(np.float32) / (255 if values.dtype == np.uint8 else 1))

    return Predictions(name, get_scheme("binary"), tuple(arrays), read)


def _two(polyp: np.ndarray) -> Tensor:
    """P(background) and P(polyp), (2, h, w)."""
    values = torch.from_numpy(polyp)
    return torch.stack([1 - values, values])
