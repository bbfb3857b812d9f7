"""Figures of the study of the model card; each function returns a matplotlib Figure."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse

from polyp_utils.score.literature import CARD
from polyp_utils.study.card_sums import AVERAGES, LOSSES
from polyp_utils.study.hypotheses import LOSS, TEST, VALIDATION, Hypothesis

_MARKERS = "osD^v"  # by width
_CLOUD = 5.991  # squared Mahalanobis distance that holds 95 % of a 2-D normal distribution


def hypothesis_scores(found: Sequence[Hypothesis]) -> Figure:
    """Our values of the card's three figures under every way, with intervals; lines: the card's."""
    height = 0.13 * len(found) * len(AVERAGES) + 2.2
    figure, axes = plt.subplots(1, 3, figsize=(13, height), layout="constrained")
    every: tuple[list[str], ...] = ([*AVERAGES], [*AVERAGES], [*LOSSES])
    for panel, name, ways in zip(axes, (VALIDATION, TEST, LOSS), every, strict=True):
        for index, (h, style) in enumerate(zip(found, _styles(found), strict=True)):
            intervals = [h.interval(name, way) for way in ways]
            y = np.arange(len(ways)) + 0.8 * ((index + 0.5) / len(found) - 0.5)
            mean = np.array([i.mean for i in intervals])
            bars = [mean - [i.low for i in intervals], [i.high for i in intervals] - mean]
            panel.errorbar(mean, y, xerr=bars, linestyle="", label=h.name, **style)
        panel.axvline(CARD[name], color="k", linestyle="dashed", label="model card")
        panel.set_yticks(range(len(ways)), ways, fontsize=8)
        panel.set(ylim=(len(ways) - 0.5, -0.5), xlabel=name)
        for edge in range(1, len(ways)):
            panel.axhline(edge - 0.5, color="0.9", linewidth=0.8)
    axes[1].sharey(axes[0])
    axes[1].tick_params(labelleft=False)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    figure.suptitle(
        "The card's figures, and ours under each average or loss rule [95 %]; hollow: 1 seed"
    )
    return figure


def hypothesis_clouds(found: Sequence[Hypothesis], averages: Sequence[str], lost: str) -> Figure:
    """Test Dice against test loss: 95 % ellipses of the resamples, each seed, and the card.

    Args:
        found: the hypotheses.
        averages: names from `AVERAGES`, one panel each.
        lost: a name from `LOSSES`.
    """
    size = (5.2 * len(averages), 4.8)
    figure, axes = plt.subplots(1, len(averages), figsize=size, sharey=True, squeeze=False)
    for panel, averaged in zip(axes[0], averages, strict=True):
        for h, style in zip(found, _styles(found), strict=True):
            _cloud(panel, h, averaged, lost, style)
        panel.plot(CARD[TEST], CARD[LOSS], "k*", markersize=14, label="model card", linestyle="")
        panel.set(xlabel=TEST, title=f"Dice: {averaged}")
    axes[0, 0].set_ylabel(f"{LOSS}, {lost}")
    axes[0, -1].legend(fontsize=7)
    figure.tight_layout()
    return figure


def _cloud(axes: Axes, h: Hypothesis, averaged: str, lost: str, style: dict[str, object]) -> None:
    drawn = h.drawn[[(TEST, averaged), (LOSS, lost)]].to_numpy()
    values, vectors = np.linalg.eigh(np.cov(drawn.T))
    width, height = 2 * np.sqrt(_CLOUD * values)
    angle = np.degrees(np.arctan2(vectors[1, 0], vectors[0, 0]))
    centre = tuple(drawn.mean(axis=0))
    axes.add_patch(
        Ellipse(centre, width, height, angle=angle, fill=False, edgecolor=str(style["color"]))
    )
    x, y = h.whole[TEST, averaged], h.whole[LOSS, lost]
    kept = {key: style[key] for key in ("color", "marker", "mfc")}
    axes.plot(x, y, linestyle="", label=h.name, **kept)  # type: ignore[arg-type]


def _styles(found: Sequence[Hypothesis]) -> list[dict[str, object]]:
    """Colour by scheme, marker by width."""
    schemes = list(dict.fromkeys(h.scheme for h in found))
    widths = sorted({h.width for h in found})
    colours = sns.color_palette("colorblind", len(schemes)).as_hex()
    return [
        {
            "color": colours[schemes.index(h.scheme)],
            "marker": _MARKERS[widths.index(h.width) % len(_MARKERS)],
            "mfc": "white" if len(h.whole) == 1 else colours[schemes.index(h.scheme)],
            "markersize": 5,
            "elinewidth": 1.2,
        }
        for h in found
    ]
