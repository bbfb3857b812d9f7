"""Whether P(polyp) = 0.8 means polyp in 80 % of such pixels.

Looked at per pixel at network size, where probabilities are stored with 8 bits: 256 counts per
frame hold all that is needed. Most pixels are easy, so the band around the outline is also looked
at alone. Frames are resampled whole, as pixels of one frame are no independent witnesses.
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
from polyp_utils.score.intervals import Interval
from polyp_utils.score.overlap import Counts, dice, precision, recall

LEVELS = 256
VAL_LEVELS = "val_levels"  # the table of `levels_table` in a published run
_RESAMPLES = 999


@dataclass(frozen=True)
class LevelCounts:
    """Pixels per frame and level of P(polyp), int64 (N, 256), and how many of them are polyp."""

    pixels: np.ndarray
    polyp: np.ndarray


def level_counts(predictions: Predictions, dataset: PolypDataset) -> Mapping[str, LevelCounts]:
    """Counts for ``all`` pixels, and for the ``band`` within the trimap's rim of the outline.

    Args:
        predictions: of the system.
        dataset: holds its frames, opened at network size.
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
    """`level_counts` of all pixels of a run's validation part, which a temperature is fitted to.

    A published run has stored their sum over the frames (N = 1) instead of its predictions.
    """
    path = run.path / f"{VAL_LEVELS}.csv"
    if not path.is_file():
        return level_counts(of_run(run, "val"), dataset)["all"]
    table = pd.read_csv(path)
    return LevelCounts(*(table[[name]].to_numpy().T for name in ("pixels", "polyp")))


def levels_table(counts: LevelCounts) -> pd.DataFrame:
    """The sum over the frames: a row per ``level`` with its ``pixels``, and those of ``polyp``."""
    sums = {"pixels": counts.pixels.sum(axis=0), "polyp": counts.polyp.sum(axis=0)}
    return pd.DataFrame({"level": np.arange(LEVELS), **sums})


def outline_band(polyp: torch.Tensor) -> torch.Tensor:
    """Pixels within the trimap's rim width of the outline, on both sides, bool (H, W)."""
    width = rim_width(*polyp.shape)
    return (inner_rim(polyp[None], width) | inner_rim(~polyp[None], width))[0]


def scaled(level: np.ndarray, temperature: float) -> np.ndarray:
    """P(polyp) of 8-bit levels after division of the logit by a temperature."""
    chance = np.clip(level / (LEVELS - 1), 0.5 / LEVELS, 1 - 0.5 / LEVELS)
    return special.expit(special.logit(chance) / temperature)


def reliability_table(
    counts: LevelCounts, temperature: float = 1.0, bins: int = 15
) -> pd.DataFrame:
    """What is said and what is true, per bin of equal width.

    Returns:
        Rows ``said`` (mean P(polyp)), ``true`` (share that is polyp), ``share`` (of the pixels).
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
    """Expected calibration error: mean |said − true| over pixels, with an interval over frames.

    Naeini et al. 2015, for the two classes polyp and not; percentile bootstrap. ``n``: frames.
    """
    chance = scaled(np.arange(LEVELS), temperature)
    which = np.minimum((chance * bins).astype(int), bins - 1)
    in_bin = np.eye(bins)[which]
    gaps = (counts.pixels * chance - counts.polyp) @ in_bin
    frames = len(gaps)
    drawn = np.random.default_rng(seed).multinomial(frames, np.full(frames, 1 / frames), _RESAMPLES)
    weights = np.vstack([np.ones(frames), drawn])
    errors = np.abs(weights @ gaps).sum(axis=1) / (weights @ counts.pixels.sum(axis=1))
    low, high = np.quantile(errors[1:], [0.025, 0.975]) if frames > 1 else (np.nan, np.nan)
    return Interval(float(errors[0]), float(low), float(high), frames)


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
    """The temperature that makes the pixels likeliest (Guo et al. 2017); fit it on validation.

    Above 1 the system was too sure of itself.
    """
    pixels, polyp = counts.pixels.sum(axis=0), counts.polyp.sum(axis=0)
    level = np.arange(LEVELS)

    def loss(log_temperature: float) -> float:
        chance = scaled(level, float(np.exp(log_temperature)))
        return -float(polyp @ np.log(chance) + (pixels - polyp) @ np.log1p(-chance))

    found = optimize.minimize_scalar(loss, bounds=(np.log(0.1), np.log(10)), method="bounded")
    return float(np.exp(found.x))
