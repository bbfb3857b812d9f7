"""Figures of scores."""

import itertools
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from polyp_utils.score.intervals import bootstrap_means, mean_interval


def score_distributions(per_image: pd.DataFrame, groups: Mapping[str, int]) -> Figure:
    """Distribution of Dice over images per class (one size), with the mean and its interval.

    Args:
        per_image: rows of one size from `Evaluation.per_image`.
        groups: id -> group; frames of one group are resampled together.
    """
    names = list(dict.fromkeys(per_image["class"]))
    figure, axes = plt.subplots(figsize=(9, 0.8 * len(names) + 1.2))
    sns.stripplot(per_image, x="dice", y="class", order=names, color="0.6", size=3, ax=axes)
    for y, name in enumerate(names):
        rows = per_image[per_image["class"] == name]
        mean = mean_interval(rows["dice"], groups=rows["id"].map(groups))
        axes.hlines(y, mean.low, mean.high, color="#d55e00", linewidth=5)
        axes.plot(mean.mean, y, "|", color="k", markersize=16)
        axes.text(1.02, y, f"{mean}, n = {mean.n}", va="center")
    axes.set(xlim=(-0.02, 1.01), xlabel="Dice at the original size, one dot per image", ylabel="")
    axes.set_title("Dice per image, its mean (black) and 95 % interval (orange)")
    figure.tight_layout()
    return figure


def bootstrap_histogram(values: pd.Series, groups: pd.Series) -> Figure:
    """The means of bootstrap samples, with the mean of all values and its 95 % interval.

    Args:
        values: one per image.
        groups: of each, as in `mean_interval`.
    """
    interval = mean_interval(values, groups=groups)
    figure, axes = plt.subplots(figsize=(7, 3.2))
    axes.hist(bootstrap_means(values, groups), bins=60, color="0.7")
    axes.axvspan(interval.low, interval.high, color="#d55e00", alpha=0.2, label="95 % interval")
    axes.axvline(interval.mean, color="k", label=f"mean of the {interval.n} frames")
    axes.set(xlabel="mean polyp Dice of a resample", ylabel="resamples")
    axes.set_title(f"Resamples of {interval.n} frames: mean Dice {interval}")
    axes.legend(fontsize=8)
    figure.tight_layout()
    return figure


def confusion(matrix: np.ndarray, classes: Sequence[str]) -> Figure:
    """Confusion of pixels: predicted classes in per cent of each true class."""
    totals = matrix.sum(axis=1, keepdims=True)
    share = np.divide(100 * matrix, totals, out=np.full(matrix.shape, np.nan), where=totals > 0)
    rows = [f"{c}\n{t / 1e6:.2f} Mpx" for c, t in zip(classes, totals[:, 0], strict=True)]
    figure, axes = plt.subplots(figsize=(1.5 * len(classes) + 2, 1.1 * len(classes) + 1.5))
    sns.heatmap(
        share,
        annot=True,
        fmt=".1f",
        cmap="Blues",
        vmin=0,
        vmax=100,
        xticklabels=list(classes),
        yticklabels=rows,
        cbar_kws={"label": "% of the true class's pixels"},
        ax=axes,
    )
    axes.tick_params(axis="y", rotation=0)
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.set_title("All pixels, original size")
    figure.tight_layout()
    return figure


def reliability(tables: dict[str, pd.DataFrame]) -> Figure:
    """Predicted against observed frequency, one line per `calibration.reliability_table`."""
    figure, (axes, shares) = plt.subplots(2, 1, figsize=(5.5, 6), sharex=True, height_ratios=(3, 1))
    axes.plot([0, 1], [0, 1], color="0.6", linestyle="dotted", label="perfect calibration")
    styles = ("solid", "dashed", "dashdot", "dotted")
    for (name, table), style in zip(tables.items(), itertools.cycle(styles)):
        axes.plot(table["said"], table["true"], marker=".", linestyle=style, label=name)
        shares.plot(table["said"], table["share"], marker=".", linestyle=style)
    axes.set(ylabel="observed share of polyp pixels", ylim=(0, 1), xlim=(0, 1))
    axes.set_title("Calibration of P(polyp)")
    axes.legend(fontsize=8)
    shares.set(xlabel="P(polyp), mean of the bin", ylabel="share of pixels", yscale="log")
    figure.tight_layout()
    return figure


def scores_by_threshold(table: pd.DataFrame) -> Figure:
    """Scores of the mask P(polyp) > threshold, of `calibration.threshold_table`."""
    figure, axes = plt.subplots(figsize=(5.5, 3.4))
    styles = {"dice": "solid", "precision": "dashed", "recall": "dotted"}
    for name, style in styles.items():
        axes.plot(table["threshold"], table[name], color="k", linestyle=style, label=name)
    axes.axvline(0.5, color="#d55e00", linewidth=0.8, label="used here: 0.5")
    axes.set(xlabel="threshold on P(polyp)", ylabel="mean over frames", xlim=(0, 1), ylim=(0, 1))
    axes.set_title("What a threshold trades")
    axes.legend(fontsize=8, loc="lower center", ncols=2)
    figure.tight_layout()
    return figure


def risk_coverage(tables: dict[str, pd.DataFrame]) -> Figure:
    """Mean Dice of the frames kept against their share; see `uncertainty.risk_coverage_table`.

    Args:
        tables: name of the score that orders the frames -> its table.
    """
    figure, axes = plt.subplots(figsize=(5.5, 3.8))
    for (name, table), style in zip(tables.items(), ("solid", "dashed", "dashdot"), strict=False):
        axes.plot(100 * table["coverage"], table["dice"], linestyle=style, label=name)
    best, every = "if ranked by true Dice", next(iter(tables.values()))
    axes.plot(100 * every["coverage"], every["best"], color="0.6", linestyle="dotted", label=best)
    axes.axhline(every["dice"].iloc[-1], color="0.3", linewidth=0.8, label="all frames")
    axes.set(xlabel="frames kept (%)", ylabel="mean polyp Dice of these", ylim=(0, 1.02))
    axes.set_title("Gain from referring the most uncertain frames")
    axes.legend(fontsize=8)
    figure.tight_layout()
    return figure
