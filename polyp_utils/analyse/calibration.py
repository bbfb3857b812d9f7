"""Calibration: whether 80 % of the pixels with P(polyp) = 0.8 are polyp.

It is measured per pixel at network size, where probabilities are stored with 8 bits, so 256 counts
per frame suffice. Most pixels are easy, so the band around the outline is also measured separately.
Whole frames are resampled, since the pixels of one frame are not independent.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from scipy import optimize, special

from polyp_utils.data.dataset import PolypDataset
from polyp_utils.data.labels import inner_rim, is_polyp, rim_width
from polyp_utils.model.predict import to_original
from polyp_utils.runs.predictions import Predictions, of_run
from polyp_utils.runs.run import Run
from polyp_utils.score.intervals import NONE, Interval, percentile_interval, resamples
from polyp_utils.score.overlap import Counts, dice, precision, recall

LEVELS = 256
VAL_LEVELS = "val_levels"  # the table of `levels_table` in a published run


@dataclass(frozen=True)
class LevelCounts:
    """Pixels per frame and level of P(polyp), and those that are polyp, int64 (N, 256) each."""

    pixels: np.ndarray
    polyp: np.ndarray


def level_counts(predictions: Predictions, dataset: PolypDataset) -> Mapping[str, LevelCounts]:
    """Counts for ``all`` pixels, and for the ``band`` within the trimap's rim of the outline.

    Args:
        predictions: from the system.
        dataset: holds their frames; opened at network size.
    """
    found: dict[str, list[np.ndarray]] = {"all": [], "band": []}
    for frame_id, row in zip(predictions.ids, dataset.rows(predictions.ids), strict=True):
        truth = is_polyp(dataset.masks[row])
        size = (truth.shape[0], truth.shape[1])
        probabilities = to_original(predictions.read(frame_id), size)
        chance = predictions.scheme.polyp_probability(probabilities[None])[0].clamp(0, 1)
        levels = (chance * (LEVELS - 1)).round().long()
        band = outline_band(truth)
        for name, where in (("all", torch.ones_like(truth)), ("band", band)):
            cells = torch.bincount(levels[where] * 2 + truth[where], minlength=2 * LEVELS)
            found[name].append(cells.view(LEVELS, 2).numpy())
    stacked = {name: np.stack(parts) for name, parts in found.items()}
    return {name: LevelCounts(c.sum(axis=-1), c[..., 1]) for name, c in stacked.items()}


def validation_levels(run: Run, dataset: PolypDataset) -> LevelCounts:
    """`level_counts` of all pixels of a run's validation part, for fitting a temperature.

    If the run has ``val_levels.csv``, as a run published without its validation predictions does,
    they are its sums over the frames (N = 1).
    """
    path = run.path / f"{VAL_LEVELS}.csv"
    if not path.is_file():
        return level_counts(of_run(run, "val"), dataset)["all"]
    table = pd.read_csv(path)
    return LevelCounts(*(table[[name]].to_numpy().T for name in ("pixels", "polyp")))


def levels_table(counts: LevelCounts) -> pd.DataFrame:
    """Sums over the frames, one row per ``level``: its ``pixels``, and how many are ``polyp``."""
    sums = {"pixels": counts.pixels.sum(axis=0), "polyp": counts.polyp.sum(axis=0)}
    return pd.DataFrame({"level": np.arange(LEVELS), **sums})


def outline_band(polyp: torch.Tensor) -> torch.Tensor:
    """Pixels within the trimap's rim width of the outline, on both sides, bool (H, W)."""
    width = rim_width(*polyp.shape)
    return (inner_rim(polyp[None], width) | inner_rim(~polyp[None], width))[0]


def scaled(level: np.ndarray, temperature: float) -> np.ndarray:
    """P(polyp) of 8-bit levels after dividing the logit by a temperature."""
    chance = np.clip(level / (LEVELS - 1), 0.5 / LEVELS, 1 - 0.5 / LEVELS)
    return special.expit(special.logit(chance) / temperature)


def reliability_table(
    counts: LevelCounts, temperature: float = 1.0, bins: int = 15
) -> pd.DataFrame:
    """Reliability diagram: predicted against observed frequency, in bins of equal width.

    Returns:
        Columns ``said`` (mean P(polyp) of the bin), ``true`` (share of its pixels that are polyp)
        and ``share`` (of all pixels); empty bins are left out.
    """
    pixels, polyp = counts.pixels.sum(axis=0), counts.polyp.sum(axis=0)
    chance = scaled(np.arange(LEVELS), temperature)
    which = np.minimum((chance * bins).astype(int), bins - 1)
    n, said, true = (np.bincount(which, w, bins) for w in (pixels, pixels * chance, polyp))
    there = n > 0
    rows = {"said": said[there] / n[there], "true": true[there] / n[there]}
    return pd.DataFrame({**rows, "share": n[there] / n.sum()})


def calibration_error(
    counts: LevelCounts, temperature: float = 1.0, bins: int = 15, seed: int = 0
) -> Interval:
    """Expected calibration error: pixel-weighted mean |said − true| over bins.

    Naeini et al. 2015, binary (polyp or not); percentile bootstrap over frames. ``n``: frames.
    """
    chance = scaled(np.arange(LEVELS), temperature)
    which = np.minimum((chance * bins).astype(int), bins - 1)
    in_bin = np.eye(bins)[which]
    gaps = (counts.pixels * chance - counts.polyp) @ in_bin
    frames = len(gaps)
    drawn = resamples(range(frames), np.random.default_rng(seed))
    weights = np.vstack([np.ones(frames), drawn])
    errors = np.abs(weights @ gaps).sum(axis=1) / (weights @ counts.pixels.sum(axis=1))
    if frames < 2:
        return Interval(float(errors[0]), np.nan, np.nan, frames, NONE)
    return percentile_interval(float(errors[0]), errors[1:], frames)


def threshold_table(counts: LevelCounts) -> pd.DataFrame:
    """What the mask P(polyp) > threshold scores, by threshold: means over the frames.

    Returns:
        Rows ``threshold`` (between two 8-bit levels; 0.5 is one), ``dice``, ``precision``,
        ``recall``, by the rule of `polyp_utils.score.overlap` for absent classes.
    """
    pixels, polyp = (torch.from_numpy(c).double() for c in (counts.pixels, counts.polyp))
    above, tp = (c.flip(1).cumsum(1).flip(1)[:, 1:] for c in (pixels, polyp))
    fn, size = polyp.sum(1, keepdim=True) - tp, pixels.sum(1, keepdim=True)
    of_masks = Counts(tp, above - tp, fn, size - above - fn)
    scores = {score.__name__: score(of_masks).nanmean(0) for score in (dice, precision, recall)}
    return pd.DataFrame({"threshold": (np.arange(LEVELS - 1) + 0.5) / (LEVELS - 1), **scores})


def fit_temperature(counts: LevelCounts) -> float:
    """The temperature that maximises the pixels' likelihood (Guo et al. 2017).

    To be fitted on validation. Above 1, the system was overconfident.
    """
    pixels, polyp = counts.pixels.sum(axis=0), counts.polyp.sum(axis=0)
    level = np.arange(LEVELS)

    def loss(log_temperature: float) -> float:
        chance = scaled(level, float(np.exp(log_temperature)))
        return -float(polyp @ np.log(chance) + (pixels - polyp) @ np.log1p(-chance))

    found = optimize.minimize_scalar(loss, bounds=(np.log(0.1), np.log(10)), method="bounded")
    return float(np.exp(found.x))
