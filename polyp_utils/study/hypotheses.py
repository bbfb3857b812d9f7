"""Where a card's Dice of 0.9169 can come from: label schemes × ways of averaging × losses.

All from the sums of `polyp_utils.study.card_sums`, uncertainty included: images are drawn anew
(near-duplicates together), batches formed again, and of several seeds one is drawn each time. The
card's split and seed are unknown, and no interval here covers those.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from polyp_utils.common.config import RECIPES
from polyp_utils.data.known import listed_groups
from polyp_utils.runs.run import Run, list_runs
from polyp_utils.score.intervals import Interval, percentiles, resamples
from polyp_utils.score.literature import CARD
from polyp_utils.score.overlap import batch_dice
from polyp_utils.score.protocols import polyp_scores
from polyp_utils.study.card_sums import (
    AVERAGES,
    LOSSES,
    Sums,
    average,
    is_measurable,
    is_measured,
    loss,
    sums_of,
)

VALIDATION, TEST, LOSS = CARD  # the card's three figures
ALPHA = 0.05  # of p: below it a hypothesis is not compatible
REACH = 4.0  # standard deviations, see `Hypothesis.polyp_behind`


def card_runs() -> list[Run]:
    """Finished runs of the card's recipe with three classes; only scheme, width and seed differ.

    One of each name, by scheme, width and seed; those whose sums are neither stored nor can be
    made here, for want of weights and predictions, are left out.
    """
    free = ("scheme", "width", "seed", "device", "name")
    card = {k: v for k, v in RECIPES["card"].to_dict().items() if k not in free}
    found: dict[str, Run] = {}
    for run in list_runs():
        there = card.items() <= run.config.to_dict().items()
        known = is_measured(run) or is_measurable(run)
        if there and known and run.scheme.logits == 3:
            found.setdefault(run.name, run)
    return sorted(found.values(), key=lambda r: (r.config.scheme, r.config.width, r.config.seed))


@dataclass(frozen=True)
class Hypothesis:
    """One label scheme at one width, over its seeds.

    Attributes:
        scheme, width: of its runs.
        whole: a row per seed; columns are pairs (figure of the card, way), and ``polyp``.
        drawn: a row per resample of images and seeds.
    """

    scheme: str
    width: int
    whole: pd.DataFrame
    drawn: pd.DataFrame

    @property
    def name(self) -> str:
        """For tables."""
        return f"{self.scheme}, width {self.width}"

    def interval(self, figure: str, way: str) -> Interval:
        """Mean over seeds, 95 % percentile interval over images and seeds; ``n``: seeds."""
        low, high = percentiles(self.drawn[figure, way].to_numpy())
        return Interval(float(self.whole[figure, way].mean()), low, high, len(self.whole))

    def compatible(self, averaged: str, lost: str) -> float:
        """Chance of the card's three figures together: thrice the least of their own (Bonferroni).

        A figure's own p is twice the share of resamples on its further side. Judging the three by
        their joint scatter would be sharper than the study can be: that scatter is one of images
        about a network that is given, and another training moves it.
        """
        tails = []
        for figure, way in ((VALIDATION, averaged), (TEST, averaged), (LOSS, lost)):
            above = int((self.drawn[figure, way] >= CARD[figure]).sum())
            tails.append(1 + min(above, len(self.drawn) - above))
        return min(1.0, len(tails) * 2 * min(tails) / (1 + len(self.drawn)))

    def polyp_behind(self, averaged: str) -> Interval:
        """Polyp Dice per image at original size, where the test figure is the card's.

        From the line through the resamples, with 95 % of their scatter about it. NaN where the
        card's figure is further than `REACH` standard deviations from them: a line drawn so far
        says nothing.
        """
        x, y = self.drawn[TEST, averaged], self.drawn["polyp", ""]
        if abs(CARD[TEST] - x.mean()) > REACH * x.std():
            return Interval(np.nan, np.nan, np.nan, len(self.whole))
        slope, offset = np.polyfit(x, y, 1)
        scatter = 1.96 * float((y - slope * x - offset).std())
        there = float(slope * CARD[TEST] + offset)
        return Interval(there, there - scatter, there + scatter, len(self.whole))


def hypothesis(runs: Sequence[tuple[Run, pd.DataFrame]], seed: int = 0) -> Hypothesis:
    """What the seeds of one scheme and width say.

    Args:
        runs: of one scheme and width, evaluated, each with its table of `measure`.
        seed: of the resampling.

    Raises:
        ValueError: runs of several schemes or widths.
    """
    kinds = {(run.config.scheme, run.config.width) for run, _ in runs}
    if len(kinds) != 1:
        raise ValueError(f"{len(kinds)} kinds of runs {sorted(kinds)}: give seeds of one")
    parts = [
        (sums_of(table, "val"), sums_of(table, "test"), _polyp_dice(run, table))
        for run, table in runs
    ]
    run, table = runs[0]
    groups = [_groups(run, table, part) for part in ("val", "test")]
    rng = np.random.default_rng(seed)
    whole = [_figures(*part) for part in parts]
    drawn = []
    for times in zip(*(resamples(each, rng) for each in groups), strict=True):
        val, test, polyp = parts[int(rng.integers(len(parts)))]
        rows = [torch.from_numpy(rng.permutation(np.repeat(np.arange(len(n)), n))) for n in times]
        drawn.append(_figures(val[rows[0]], test[rows[1]], polyp[rows[1]]))
    (scheme, width) = next(iter(kinds))
    return Hypothesis(scheme, width, pd.DataFrame(whole), pd.DataFrame(drawn))


def _groups(run: Run, table: pd.DataFrame, part: str) -> list[int]:
    """The group of near-duplicates of each image of a part, as far as these are known."""
    ids = table.loc[table["part"] == part, "id"].unique().tolist()
    return list(listed_groups(run.config.dataset, ids).values())


def _figures(val: Sums, test: Sums, polyp: Tensor) -> dict[tuple[str, str], float]:
    found = {(VALIDATION, way): average(val, way) for way in AVERAGES}
    found |= {(TEST, way): average(test, way) for way in AVERAGES}
    found |= {(LOSS, way): loss(test, way) for way in LOSSES}
    return {**found, ("polyp", ""): float(polyp.nanmean())}


def _polyp_dice(run: Run, table: pd.DataFrame) -> Tensor:
    """Per test image at original size, in the table's order."""
    ids = table.loc[table["part"] == "test", "id"].unique()
    return torch.tensor(polyp_scores(run.per_image).loc[ids].to_numpy())


