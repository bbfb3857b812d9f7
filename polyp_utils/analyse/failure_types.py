"""Kinds of error: of pixels by where they lie, of polyps by what became of them, and their cost."""

from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd

from polyp_utils.analyse.dice_drivers import FAILURE_DICE
from polyp_utils.data.labels import rim_width
from polyp_utils.data.regions import components
from polyp_utils.score.intervals import FEW, compare_unpaired, mean_interval, ratio_interval

TOUCHED = 0.1  # of a region: less of it is no overlap
SPILLED = 0.5  # of a predicted region that lies outside of any polyp

# Where wrong pixels lie, and what objects are mistaken, in words.
BANDS = {
    "lost_inside": "lost inside",
    "lost_rim": "lost at the rim",
    "spilt_rim": "spilt over the rim",
    "spilt_outside": "spilt outside",
}
OBJECTS = {
    "found": "polyps found",
    "missed": "polyps missed",
    "split": "polyps split into regions",
    "merged": "regions that merge polyps",
    "spilled": "regions spilled, mostly outside",
    "hallucinated": "regions hallucinated",
}
# What Dice is lost to, a column each; the first is of whole frames.
COSTS = {
    "cost_unfound": "frames in which no polyp is found",
    "cost_missed": "polyps missed beside others that are found",
    "cost_hallucinated": "regions hallucinated",
    "cost_outlines": "the outlines of what is found",
}


def pixel_errors(predicted: np.ndarray, truth: np.ndarray) -> dict[str, int]:
    """Wrong pixels of masks bool (H, W) by the band of the truth that they lie in.

    Returns:
        ``lost_inside`` and ``lost_rim`` (polyp that is not predicted, deep in it or within the
        trimap's rim width of its outline), ``spilt_rim`` and ``spilt_outside`` (predicted, but
        no polyp). Without a polyp all that is predicted is ``spilt_outside``.
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
    """Of each true pixel to the nearest false one; infinite if there is none."""
    if mask.all():
        return np.full(mask.shape, np.inf)
    return cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)


class Objects(NamedTuple):
    """Polyps and predicted regions of a frame, specks left out, and how they overlap.

    Attributes:
        polyps: P masks bool (H, W).
        regions: R masks, of the prediction.
        of_polyp: share of each polyp that lies in each region, (P, R).
        of_region: share of each region that lies in each polyp, (P, R).
    """

    polyps: list[np.ndarray]
    regions: list[np.ndarray]
    of_polyp: np.ndarray
    of_region: np.ndarray

    @property
    def hallucinated(self) -> np.ndarray:
        """Regions, bool (R,), less than a tenth polyp, that hold no tenth of any polyp."""
        return (self.of_region.sum(axis=0) < TOUCHED) & ~(self.of_polyp >= TOUCHED).any(axis=0)

    @property
    def found(self) -> np.ndarray:
        """Polyps, bool (P,), of which a tenth or more lies in regions that are not hallucinated."""
        return self.of_polyp[:, ~self.hallucinated].sum(axis=1) >= TOUCHED


def find_objects(predicted: np.ndarray, truth: np.ndarray) -> Objects:
    """The objects of masks bool (H, W): the one rule for what is found, missed, hallucinated.

    It asks whether a reader would have been led to the polyp. `detection` is stricter: it asks
    for outlines that agree, one region per polyp.
    """
    polyps, regions = components(truth), components(predicted)
    both = np.array([[(p & r).sum() for r in regions] for p in polyps], np.float64)
    both = both.reshape(len(polyps), len(regions))
    of_polyp = both / np.array([p.sum() for p in polyps]).reshape(-1, 1)
    of_region = both / np.array([r.sum() for r in regions]).reshape(1, -1)
    return Objects(polyps, regions, of_polyp, of_region)


def object_errors(predicted: np.ndarray, truth: np.ndarray) -> dict[str, int]:
    """What became of the polyps of a frame, as regions of masks bool (H, W).

    Returns:
        ``found`` and ``missed`` polyps, ``hallucinated`` regions: see `Objects`. ``split``: polyps
        that two or more predicted regions share. ``merged``: regions that hold a tenth or more of
        two or more polyps. ``spilled``: regions that are not hallucinated but lie by more than
        half outside of any polyp.
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
    """1 − Dice of masks bool (H, W), by the error that it is lost to; NaN where both are empty.

    Errors are mended one after the other, and each costs what its mending gains: missed polyps are
    filled in, then hallucinated regions taken away; the rest is lost to outlines (and specks).

    Returns:
        ``cost_unfound``: all of it, if no polyp of the frame is found, else 0; ``cost_missed``,
        ``cost_hallucinated`` and ``cost_outlines`` in the other frames, and where there is none.
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
    """Of masks of which one may be empty; 1 if both are, as nothing is left to mend."""
    size = predicted.sum() + truth.sum()
    return float(2 * (predicted & truth).sum() / size) if size else 1.0


def band_table(table: pd.DataFrame) -> pd.DataFrame:
    """Share of the wrong area that lies in each band: of all frames, the worst quarter, the rest.

    A pixel counts as its share of the frame, so that large frames weigh no more than small ones.

    Args:
        table: of `errors.error_table`.

    Returns:
        Rows ``frames``, ``band``, ``share`` with ``low`` and ``high`` (95 %, BCa over groups), NaN
        if nothing is wrong; ``n`` frames with wrong pixels; and ``wrong``, the mean share of a
        frame's area that is wrong.
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
    """Which errors there are, in sentences computed from the table of `errors.error_table`."""
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
        table: of `errors.error_table`.
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
