"""Where a card's Dice of 0.9169 can come from: label schemes × ways of averaging × losses.

A run's validation and test frames become sums per image and class (`measure`, from its weights;
kept in the run as ``card_sums.csv``, so that the study is read again without weights or data).
Every way of averaging follows from these, the loss included, and so does its uncertainty: images
are drawn anew (near-duplicates together), batches formed again, and of several seeds one is drawn
each time. The card's split
and seed are unknown, and no interval here covers those.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from polyp_utils.config import RECIPES
from polyp_utils.data.dataset import PolypDataset
from polyp_utils.data.duplicates import group
from polyp_utils.data.labels import get_scheme
from polyp_utils.data.splits import known_pairs, load_split
from polyp_utils.data.transforms import to_input
from polyp_utils.evaluation import CARD
from polyp_utils.losses import EPSILON
from polyp_utils.metrics import CARD_BATCH, Counts, batch_dice, confusion_matrix, counts_of
from polyp_utils.predictions import network_of
from polyp_utils.protocols import polyp_scores
from polyp_utils.runs import Run, RunError, list_runs
from polyp_utils.stats import Interval, draw_groups, members_of

VALIDATION, TEST, LOSS = CARD  # the card's three figures
TABLE = "card_sums"
ALPHA = 0.05
REACH = 4.0
_RESAMPLES = 1999
_CHUNK = 8

AVERAGES: dict[str, tuple[int, float, bool]] = {  # batch, absent, whether all classes
    "absent 1, batches of 8": (CARD_BATCH, 1.0, True),
    "absent 1, per image": (1, 1.0, True),
    "absent 1, pooled": (0, 1.0, True),
    "absent left out, batches of 8": (CARD_BATCH, np.nan, True),
    "absent 0, batches of 8": (CARD_BATCH, 0.0, True),
    "background and polyp, batches of 8": (CARD_BATCH, np.nan, False),
}
LOSSES: dict[str, tuple[float, float | None]] = {  # smoothing, soft Dice of an absent class
    "absent as smoothed by 1e-6": (EPSILON, None),
    "absent as smoothed by 1": (1.0, None),
    "absent left out": (EPSILON, np.nan),
    "absent counts 1": (EPSILON, 1.0),
}


@dataclass(frozen=True)
class Sums:
    """What a part of the data adds up to, per image: N images, C classes.

    Attributes:
        counts: pixels by argmax at network size, int64 (N, C) each.
        right: probability mass on true pixels of the class, float64 (N, C).
        mass: probability mass of the class, float64 (N, C).
        ce: mean cross-entropy, float64 (N,).
    """

    counts: Counts
    right: Tensor
    mass: Tensor
    ce: Tensor

    def __getitem__(self, rows: Tensor) -> "Sums":
        counts = Counts(*(c[rows] for c in self.counts))
        return Sums(counts, self.right[rows], self.mass[rows], self.ce[rows])

    def __len__(self) -> int:
        return len(self.ce)


def card_runs() -> list[Run]:
    """Finished runs of the card's recipe with three classes; only scheme, width and seed differ.

    One of each name, by scheme, width and seed; those whose sums are neither stored nor can be
    made here, for want of weights, are left out.
    """
    free = ("scheme", "width", "seed", "device", "name")
    card = {k: v for k, v in RECIPES["seed"].to_dict().items() if k not in free}
    found: dict[str, Run] = {}
    for run in list_runs():
        there = card.items() <= run.config.to_dict().items()
        known = is_measured(run) or run.weights.is_file()
        if there and known and get_scheme(run.config.scheme).logits == 3:
            found.setdefault(run.name, run)
    return sorted(found.values(), key=lambda r: (r.config.scheme, r.config.width, r.config.seed))


def is_measured(run: Run) -> bool:
    """Whether the run holds the table of `measure`."""
    return (run.path / f"{TABLE}.csv").is_file()


def measure(run: Run, dataset: PolypDataset, device: str = "auto") -> pd.DataFrame:
    """Sums of validation and test part under a run's weights, at network size, in float32.

    Returns:
        A row per image and class: ``part``, ``id``, ``class``, ``tp``, ``fp``, ``fn``, ``tn``,
        ``right``, ``mass``, ``ce`` (of the image).

    Raises:
        FileNotFoundError: the run's weights are not at hand.
        ValueError: a run with one logit.
    """
    config, scheme = run.config, get_scheme(run.config.scheme)
    if scheme.logits == 1:
        raise ValueError(f"{run.name} has one logit; the card has three classes")
    network, compute = network_of(run, dataset, device, "fp32")
    split = load_split(config.split, config.dataset).limited(config.limit)
    tables = []
    for part in ("val", "test"):
        ids = split.part(part)
        for names, rows in zip(_chunks(ids), dataset.rows(ids).split(_CHUNK), strict=True):
            with torch.inference_mode():
                logits = network(to_input(dataset.images[rows], compute.device)).float().cpu()
            target = scheme.encode(dataset.masks[rows])
            columns = counts_of(confusion_matrix(logits.argmax(1), target, scheme.logits))._asdict()
            log = logits.double().log_softmax(dim=1)
            truth = torch.nn.functional.one_hot(target, scheme.logits).permute(0, 3, 1, 2)
            columns["right"] = (log.exp() * truth).sum((2, 3))
            columns["mass"] = log.exp().sum((2, 3))
            columns["ce"] = -(log * truth).sum(1).mean((1, 2))[:, None].expand(-1, scheme.logits)
            table = {name: values.flatten().numpy() for name, values in columns.items()}
            index = {"id": np.repeat(names, scheme.logits), "class": [*scheme.classes] * len(names)}
            tables.append(pd.DataFrame({"part": part, **index, **table}))
    return pd.concat(tables, ignore_index=True)


def _chunks(ids: Sequence[str]) -> list[list[str]]:
    return [list(ids[start : start + _CHUNK]) for start in range(0, len(ids), _CHUNK)]


def read_sums(run: Run) -> pd.DataFrame:
    """The table of `measure` that a run holds.

    Raises:
        RunError: it holds none.
    """
    if not is_measured(run):
        raise RunError(f"{run.name} holds no {TABLE}.csv: run notebook 06 where its weights are")
    return pd.read_csv(run.path / f"{TABLE}.csv", dtype={"id": str})


def sums_of(table: pd.DataFrame, part: str) -> Sums:
    """``val`` or ``test`` of a table of `measure`."""
    rows = table[table["part"] == part]
    classes = rows["class"].nunique()

    def column(name: str) -> Tensor:
        return torch.tensor(rows[name].to_numpy()).view(-1, classes)

    counts = Counts(*(column(name) for name in Counts._fields))
    return Sums(counts, column("right"), column("mass"), column("ce")[:, 0])


def average(sums: Sums, way: str) -> float:
    """Dice by argmax under one of `AVERAGES`: mean over classes, then over batches."""
    size, absent, every = AVERAGES[way]
    per_class = batch_dice(sums.counts, size, absent)
    return float((per_class if every else per_class[:, :2]).nanmean(dim=1).mean())


def loss(sums: Sums, way: str) -> float:
    """The card's loss, 0.5 CE + 0.5 Dice loss, under one of `LOSSES`; mean over images."""
    smoothing, absent = LOSSES[way]
    batch = torch.arange(len(sums)) // CARD_BATCH
    size = torch.bincount(batch)
    true = sums.counts.tp + sums.counts.fn
    right, mass, true = (
        torch.zeros(len(size), x.shape[1], dtype=torch.float64).index_add(0, batch, x.double())
        for x in (sums.right, sums.mass, true)
    )
    dice = (2 * right + smoothing) / (mass + true + smoothing)
    if absent is not None:
        dice = torch.where(true > 0, dice, absent)
    return float(0.5 * sums.ce.mean() + 0.5 * (1 - dice.nanmean(dim=1)) @ size.double() / len(sums))


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
        low, high = self.drawn[figure, way].quantile([0.025, 0.975])
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
    for _ in range(_RESAMPLES):
        val, test, polyp = parts[int(rng.integers(len(parts)))]
        rows = [torch.from_numpy(draw_groups(members, rng)) for members in groups]
        drawn.append(_figures(val[rows[0]], test[rows[1]], polyp[rows[1]]))
    (scheme, width) = next(iter(kinds))
    return Hypothesis(scheme, width, pd.DataFrame(whole), pd.DataFrame(drawn))


def _groups(run: Run, table: pd.DataFrame, part: str) -> list[np.ndarray]:
    """Rows of a part's images by group of near-duplicates, as far as these are known."""
    ids = table.loc[table["part"] == part, "id"].unique().tolist()
    pairs = pd.DataFrame(known_pairs(run.config.dataset), columns=["id_a", "id_b"])
    return members_of(group(ids, pairs).values())


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
