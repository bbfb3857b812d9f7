"""Mirrored copies of a frame: how far a network's answers disagree, and what they cost."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from polyp_utils.analyse.gallery import Frame, predicted_frames
from polyp_utils.common.device import Compute
from polyp_utils.data.dataset import PolypDataset
from polyp_utils.data.labels import Scheme
from polyp_utils.model.predict import predict, predict_copies, to_original
from polyp_utils.runs.predictions import Predictions


@dataclass(frozen=True)
class Mirrored:
    """What a network says of a frame and its mirror images, turned back, at network size.

    Attributes:
        mean: class probabilities, float32 (C, S, S): test-time augmentation.
        spread: standard deviation of P(polyp) over the copies, float32 (S, S).
        disagreement: one minus the mean Dice of each copy's mask with the mean's, in [0, 1]; 0
            where none marks anything.
    """

    mean: Tensor
    spread: Tensor
    disagreement: float


def predict_mirrored(
    model: nn.Module, images: Tensor, scheme: Scheme, compute: Compute, batch_size: int = 8
) -> list[Mirrored]:
    """Predicts uint8 images (N, 3, S, S) four times, mirrored on no, either and both axes."""
    copies = predict_copies(model, images, compute, batch_size)
    return [combine(frame, scheme) for frame in copies]


def spread_frames(
    predictions: Predictions,
    dataset: PolypDataset,
    titles: dict[str, str],
    mirrored: Mapping[str, Mirrored],
) -> list[Frame]:
    """As `predicted_frames`, with the spread over mirrored copies as the map, at original size."""
    frames = []
    plain = predicted_frames(predictions, dataset, titles)
    for frame, frame_id in zip(plain, titles, strict=True):
        height, width = frame.truth.shape
        spread = to_original(mirrored[frame_id].spread[None], (height, width))[0]
        frames.append(frame._replace(probability=spread.numpy()))
    return frames


def combine(copies: Tensor, scheme: Scheme) -> Mirrored:
    """Class probabilities of K copies, float (K, C, S, S), as one."""
    mean = copies.mean(dim=0)
    polyp = scheme.polyp_probability(copies)
    masks, whole = polyp > 0.5, scheme.polyp_probability(mean[None])[0] > 0.5
    size = masks.sum(dim=(1, 2)) + whole.sum()
    both = 2 * (masks & whole).sum(dim=(1, 2))
    dice = torch.where(size > 0, both / size.clamp(min=1), 1.0)
    return Mirrored(mean, polyp.std(dim=0, correction=0), float(1 - dice.mean()))


def mirror_cost(
    model: nn.Module, images: Tensor, compute: Compute, repeats: int = 5
) -> tuple[float, float]:
    """Time of mirrored prediction over that of plain prediction, measured in turns.

    Returns:
        Median of the ratios, and plain images per second (median).
    """
    ratios, rates = [], []
    for repeat in range(repeats + 1):
        seconds = []
        for mirrored in (False, True):
            start = time.perf_counter()
            for _ in predict(model, images, compute, mirrored=mirrored):
                pass
            seconds.append(time.perf_counter() - start)
        if repeat:  # the first warms up
            ratios.append(seconds[1] / seconds[0])
            rates.append(len(images) / seconds[0])
    return float(np.median(ratios)), float(np.median(rates))
