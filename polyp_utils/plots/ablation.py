"""Figures of the ablation; each function returns a matplotlib Figure."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from polyp_utils.analyse.ablation_results import AblationResults
from polyp_utils.train.ablation import SETTINGS

_COLOURS = {"card": "0.5", "longer": "#56b4e9", "augmented": "#009e73", "release": "#d55e00"}


def ablation_gains(found: pd.DataFrame) -> Figure:
    """Gain of each choice with its interval, from `ablation_results.comparisons`.

    A choice with one seed is an open circle without an interval; one not yet run has no mark.
    """
    rows = found[found["against"] != ""].reset_index(drop=True)
    figure, axes = plt.subplots(figsize=(9, 0.42 * len(rows) + 1.2))
    axes.axvline(0, color="0.6", linewidth=1)
    for y, row in enumerate(rows.to_dict("records")):
        gain = row["gain"]
        if not gain.n:
            axes.annotate("not run yet", (0, y), (6, 0), textcoords="offset points", va="center")
            continue
        one_seed = np.isnan(gain.low)
        colour = "0.4"
        if not one_seed:
            colour = "#0072b2" if gain.low > 0 else "#d55e00" if gain.high < 0 else "0.4"
            axes.plot([gain.low, gain.high], [y, y], color=colour, linewidth=2)
        axes.plot(gain.mean, y, "o", color=colour, fillstyle="none" if one_seed else "full")
    labels = [f"{row['choice']}\nagainst {row['against']}" for row in rows.to_dict("records")]
    axes.set_yticks(range(len(rows)), labels, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("gain in validation polyp Dice, 95 % interval over seeds and frames")
    axes.set_title("Gain of each choice (open circles: one seed, no interval)", fontsize=10)
    axes.grid(axis="x", alpha=0.3)
    figure.tight_layout()
    return figure


def ablation_curves(results: AblationResults) -> Figure:
    """Validation Dice per epoch, from the card's recipe to ``release``: each seed and the mean.

    At network size, as in training.
    """
    figure, axes = plt.subplots(figsize=(9, 4))
    for name, colour in reversed(_COLOURS.items()):  # the card's, drawn last, hides equal ones
        seeds = [r["val_polyp_dice"] for (n, _), r in results.records.items() if n == name]
        for dice in seeds:
            axes.plot(range(1, len(dice) + 1), dice, color=colour, alpha=0.35, linewidth=0.8)
        if seeds:
            mean = np.nanmean(np.array(seeds, dtype=float), axis=0)
            label = f"{name}: {SETTINGS[name].choice}"
            axes.plot(range(1, len(mean) + 1), mean, color=colour, linewidth=2, label=label)
    axes.set(xlabel="epoch", ylabel="validation polyp Dice, at network size", ylim=(0, 1))
    axes.set_title("From the card's recipe to release (thin lines: single seeds)", fontsize=10)
    axes.legend(fontsize=8, loc="lower right")
    axes.grid(alpha=0.3)
    figure.tight_layout()
    return figure
