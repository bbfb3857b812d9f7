"""Test-time augmentation by mirroring: how far predictions disagree, and what it costs."""

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
    """Predictions of a frame and its mirror images, mirrored back and combined, at network size.

    Attributes:
        mean: mean class probabilities, float32 (C, S, S): the test-time augmentation.
        spread: standard deviation of P(polyp) over the copies, float32 (S, S).
        disagreement: one minus the mean Dice of each copy's mask with the mask of the mean, in
            [0, 1]; 0 if all are empty.
    """

    mean: Tensor
    spread: Tensor
    disagreement: float


def predict_mirrored(
    model: nn.Module, images: Tensor, scheme: Scheme, compute: Compute, batch_size: int = 8
) -> list[Mirrored]:
    """Predicts uint8 images (N, 3, S, S) four times: unmirrored, and on either and both axes."""
    copies = predict_copies(model, images, compute, batch_size)
    return [combine(frame, scheme) for frame in copies]


def spread_frames(
    predictions: Predictions,
    dataset: PolypDataset,
    titles: dict[str, str],
    mirrored: Mapping[str, Mirrored],
) -> list[Frame]:
    """`predicted_frames` with the spread over mirrored copies as the map, at the original size."""
    frames = []
    plain = predicted_frames(predictions, dataset, titles)
    for frame, frame_id in zip(plain, titles, strict=True):
        height, width = frame.truth.shape
        spread = to_original(mirrored[frame_id].spread[None], (height, width))[0]
        frames.append(frame._replace(probability=spread.numpy()))
    return frames


def combine(copies: Tensor, scheme: Scheme) -> Mirrored:
    """Combines the class probabilities of K copies, float (K, C, S, S)."""
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
    """Measures the cost of mirrored against plain prediction, in alternation.

    Returns:
        Ratio of the times, mirrored to plain, and images per second of plain prediction (medians).
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
