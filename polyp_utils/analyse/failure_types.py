"""Types of error: wrong pixels by location, polyps by outcome, and the Dice that each costs."""

from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd

from polyp_utils.analyse.dice_drivers import FAILURE_DICE
from polyp_utils.data.labels import rim_width
from polyp_utils.data.regions import components
from polyp_utils.score.differences import compare_unpaired
from polyp_utils.score.intervals import FEW, mean_interval, ratio_interval

TOUCHED = 0.1  # share of a region; a smaller overlap does not count
SPILLED = 0.5  # share of a predicted region outside any polyp

# Locations of wrong pixels and outcomes of objects, in words.
BANDS = {
    "lost_inside": "lost inside",
    "lost_rim": "lost at the rim",
    "spilt_rim": "spilt over the rim",
    "spilt_outside": "spilt outside",
}
OBJECTS = {
    "found": "polyps found",
    "missed": "polyps missed",
    "split": "polyps split into several regions",
    "merged": "regions that merge polyps",
    "spilled": "spilled regions, mostly outside",
    "hallucinated": "hallucinated regions",
}
# Causes of lost Dice, one column each; the first covers whole frames.
COSTS = {
    "cost_unfound": "frames in which no polyp is found",
    "cost_missed": "polyps missed beside others that are found",
    "cost_hallucinated": "regions hallucinated",
    "cost_outlines": "the outlines of what is found",
}


def pixel_errors(predicted: np.ndarray, truth: np.ndarray) -> dict[str, int]:
    """Counts wrong pixels of masks bool (H, W) by their distance from the true outline.

    Returns:
        ``lost_inside`` and ``lost_rim`` (false negatives, deep inside a polyp or within the
        trimap's rim width of its outline), ``spilt_rim`` and ``spilt_outside`` (false positives,
        within that width or beyond). Without a polyp, every predicted pixel is ``spilt_outside``.
    """
    width = rim_width(*truth.shape)
    inside, outside = (depth(mask) for mask in (truth, ~truth))  # to the other side, px
    lost, spilt = truth & ~predicted, predicted & ~truth
    return {
        "lost_inside": int((lost & (inside > width)).sum()),
        "lost_rim": int((lost & (inside <= width)).sum()),
        "spilt_rim": int((spilt & (outside <= width)).sum()),
        "spilt_outside": int((spilt & (outside > width)).sum()),
    }


def depth(mask: np.ndarray) -> np.ndarray:
    """Distance from each true pixel to the nearest false one (px); infinite if there is none."""
    if mask.all():
        return np.full(mask.shape, np.inf)
    return cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)


class Objects(NamedTuple):
    """Polyps and predicted regions of a frame, without specks, and how they overlap.

    Attributes:
        polyps: P masks bool (H, W).
        regions: R predicted masks, likewise.
        of_polyp: share of each polyp that lies in each region, (P, R).
        of_region: share of each region that lies in each polyp, (P, R).
    """

    polyps: list[np.ndarray]
    regions: list[np.ndarray]
    of_polyp: np.ndarray
    of_region: np.ndarray

    @property
    def hallucinated(self) -> np.ndarray:
        """Regions, bool (R,), less than a tenth polyp that cover less than a tenth of any polyp."""
        return (self.of_region.sum(axis=0) < TOUCHED) & ~(self.of_polyp >= TOUCHED).any(axis=0)

    @property
    def found(self) -> np.ndarray:
        """Polyps, bool (P,), with a tenth or more of their area in regions not hallucinated."""
        return self.of_polyp[:, ~self.hallucinated].sum(axis=1) >= TOUCHED


def find_objects(predicted: np.ndarray, truth: np.ndarray) -> Objects:
    """The objects in masks bool (H, W): the one rule for found, missed and hallucinated.

    It asks whether a reader would have been led to the polyp. `detection` is stricter: it requires
    agreement of outlines, and one region per polyp.
    """
    polyps, regions = components(truth), components(predicted)
    both = np.array([[(p & r).sum() for r in regions] for p in polyps], np.float64)
    both = both.reshape(len(polyps), len(regions))
    of_polyp = both / np.array([p.sum() for p in polyps]).reshape(-1, 1)
    of_region = both / np.array([r.sum() for r in regions]).reshape(1, -1)
    return Objects(polyps, regions, of_polyp, of_region)


