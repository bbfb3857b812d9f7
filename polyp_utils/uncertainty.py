"""Does a system know when it is wrong? Mirrored copies of a frame, and how far they disagree."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from polyp_utils.data.dataset import PolypDataset
from polyp_utils.data.labels import Scheme
from polyp_utils.device import Compute
from polyp_utils.errors import gallery
from polyp_utils.explore import Frame
from polyp_utils.inference import predict, predict_copies, to_original
from polyp_utils.predictions import Predictions
from polyp_utils.stats import RESAMPLES, Interval

BAD_DICE = 0.7
DOUBTS = ("disagreement of mirrored copies", "self-doubt of one pass")


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
    """As `errors.gallery`, with the spread over mirrored copies as the map, at original size."""
    frames = []
    plain = gallery(predictions, dataset, titles)
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


def self_doubt(probabilities: Tensor, scheme: Scheme) -> float:
    """One minus the Dice that a prediction expects of itself, in [0, 1]; 0 if nothing is marked.

    The soft Dice of the mask P(polyp) > 0.5 against P(polyp), of class probabilities (C, S, S):
    what a single pass knows of its own quality.
    """
    polyp = scheme.polyp_probability(probabilities[None])[0]
    mask = polyp > 0.5
    return float(1 - 2 * polyp[mask].sum() / (polyp.sum() + mask.sum())) if mask.any() else 0.0


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


def auroc(
    score: Iterable[float],
    bad: Iterable[bool],
    groups: Iterable[object] | None = None,
    seed: int = 0,
) -> Interval:
    """Chance that a bad frame has the higher score than a good one; ties count half.

    The area under the ROC curve (Mann and Whitney 1947), with a percentile bootstrap over frames,
    or over groups of them (near-duplicates); NaN where all are bad or all good.
    """
    values, labels = np.asarray(list(score), np.float64), np.asarray(list(bad), bool)
    n = len(values)
    if labels.all() or not labels.any():
        return Interval(np.nan, np.nan, np.nan, n)
    group, names = pd.factorize(np.arange(n) if groups is None else pd.Series(list(groups)))
    equal = np.full(len(names), 1 / len(names))
    drawn = np.random.default_rng(seed).multinomial(len(names), equal, size=RESAMPLES)
    times = np.vstack([np.ones(n), drawn[:, group]])  # that each frame is drawn
    higher = np.heaviside(values[labels][:, None] - values[~labels], 0.5)
    pairs = times[:, labels].sum(axis=1) * times[:, ~labels].sum(axis=1)
    won = (times[:, labels] @ higher * times[:, ~labels]).sum(axis=1)
    whole, *areas = won[pairs > 0] / pairs[pairs > 0]
    low, high = np.quantile(areas, [0.025, 0.975])
    return Interval(float(whole), float(low), float(high), n)


def risk_coverage(score: Iterable[float], dice: Iterable[float]) -> pd.DataFrame:
    """Mean Dice of the frames that are kept when the most uncertain ones are handed over.

    Returns:
        Rows ``coverage`` (share that is kept), ``dice``, and ``best`` (if the worst were known).
    """
    scores, values = np.asarray(list(score), float), np.asarray(list(dice), float)
    there = ~np.isnan(values)
    scores, values = scores[there], values[there]
    kept = np.arange(1, len(values) + 1)
    by_score = values[np.argsort(scores, kind="stable")].cumsum() / kept
    by_truth = np.sort(values)[::-1].cumsum() / kept
    return pd.DataFrame({"coverage": kept / len(values), "dice": by_score, "best": by_truth})
