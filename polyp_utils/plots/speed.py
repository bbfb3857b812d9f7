"""Figures of the benchmark; each function returns a matplotlib Figure."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from polyp_utils.bench.cost import CostModel
from polyp_utils.bench.layers import PASSES

_COLOURS = {"plain": "0.6", "ours": "#0072b2"}


def training_rates(bench: pd.DataFrame) -> Figure:
    """Images per second of the plain loop and ours, per width, with quartiles; log scale."""
    training = bench[bench["group"] == "training"]
    widths = list(training["width"].unique())
    figure, panels = plt.subplots(1, 2, figsize=(10, 3.6), sharey=True)
    for axes, what in zip(panels, ("training", "validation"), strict=True):
        for index, (loop, colour) in enumerate(_COLOURS.items()):
            rows = training[training["what"] == f"{loop}, {what}"].set_index("width").loc[widths]
            x = np.arange(len(widths)) + 0.2 * (index - 0.5)
            spread = [rows["value"] - rows["low"], rows["high"] - rows["value"]]
            axes.errorbar(x, rows["value"], spread, fmt="o", color=colour, capsize=3, label=loop)
            for place, value in zip(x, rows["value"], strict=True):
                text = {"textcoords": "offset points", "va": "center", "fontsize": 8}
                axes.annotate(f"{value:.3g}", (place, value), (8, 0), **text)
        axes.set_xticks(range(len(widths)), [f"width {width}" for width in widths])
        axes.set(title=what, yscale="log", xlim=(-0.4, len(widths) - 0.4))
        axes.grid(axis="y", alpha=0.3)
    panels[0].set_ylabel("images/s (log scale), quartiles")
    panels[0].legend(fontsize=8, loc="upper left")
    figure.tight_layout()
    return figure


def operation_shares(table: pd.DataFrame) -> Figure:
    """Share of each kind of operation in a step, one bar per width; see `operation_table`."""
    figure, axes = plt.subplots(figsize=(9, 0.5 * table.shape[1] + 1.8))
    shares = 100 * table / table.sum()
    labels = [f"width {width}" for width in table.columns]
    left = np.zeros(len(labels))
    colours = plt.get_cmap("tab20")
    for index, (kind, row) in enumerate(shares.iterrows()):
        axes.barh(labels, row, left=left, color=colours(index), label=kind)
        left += row.to_numpy()
    axes.invert_yaxis()
    axes.set(xlabel="% of a training step", xlim=(0, 100))
    axes.legend(fontsize=8, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.35))
    figure.tight_layout()
    return figure


def layer_times(table: pd.DataFrame) -> Figure:
    """Time of each convolution alone, by pass; see `bench.report.layer_table`."""
    figure, axes = plt.subplots(figsize=(9, 0.26 * len(table) + 1.4))
    left = np.zeros(len(table))
    for name, colour in zip(PASSES, ("#0072b2", "#e69f00", "#009e73"), strict=True):
        milliseconds = 1000 * table[name].fillna(0).to_numpy()
        axes.barh(list(table.index), milliseconds, left=left, color=colour, label=name)
        left += milliseconds
    axes.invert_yaxis()
    axes.set(xlabel="ms per step", title=f"Convolutions alone: {left.sum() / 1000:.2f} s per step")
    axes.legend(fontsize=8)
    figure.tight_layout()
    return figure


def cost_law(points: pd.DataFrame, model: CostModel) -> Figure:
    """Fitted against measured step time and memory; on the line, the fit is exact."""
    figure, panels = plt.subplots(1, 2, figsize=(11, 4.4))
    predict = {"step": model.step_seconds, "memory": model.memory_mib}
    for axes, (what, unit) in zip(panels, (("step", "s"), ("memory", "MiB")), strict=True):
        rows = points[points["what"] == what].sort_values(["width", "image_size", "batch"])
        places = rows[["width", "image_size", "batch"]].astype(int).to_numpy().tolist()
        for (width, size, batch), x in zip(places, rows["value"], strict=True):
            text = f"width {width}, {size} px, batch {batch}"
            axes.plot(x, predict[what](width, size, batch), "o", label=text)
        ends = [rows["value"].min(), rows["value"].max()]
        axes.plot(ends, ends, color="0.6", linestyle="dotted")
        axes.set(xscale="log", yscale="log", xlabel=f"measured ({unit})", ylabel=f"fitted ({unit})")
        axes.set_title(what)
    panels[1].legend(loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize=8)
    figure.tight_layout()
    return figure
