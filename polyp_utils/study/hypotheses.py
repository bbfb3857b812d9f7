"""What can explain the card's Dice of 0.9169: label schemes × ways of averaging × loss rules.

Everything follows from the sums of `polyp_utils.study.card_sums`. For intervals, each resample
draws images (near-duplicates together), forms new batches and picks one of the seeds. The card's
split and seed are unknown, and no interval here covers that uncertainty.
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
from polyp_utils.score.intervals import Interval, percentile_interval, resamples
from polyp_utils.score.literature import CARD
from polyp_utils.score.overlap import batch_dice
from polyp_utils.score.protocols import polyp_scores
from polyp_utils.study.card_sums import (
    AVERAGES,
    LOSSES,
    Sums,
    averages,
    is_measurable,
    is_measured,
    losses,
    sums_of,
)

VALIDATION, TEST, LOSS = CARD  # the card's three figures
ALPHA = 0.05  # a hypothesis with a smaller p is not compatible
REACH = 4.0  # standard deviations, see `Hypothesis.polyp_behind`


def card_runs() -> list[Run]:
    """Finished runs of the card's recipe with three classes; only scheme, width and seed differ.

    One run per name, sorted by scheme, width and seed. Runs without stored sums and without the
    weights or predictions to compute them are left out.
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
        scheme, width: those of its runs.
        whole: one row per seed; columns are pairs (figure of the card, way), and ``polyp``.
        drawn: one row per resample of images and seeds; the same columns.
    """

    scheme: str
    width: int
    whole: pd.DataFrame
    drawn: pd.DataFrame

    @property
    def name(self) -> str:
        """Its name in tables and figures."""
        return f"{self.scheme}, width {self.width}"

    def interval(self, figure: str, way: str) -> Interval:
        """Mean over seeds, with a 95 % percentile interval over images and seeds; ``n``: seeds."""
        mean, drawn = self.whole[figure, way].mean(), self.drawn[figure, way].to_numpy()
        return percentile_interval(float(mean), drawn, len(self.whole))

    def compatible(self, averaged: str, lost: str) -> float:
        """p-value of the card's three figures together: three times the smallest one (Bonferroni).

        A figure's own p is twice the share of resamples beyond it. A test by the joint scatter of
        the three would be sharper than the study permits: that scatter is over images for given
        networks, and retraining shifts it.
        """
        tails = []
        for figure, way in ((VALIDATION, averaged), (TEST, averaged), (LOSS, lost)):
            above = int((self.drawn[figure, way] >= CARD[figure]).sum())
            tails.append(1 + min(above, len(self.drawn) - above))
        return min(1.0, len(tails) * 2 * min(tails) / (1 + len(self.drawn)))

    def polyp_behind(self, averaged: str) -> Interval:
        """Per-image mean of polyp Dice at the original size, if the test Dice were the card's.

        Predicted by the regression line through the resamples, with 95 % of their scatter about
        it. NaN if the card's figure is more than `REACH` standard deviations from their mean:
        extrapolating that far is meaningless.
        """
        x, y = self.drawn[TEST, averaged], self.drawn["polyp", ""]
        if abs(CARD[TEST] - x.mean()) > REACH * x.std():
            return Interval(np.nan, np.nan, np.nan, len(self.whole))
        slope, offset = np.polyfit(x, y, 1)
        scatter = 1.96 * float((y - slope * x - offset).std())
        there = float(slope * CARD[TEST] + offset)
        return Interval(there, there - scatter, there + scatter, len(self.whole))


def hypothesis(runs: Sequence[tuple[Run, pd.DataFrame]], seed: int = 0) -> Hypothesis:
    """The hypothesis of one scheme and width, from its seeds.

    Args:
        runs: evaluated runs of one scheme and width, each with its table from `measure_sums`.
        seed: for the resampling.

    Raises:
        ValueError: the runs differ in scheme or width.
    """
    kinds = {(run.config.scheme, run.config.width) for run, _ in runs}
    if len(kinds) != 1:
        raise ValueError(f"the runs have schemes and widths {sorted(kinds)}: give seeds of one")
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
    """The group (known near-duplicates and sequences) of each image of a part."""
    ids = table.loc[table["part"] == part, "id"].unique().tolist()
    return list(listed_groups(run.config.dataset, ids).values())


def _figures(val: Sums, test: Sums, polyp: Tensor) -> dict[tuple[str, str], float]:
    found = {VALIDATION: averages(val), TEST: averages(test), LOSS: losses(test)}
    pairs = {(figure, way): value for figure, ways in found.items() for way, value in ways.items()}
    return {**pairs, ("polyp", ""): float(polyp.nanmean())}


def _polyp_dice(run: Run, table: pd.DataFrame) -> Tensor:
    """Polyp Dice per test image at the original size, in the table's order."""
    ids = table.loc[table["part"] == "test", "id"].unique()
    return torch.tensor(polyp_scores(run.per_image).loc[ids].to_numpy())


def hypotheses(runs: Sequence[tuple[Run, pd.DataFrame]]) -> list[Hypothesis]:
    """A `Hypothesis` for every scheme and width among the runs, in their order."""
    kinds: dict[tuple[str, int], list[tuple[Run, pd.DataFrame]]] = {}
    for run, table in runs:
        kinds.setdefault((run.config.scheme, run.config.width), []).append((run, table))
    return [hypothesis(seeds) for seeds in kinds.values()]


def verdicts(found: Sequence[Hypothesis]) -> pd.DataFrame:
    """Every hypothesis under every average and loss rule, most compatible first.

    Loss rules that give a hypothesis the same loss (no class is absent) are listed once.

    Returns:
        ``scheme``, ``width``, ``average``, ``loss rule``; our values of the card's three figures,
        each an `Interval`; ``p`` from `Hypothesis.compatible`; ``furthest``, the figure that
        differs most from the card's, and ``by``, ours minus the card's; ``polyp`` from
        `Hypothesis.polyp_behind`.
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
    """Summary of `verdicts` in sentences: what fits, what does not, and by how much."""
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
            f"Compatible with the card's three figures ({card}): {'; '.join(ways)}. The figures "
            "cannot tell these apart.",
            f"Under these, the polyp Dice behind {CARD[TEST]} lies between {low:.2f} and "
            f"{high:.2f} (per-image mean, original size).",
        ]
    for scheme, tried in table.groupby("scheme", sort=False):
        if not fits["scheme"].eq(scheme).any():
            best = tried.iloc[int(tried["by"].abs().argmin())]
            sentences.append(
                f"`{scheme}` is not compatible at any width or under any average and loss rule "
                f"tried (p ≤ {tried['p'].max():.3f}). At best (width {best['width']}, "
                f"{best['average']}), {best['furthest']} is off by {abs(best['by']):.3f}."
            )
    return sentences


def loss_gap(runs: Sequence[tuple[Run, pd.DataFrame]]) -> float:
    """Largest difference between the test loss from sums and the one that training recorded."""
    card = next(iter(LOSSES))
    seen = [run.training["kept_at_network_size"]["test"]["loss"] for run, _ in runs]
    ours = [losses(sums_of(table, "test"))[card] for _, table in runs]
    return max(abs(a - b) for a, b in zip(seen, ours, strict=True))


def third_class(runs: Sequence[tuple[Run, pd.DataFrame]]) -> pd.DataFrame:
    """The Dice that the third class would need for the card's test Dice, given the other two.

    Test part, batches of 8; background and polyp score as in the run itself.

    Returns:
        One row per run: ``run``, ``scheme``, ``width``, Dice of each class (``background``,
        ``polyp``, ``third``; absent classes left out) and ``needed``.
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
