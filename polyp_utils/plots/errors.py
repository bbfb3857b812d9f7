"""Where and why a run fails."""

from collections.abc import Collection

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from polyp_utils.errors import FEW, MISSED


def kinds(table: pd.DataFrame, names: Collection[str]) -> Figure:
    """What becomes of each true polyp: counts of predicted kinds and misses, a row per kind."""
    counts = pd.crosstab(table["kind"], table["predicted"]).reindex(
        index=list(names), columns=[*names, MISSED], fill_value=0
    )
    figure, axes = plt.subplots(figsize=(1.6 * len(names) + 3, 0.9 * len(names) + 1.6))
    sns.heatmap(counts, annot=True, fmt="d", cmap="Blues", vmin=0, cbar=False, ax=axes)
    axes.tick_params(axis="y", rotation=0)
    axes.set(xlabel="predicted", ylabel="true kind", title=f"{len(table)} true polyps, by kind")
    figure.tight_layout()
    return figure


def dice_against(table: pd.DataFrame, features: dict[str, str]) -> Figure:
    """Polyp Dice of each image against numeric features, with a rolling median."""
    figure, grid = plt.subplots(1, len(features), figsize=(3.4 * len(features), 3.4), sharey=True)
    for axes, (name, text) in zip(np.atleast_1d(grid), features.items(), strict=True):
        ordered = table.dropna(subset=[name, "dice"]).sort_values(name)
        axes.scatter(ordered[name], ordered["dice"], s=14, color="0.5", alpha=0.7)
        window = max(5, len(ordered) // 5)
        median = ordered["dice"].rolling(window, center=True, min_periods=window // 2).median()
        axes.plot(ordered[name], median, color="#d55e00")
        axes.set_xlabel(text, fontsize=8)
        axes.set_ylim(-0.02, 1.02)
    np.atleast_1d(grid)[0].set_ylabel("polyp Dice, original size")
    scored = table["dice"].notna().sum()
    figure.suptitle(f"Dice against properties of the frame ({scored} images, line: median)")
    figure.tight_layout()
    return figure


def strata(tables: dict[str, pd.DataFrame]) -> Figure:
    """Mean polyp Dice with its 95 % interval per stratum; a panel per grouping.

    Strata of fewer than `FEW` frames are hollow and have no interval.
    """
    width = 3.6 * len(tables)
    figure, grid = plt.subplots(1, len(tables), figsize=(width, 3.6), sharey=True, squeeze=False)
    for axes, (title, table) in zip(grid[0], tables.items(), strict=True):
        x = np.arange(len(table))
        errors = np.abs(table[["low", "high"]].to_numpy().T - table["mean"].to_numpy())
        enough = (table["n"] >= FEW).to_numpy()
        bars = np.nan_to_num(errors)[:, enough]
        style = {"fmt": "o", "color": "#0072b2", "capsize": 3}
        axes.errorbar(x[enough], table.loc[enough, "mean"], bars, **style)
        axes.plot(x[~enough], table.loc[~enough, "mean"], "o", color="#0072b2", mfc="white")
        labels = [f"{row.stratum}\nn={row.n}" for row in table.itertuples()]
        axes.set_xticks(x, labels, fontsize=7)
        axes.set(title=title, ylim=(0, 1.02), xlim=(-0.5, len(table) - 0.5))
    grid[0, 0].set_ylabel(f"mean polyp Dice [95 %], hollow: n < {FEW}")
    figure.tight_layout()
    return figure
