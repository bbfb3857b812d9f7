"""Figures of where and why a run fails."""

from collections.abc import Collection

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from polyp_utils.analyse.dice_drivers import MARKS, DiceModel
from polyp_utils.analyse.failure_types import BANDS, OBJECTS
from polyp_utils.data.labels import MISSED
from polyp_utils.score.intervals import FEW, Interval

_POINT, _LINE = "#0072b2", "#d55e00"


def kind_confusion(table: pd.DataFrame, names: Collection[str]) -> Figure:
    """Counts of predicted kinds and misses among true polyps, one row per true kind."""
    counts = pd.crosstab(table["kind"], table["predicted"]).reindex(
        index=list(names), columns=[*names, MISSED], fill_value=0
    )
    figure, axes = plt.subplots(figsize=(1.6 * len(names) + 3, 0.9 * len(names) + 1.6))
    sns.heatmap(counts, annot=True, fmt="d", cmap="Blues", vmin=0, cbar=False, ax=axes)
    axes.tick_params(axis="y", rotation=0)
    axes.set(xlabel="predicted", ylabel="true kind", title=f"{len(table)} true polyps, by kind")
    figure.tight_layout()
    return figure


def error_types(bands: pd.DataFrame, table: pd.DataFrame) -> Figure:
    """Where wrong pixels lie, from `failure_types.band_table`, and counts of object outcomes."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 3.4), width_ratios=(3, 2))
    shares = 100 * bands.pivot(index="frames", columns="band", values="share")
    names = bands["frames"].unique()[::-1]  # so that the first is on top
    start = np.zeros(len(names))
    colours = ("#d55e00", "#f0b48a", "#9ecae1", "#0072b2")  # lost: orange, spilt: blue, rim: pale
    for band, colour in zip(BANDS.values(), colours, strict=True):
        width = shares.loc[names, band].fillna(0).to_numpy()
        bars = left.barh(names, width, left=start, color=colour, label=band)
        labels = [f"{w:.0f} %" if w >= 4 else "" for w in width]
        left.bar_label(bars, labels, label_type="center", fontsize=8)
        start += width
    per_row = bands.groupby("frames")[["n", "wrong"]].first().loc[names]
    ticks = [f"{i}\n{r.wrong:.1%} wrong, n={r.n:.0f}" for i, r in per_row.iterrows()]
    left.set_yticks(range(len(names)), ticks, fontsize=8)
    left.set(xlabel="share of the wrong area (%)", xlim=(0, 100), title="Where wrong pixels lie")
    left.legend(fontsize=8, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.2), frameon=False)
    counts = table[list(OBJECTS)].sum()
    bars = right.barh(list(OBJECTS.values()), counts, color=["0.6", *[_LINE] * (len(OBJECTS) - 1)])
    right.bar_label(bars, padding=2, fontsize=8)
    right.invert_yaxis()
    polyps = counts["found"] + counts["missed"]
    right.set(xlabel="count", xlim=(0, 1.12 * max(1, counts.max())))
    right.set_title(f"Outcomes of {polyps} polyps in {len(table)} frames")
    right.tick_params(axis="y", labelsize=8)
    figure.tight_layout()
    return figure


def dice_against(
    table: pd.DataFrame, features: dict[str, str], ceiling: Interval | None = None
) -> Figure:
    """Polyp Dice of each image against numeric features, with a rolling median.

    Args:
        table: from `failures.error_table`.
        features: column -> label, one panel each.
        ceiling: Dice between two annotations of one frame, drawn as a line.
    """
    figure, grid = _grid(len(features), 3)
    for axes, (name, text) in zip(grid, features.items(), strict=True):
        ordered = table.dropna(subset=[name, "dice"]).sort_values(name)
        axes.scatter(ordered[name], ordered["dice"], s=14, color="0.5", alpha=0.7)
        window = max(5, len(ordered) // 5)
        median = ordered["dice"].rolling(window, center=True, min_periods=window // 2).median()
        axes.plot(ordered[name], median, color=_LINE, label="rolling median")
        axes.set_xlabel(text, fontsize=9)
    scored = table["dice"].notna().sum()
    return _finished(
        figure, grid, f"Dice against properties of the frame ({scored} images)", ceiling
    )


def strata(tables: dict[str, pd.DataFrame], ceiling: Interval | None = None) -> Figure:
    """Mean polyp Dice with its 95 % interval per stratum, one panel per property.

    Strata of fewer than `FEW` frames are hollow and have no interval.

    Args:
        tables: name of the property -> its strata, from `dice_drivers.by_stratum`.
        ceiling: Dice between two annotations of one frame, drawn as a line.
    """
    figure, grid = _grid(len(tables), 4)
    for axes, (title, table) in zip(grid, tables.items(), strict=True):
        x = np.arange(len(table))
        errors = np.abs(table[["low", "high"]].to_numpy().T - table["mean"].to_numpy())
        enough = (table["n"] >= FEW).to_numpy()
        bars = np.nan_to_num(errors)[:, enough]
        axes.errorbar(x[enough], table.loc[enough, "mean"], bars, fmt="o", color=_POINT, capsize=3)
        axes.plot(x[~enough], table.loc[~enough, "mean"], "o", color=_POINT, mfc="white")
        labels = [f"{row.stratum}\nn={row.n}" for row in table.itertuples()]
        axes.set_xticks(x, labels, fontsize=7)
        axes.set_xlim(-0.5, len(table) - 0.5)
        axes.set_title(title, fontsize=9)
    title = f"Mean polyp Dice [95 %] per stratum; hollow: fewer than {FEW} frames"
    return _finished(figure, grid, title, ceiling)


def effects(model: DiceModel) -> Figure:
    """Forest plot: change in Dice with each property, the others held constant."""
    table = model.effects
    figure, axes = plt.subplots(figsize=(9, 0.35 * len(table) + 1.6))
    rows = np.arange(len(table))
    clear = ((table["low"] > 0) | (table["high"] < 0)).to_numpy()
    for chosen, colour, text in ((clear, _POINT, "clear"), (~clear, "0.6", "unclear")):
        axes.hlines(rows[chosen], table["low"][chosen], table["high"][chosen], color=colour)
        axes.plot(table["effect"][chosen], rows[chosen], "o", color=colour, label=text)
    axes.axvline(0, color="0.3", linewidth=0.8)
    ticks = [text if text in MARKS.values() else f"{text}, per SD" for text in table["property"]]
    axes.set_yticks(rows, ticks, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("change in Dice [95 %], other properties held constant")
    axes.set_title(
        f"Associations with Dice: linear model, {model.frames} frames, "
        f"adjusted R² {model.explained:.2f}"
    )
    figure.legend(fontsize=8, loc="lower left", frameon=False)
    figure.tight_layout()
    return figure


def _grid(panels: int, columns: int) -> tuple[Figure, list[Axes]]:
    """Panels that share Dice as their y axis; unused places stay empty."""
    columns = min(columns, panels)
    rows = -(-panels // columns)
    size = (3.6 * columns, 2.9 * rows + 0.6)
    figure, grid = plt.subplots(rows, columns, figsize=size, sharey=True, squeeze=False)
    for axes in grid.flat[panels:]:
        axes.remove()
    for axes in grid[:, 0]:
        axes.set_ylabel("polyp Dice, original size")
    return figure, list(grid.flat[:panels])


def _finished(figure: Figure, grid: list[Axes], title: str, ceiling: Interval | None) -> Figure:
    for axes in grid:
        axes.set_ylim(-0.02, 1.02)
        if ceiling:
            text = f"two annotations of one frame agree at {ceiling} ({ceiling.n} frames)"
            axes.axhspan(ceiling.low, ceiling.high, color="#009e73", alpha=0.15, linewidth=0)
            axes.axhline(ceiling.mean, color="#009e73", linestyle="dashed", label=text)
    handles, labels = grid[0].get_legend_handles_labels()
    height = figure.get_figheight()
    if handles:
        figure.legend(handles, labels, loc="lower center", ncols=2, frameon=False)
    figure.suptitle(title)
    figure.tight_layout(rect=(0, 0.3 / height if handles else 0, 1, 1))
    return figure