def hypotheses(runs: Sequence[tuple[Run, pd.DataFrame]]) -> list[Hypothesis]:
    """A `hypothesis` for every scheme and width among runs, in their order."""
    kinds: dict[tuple[str, int], list[tuple[Run, pd.DataFrame]]] = {}
    for run, table in runs:
        kinds.setdefault((run.config.scheme, run.config.width), []).append((run, table))
    return [hypothesis(seeds) for seeds in kinds.values()]


def verdicts(found: Sequence[Hypothesis]) -> pd.DataFrame:
    """Every hypothesis under every average and loss, most compatible first.

    Losses that are the same for a hypothesis (no class is absent) stand once.

    Returns:
        ``scheme``, ``width``, ``average``, ``loss rule``; the card's three figures, each an
        `Interval`; ``p`` of `Hypothesis.compatible`; ``furthest``, the figure of which the card's
        is furthest, and ``by``, how far ours is above it; ``polyp`` of `Hypothesis.polyp_behind`.
    """
    rows = []
    for h in found:
        rules = {str(h.interval(LOSS, way)): way for way in reversed(LOSSES)}
        for averaged in AVERAGES:
            for lost in reversed(rules.values()):
                ways = {VALIDATION: averaged, TEST: averaged, LOSS: lost}
                ours = {figure: h.interval(figure, way) for figure, way in ways.items()}
                gaps = {figure: interval.mean - CARD[figure] for figure, interval in ours.items()}
                furthest = max(gaps, key=lambda figure: abs(gaps[figure]))
                row = {"scheme": h.scheme, "width": h.width, "average": averaged}
                row |= {"loss rule": lost, **ours, "p": h.compatible(averaged, lost)}
                row |= {"furthest": furthest, "by": gaps[furthest]}
                rows.append(row | {"polyp": h.polyp_behind(averaged)})
    table = pd.DataFrame(rows)
    order = [-table["p"], table["by"].abs()]
    return table.iloc[np.lexsort(order[::-1])].reset_index(drop=True)


def answer(table: pd.DataFrame) -> list[str]:
    """What `verdicts` come to, in sentences: what fits, what does not and by how much."""
    fits = table[table["p"] >= ALPHA]
    sentences = ["No hypothesis is compatible with the card's three figures together."]
    if len(fits):
        ways = [
            f"`{scheme}` at width {width} (Dice: {averaged}; loss: {lost}; p {p:.2f})"
            for scheme, width, averaged, lost, p in zip(
                *(fits[c] for c in ("scheme", "width", "average", "loss rule", "p")), strict=True
            )
        ]
        low, high = (min(i.low for i in fits["polyp"]), max(i.high for i in fits["polyp"]))
        card = ", ".join(f"{name} {value}" for name, value in CARD.items())
        sentences = [
            f"Compatible with {card} together: {'; '.join(ways)}. The card's figures cannot tell "
            "these apart.",
            f"Under them the polyp Dice behind {CARD[TEST]} lies between {low:.2f} and {high:.2f} "
            "(per image, original size).",
        ]
    for scheme, tried in table.groupby("scheme", sort=False):
        if not fits["scheme"].eq(scheme).any():
            best = tried.iloc[int(tried["by"].abs().argmin())]
            sentences.append(
                f"`{scheme}` is not compatible, at any width and under any average and loss tried "
                f"(p ≤ {tried['p'].max():.3f}). Its nearest figures (width {best['width']}, "
                f"{best['average']}) are {abs(best['by']):.3f} off in {best['furthest']}."
            )
    return sentences


def loss_gap(runs: Sequence[tuple[Run, pd.DataFrame]]) -> float:
    """How far the sums' test loss is at most from the one that training took from its logits."""
    card = next(iter(LOSSES))
    seen = [run.training["kept_at_network_size"]["test"]["loss"] for run, _ in runs]
    ours = [loss(sums_of(table, "test"), card) for _, table in runs]
    return max(abs(a - b) for a, b in zip(seen, ours, strict=True))


def third_class(runs: Sequence[tuple[Run, pd.DataFrame]]) -> pd.DataFrame:
    """What the third class would have to score for the card's test figure, given the other two.

    Test part, batches of 8; this asks nothing of the level of background and polyp but what the
    run itself has.

    Returns:
        A row per run: ``run``, ``scheme``, ``width``, Dice of each class (``background``,
        ``polyp``, ``third``; absent left out) and ``needed``.
    """
    rows = []
    for run, table in runs:
        sums = sums_of(table, "test")
        background, polyp, third = batch_dice(sums.counts).nanmean(dim=0).tolist()
        config = run.config
        row = {"run": run.name, "scheme": config.scheme, "width": config.width}
        row |= {"background": background, "polyp": polyp, "third": third}
        rows.append(row | {"needed": len(sums.mass[0]) * CARD[TEST] - background - polyp})
    return pd.DataFrame(rows)
