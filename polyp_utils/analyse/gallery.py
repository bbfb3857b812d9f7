"""Frames with truth and prediction, for `plots.sheet`."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from torch import Tensor

from polyp_utils.data.dataset import PolypDataset
from polyp_utils.data.labels import THRESHOLD
from polyp_utils.model.predict import polyp_and_classes, to_original
from polyp_utils.runs.predictions import Predictions


class Frame(NamedTuple):
    """A frame of a gallery: image uint8 (H, W, 3), masks bool (H, W), P(polyp) float (H, W).

    ``second`` is another system's prediction; ``dataset`` is the name of the frame's data set.
    """

    title: str
    image: np.ndarray
    truth: np.ndarray
    prediction: np.ndarray | None = None
    probability: np.ndarray | None = None
    second: np.ndarray | None = None
    dataset: str = ""


def frames_of(dataset: PolypDataset, ids: Iterable[str]) -> list[Frame]:
    """Frames at their original size with their true masks, titled by the end of their ids."""
    pairs = ((frame_id, *dataset.original(frame_id)) for frame_id in ids)
    name = dataset.info.name
    return [Frame(short(i), image, mask > THRESHOLD, dataset=name) for i, image, mask in pairs]


def predicted_frames(
    predictions: Predictions,
    dataset: PolypDataset,
    titles: dict[str, str],
    with_map: bool = False,
    other: Predictions | None = None,
) -> list[Frame]:
    """Frames at their original size with true and predicted masks.

    Args:
        predictions: to show.
        dataset: holds the frames.
        titles: frame id -> title, in the order of the gallery.
        with_map: also include the map of P(polyp).
        other: predictions of a second system, to be drawn beside the first.
    """
    frames = []
    for frame_id, title in titles.items():
        image, mask = dataset.original(frame_id)
        probabilities, predicted = enlarged(predictions, frame_id, mask.shape)
        chance = predictions.scheme.polyp_probability(probabilities[None])[0].numpy()
        polyp_map = chance if with_map else None
        second = enlarged(other, frame_id, mask.shape)[1] if other else None
        name, truth = dataset.info.name, mask > THRESHOLD
        frames.append(Frame(title, image, truth, predicted, polyp_map, second, name))
    return frames


def enlarged(
    predictions: Predictions, frame_id: str, size: tuple[int, ...]
) -> tuple[Tensor, np.ndarray]:
    """Probabilities resized to (C, H, W) for ``size`` = (H, W), and the polyp mask bool (H, W)."""
    height, width = size
    probabilities = to_original(predictions.read(frame_id), (height, width))
    return probabilities, polyp_and_classes(probabilities, predictions.scheme)[0].numpy()


def short(frame_id: str) -> str:
    """The id, or only its end if it is too long for a panel's title."""
    return frame_id if len(frame_id) <= 14 else f"…{frame_id[-13:]}"
