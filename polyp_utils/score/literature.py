"""Published figures, each beside a run's score under the figure's own protocol.

Figures from different protocols, training frames or test frames are not comparable:
`PublishedFigure` records how each was obtained and how far to trust it, and `beside` shows what
does not match ours. The figures are in ``literature.csv``.
"""

import csv
import functools
import math
from importlib import resources
from typing import Any, NamedTuple

import pandas as pd

from polyp_utils.score.intervals import Interval

# What the model card reports; `score.card.card_scores` has the same keys.
CARD = {"best validation Dice": 0.9036, "test Dice": 0.9169, "test loss": 0.3322}

NOT_SAID = "not said"


class PublishedFigure(NamedTuple):
    """One published figure.

    Attributes:
        system: the network.
        source: where it was published.
        trained_on: data set and number of frames.
        split: the package's split with the same lists; else ``own`` (lists of the authors),
            ``random`` (drawn anew), ``pranet`` (one of its test-only sets) or `NOT_SAID`.
        tested_on: catalogue name of the data set.
        protocol: the closest of `protocols.PROTOCOLS`, judged by the paper's code if it is public;
            empty if none is close, and ``remark`` says why.
        dice: polyp Dice; NaN if not reported.
        iou: polyp IoU; NaN if not reported.
        pretrained: whether the network was pretrained on other images, or trained from scratch.
        size: side of the input, in pixels; None if not reported.
        settings: training settings, in a few words.
        trust: how far the figure can be trusted; empty if we have not looked into it.
        remark: anything else that a reader should know.
    """

    system: str
    source: str
    trained_on: str
    split: str
    tested_on: str
    protocol: str
    dice: float
    iou: float
    pretrained: bool
    size: int | None
    settings: str
    trust: str
    remark: str


@functools.cache
def published_figures() -> tuple[PublishedFigure, ...]:
    """All figures in ``literature.csv``."""
    text = (resources.files("polyp_utils.score") / "literature.csv").read_text(encoding="utf-8")
    return tuple(map(_figure, csv.DictReader(text.splitlines())))


def _figure(row: dict[str, Any]) -> PublishedFigure:
    scores = {name: float(row[name] or "nan") for name in ("dice", "iou")}
    size = int(row["size"]) if row["size"] else None
    return PublishedFigure(
        **row | scores | {"pretrained": row["pretrained"] == "yes", "size": size}
    )


def beside(protocols: pd.DataFrame, dataset: str, split: str = "") -> pd.DataFrame:
    """Published figures on a data set, each with our score under its protocol.

    A figure whose protocol cannot be matched is listed without a score of ours.

    Args:
        protocols: our scores on the data set, from `polyp_utils.score.protocols.protocol_table`.
        dataset: its catalogue name.
        split: ours; empty if we did not score the test part of a split.

    Returns:
        One row of strings per figure, those trained from scratch first: ``system``,
        ``trained on``, ``same split`` (as ours: yes, no, not known), ``encoder``, ``px``,
        ``protocol``, ``score`` (IoU if no Dice was reported), ``theirs``, ``ours [95 %]``,
        ``difference`` (ours minus theirs), ``settings``, ``trust``. No rows if no figure on the
        data set is known.
    """
    scores = protocols.set_index(["protocol", "score"])
    known = [figure for figure in published_figures() if figure.tested_on == dataset]
    known.sort(key=lambda figure: figure.pretrained)
    return pd.DataFrame([_row(figure, scores, split) for figure in known])


def _row(figure: PublishedFigure, scores: pd.DataFrame, split: str) -> dict[str, str]:
    score, theirs = ("IoU", figure.iou) if math.isnan(figure.dice) else ("Dice", figure.dice)
    ours = difference = "–"
    if figure.protocol:
        interval = Interval.of(scores.loc[(figure.protocol, score.lower())])
        ours, difference = str(interval), f"{interval.mean - theirs:+.3f}"
    return {
        "system": f"{figure.system} ({figure.source})",
        "trained on": f"{figure.trained_on}; split {figure.split}",
        "same split": _same_split(figure.split, split),
        "encoder": "pretrained" if figure.pretrained else "from scratch",
        "px": str(figure.size or NOT_SAID),
        "protocol": figure.protocol or "cannot be matched",
        "score": score,
        "theirs": f"{theirs:.3f}",
        "ours [95 %]": ours,
        "difference": difference,
        "settings": figure.settings or "–",
        "trust": "; ".join(filter(None, (figure.trust, figure.remark))) or "–",
    }


def _same_split(theirs: str, ours: str) -> str:
    if theirs == NOT_SAID or ours.endswith(".csv"):  # the user's lists may be the same
        return "not known"
    return "yes" if theirs == ours else "no"