def object_errors(predicted: np.ndarray, truth: np.ndarray) -> dict[str, int]:
    """Counts the outcomes of a frame's polyps and predicted regions, from masks bool (H, W).

    Returns:
        ``found`` and ``missed`` polyps and ``hallucinated`` regions, see `Objects`. ``split``:
        polyps that overlap two or more predicted regions. ``merged``: regions that cover a tenth
        or more of two or more polyps. ``spilled``: regions that are not hallucinated but lie more
        than half outside any polyp.
    """
    objects = find_objects(predicted, truth)
    holds = objects.of_polyp >= TOUCHED
    shares = (holds | (objects.of_region >= TOUCHED)).sum(axis=1)
    outside = objects.of_region.sum(axis=0) < 1 - SPILLED
    found, hallucinated = objects.found, objects.hallucinated
    return {
        "found": int(found.sum()),
        "missed": int((~found).sum()),
        "split": int((shares > 1).sum()),
        "merged": int((holds.sum(axis=0) > 1).sum()),
        "spilled": int((outside & ~hallucinated).sum()),
        "hallucinated": int(hallucinated.sum()),
    }


def dice_costs(predicted: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Splits 1 − Dice of masks bool (H, W) by type of error; NaN if both are empty.

    Errors are corrected one after the other, and each costs what its correction gains: missed
    polyps are filled in, then hallucinated regions removed; the rest is lost to outlines (and
    specks).

    Returns:
        ``cost_unfound``: all of it if the frame has polyps and none is found, else 0;
        ``cost_missed``, ``cost_hallucinated`` and ``cost_outlines``: the parts of it otherwise.
    """
    costs = dict.fromkeys(COSTS, 0.0)
    if not predicted.any() and not truth.any():
        return dict.fromkeys(COSTS, np.nan)
    objects = find_objects(predicted, truth)
    if objects.polyps and not objects.found.any():
        return costs | {"cost_unfound": 1 - _dice(predicted, truth)}
    missed = [p for p, found in zip(objects.polyps, objects.found, strict=True) if not found]
    false = [r for r, no in zip(objects.regions, objects.hallucinated, strict=True) if no]
    filled = np.logical_or.reduce([predicted, *missed])
    cleared = filled & ~(np.logical_or.reduce([np.zeros_like(truth), *false]) & ~truth)
    steps = [_dice(mask, truth) for mask in (predicted, filled, cleared)] + [1.0]
    return costs | dict(zip(list(COSTS)[1:], np.diff(steps).tolist(), strict=True))


def _dice(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Dice of masks that may be empty; 1 if both are, since nothing is left to correct."""
    size = predicted.sum() + truth.sum()
    return float(2 * (predicted & truth).sum() / size) if size else 1.0


def band_table(table: pd.DataFrame) -> pd.DataFrame:
    """Share of the wrong area in each band, for all frames, the worst quarter and the rest.

    Areas are shares of the frame, so that large frames weigh no more than small ones.

    Args:
        table: from `failures.error_table`.

    Returns:
        Columns ``frames``, ``band``, ``share`` with ``low`` and ``high`` (95 %, BCa over groups),
        NaN if nothing is wrong; ``n``, the number of frames with wrong pixels; and ``wrong``, the
        mean share of a frame's area that is wrong.
    """
    ranked = table.dropna(subset="dice").sort_values("dice", ignore_index=True)
    worst = ranked.index < len(ranked) // 4
    rows = []
    for frames, part in (
        ("all frames", ranked),
        ("the worst quarter", ranked[worst]),
        ("the rest", ranked[~worst]),
    ):
        areas = part[list(BANDS)].div(part["pixels"], axis=0)
        wrong = areas.sum(axis=1)
        for band, text in BANDS.items():
            share = ratio_interval(areas[band], wrong, groups=part["group"])
            row = {"frames": frames, "band": text, "share": share.mean, "low": share.low}
            rows.append(row | {"high": share.high, "n": share.n, "wrong": wrong.mean()})
    return pd.DataFrame(rows)


def failure_findings(table: pd.DataFrame) -> list[str]:
    """Which errors there are, in sentences computed from the table of `failures.error_table`."""
    count = {name: int(table[name].sum()) for name in OBJECTS}
    silent = int((table["missed"] > 0).sum())
    sentences = [
        f"As objects: {count['found']} of {count['found'] + count['missed']} polyps found, "
        f"{count['missed']} missed in {silent} frames; {count['split']} split into two or more "
        f"regions.",
        f"Of the predicted regions, {count['merged']} merge polyps, {count['spilled']} spill and "
        f"{count['hallucinated']} are hallucinated (in "
        f"{int((table['hallucinated'] > 0).sum())} frames).",
    ]
    for frames, part in band_table(table).groupby("frames", sort=False):
        shares = [
            f"{100 * row['share']:.0f} % "
            f"[{100 * row['low']:.0f}, {100 * row['high']:.0f}] {row['band']}"
            for row in part.dropna(subset="share").to_dict("records")
        ]
        wrong = f"{100 * part['wrong'].iloc[0]:.1f} % of the area is wrong on average"
        of_that = f"; of that, {', '.join(shares)}" if shares else ""
        sentences.append(f"In {frames}, {wrong}{of_that}.")
    return sentences


def cost_findings(table: pd.DataFrame, twice: pd.Series) -> list[str]:
    """What Dice is lost to, in sentences computed from the table of `error_table`.

    Args:
        table: of `failures.error_table`.
        twice: Dice of pairs of annotations, see `label_noise.annotated_twice`.
    """
    scored = table.dropna(subset="dice")
    n, groups = len(scored), scored["group"]
    if not n:
        return ["No frame has a score, so there is no loss of Dice to break down."]
    lost = mean_interval(1 - scored["dice"], groups=groups)
    parts = []
    for cost, text in COSTS.items():
        share, frames = mean_interval(scored[cost], groups=groups), (scored[cost] > 0).sum()
        parts.append(f"{share if frames else 'nothing'} to {text} ({frames} frames)")
    low = scored["dice"] < FAILURE_DICE
    below = (1 - scored["dice"])[low].sum() / n
    sentences = [
        f"Of a Dice of 1, {lost} is lost (mean of {n} frames): {'; '.join(parts)}.",
        f"The {low.sum()} frames below {FAILURE_DICE} account for {below:.3f} of it.",
    ]
    found = scored[scored["cost_unfound"] == 0]
    if found.empty:
        return sentences
    outlines = mean_interval(found["cost_outlines"], groups=found["group"])
    costs = f"Where a polyp is found ({outlines.n} frames), the outline costs {outlines} per frame"
    if len(twice) < FEW:
        return [*sentences, f"{costs}; how far two annotators differ is not known here."]
    noise = mean_interval(1 - twice)
    more = compare_unpaired(found["cost_outlines"], 1 - twice, (found["group"], None))
    sentences.append(
        f"{costs}, against {noise} between two annotations of one frame ({noise.n} pairs): a "
        f"difference of {more}."
    )
    mean, rest, gain = scored["dice"].mean(), found["dice"].mean(), more.mean * len(found) / n
    text = "Outlines as close to the truth as a second annotator's would "
    text += f"{'' if gain > 0 else 'not '}raise the mean Dice of {mean:.3f}"
    text += f" by {gain:.3f}" if gain > 0 else ""
    if len(found) < n:
        text += "; finding a polyp in every frame, if the frames without one were like the others, "
        text += f"would raise it by {rest - mean:.3f}"
    return [*sentences, f"{text}."]
