"""Figures; each function returns a matplotlib Figure that can be read alone.

Outlines: the truth is green and solid, the prediction magenta and dashed, everywhere.
"""

import itertools
from collections.abc import Collection, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from polyp_utils.errors import FEW, MISSED
from polyp_utils.explore import Frame
from polyp_utils.protocols import POLYP
from polyp_utils.stats import mean_interval

TRUTH, PREDICTION = "#00e050", "#ff20ff"
_PALETTE = "colorblind"


def outline(axes: Axes, mask: np.ndarray, colour: str, style: str = "solid") -> None:
    """Draws the outline of a bool mask (H, W); nothing if it is empty."""
    if mask.any():
        padded = np.pad(mask, 1)  # closes outlines at the frame's border
        extent = (np.arange(-1, mask.shape[1] + 1), np.arange(-1, mask.shape[0] + 1))
        axes.contour(*extent, padded, [0.5], colors=colour, linewidths=1.2, linestyles=style)


def sheet(
    frames: Sequence[Frame],
    title: str,
    columns: int = 6,
    map_title: str = "P(polyp)",
    map_top: float = 1,
) -> Figure:
    """Frames side by side with outlines; a frame with a map takes a second panel, 0 to its top."""
    panels = [(frame, False) for frame in frames]
    if frames and frames[0].probability is not None:
        panels = [(frame, shows_map) for frame in frames for shows_map in (False, True)]
    rows = -(-len(panels) // columns)
    lines = max((frame.title.count("\n") for frame in frames), default=0)
    size = (2.1 * columns, (2.3 + 0.12 * lines) * rows + 0.8)
    figure, grid = plt.subplots(rows, columns, figsize=size, squeeze=False, dpi=72)
    for axes in grid.flat:
        axes.axis("off")
    for axes, (frame, shows_map) in zip(grid.flat, panels, strict=False):
        height, width = frame.truth.shape
        if shows_map:
            axes.imshow(frame.probability, cmap="magma", vmin=0, vmax=map_top)
            axes.set_title(map_title, fontsize=8)
        else:
            axes.imshow(frame.image)
            axes.set_title(frame.title, fontsize=8)
        outline(axes, frame.truth, TRUTH)
        if frame.prediction is not None:
            outline(axes, frame.prediction, PREDICTION, "dashed")
        axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    handles = [Line2D([], [], color=TRUTH, label="truth")]
    if any(frame.prediction is not None for frame in frames):
        handles.append(Line2D([], [], color=PREDICTION, linestyle="dashed", label="prediction"))
    figure.suptitle(title, y=1 - 0.1 / size[1], va="top")
    figure.legend(handles=handles, loc="lower center", ncols=2, frameon=False)
    figure.tight_layout(rect=(0, 0.35 / size[1], 1, 1 - 0.3 / size[1]))
    if frames and frames[0].probability is not None:
        scale = figure.add_axes((0.78, 0.22 / size[1], 0.2, 0.1 / size[1]))
        colours = ScalarMappable(Normalize(0, map_top), "magma")
        figure.colorbar(colours, scale, orientation="horizontal", ticks=(0, map_top / 2, map_top))
    return figure


def frame_sizes(frames: pd.DataFrame) -> Figure:
    """Original width against height, and polyp area per part of the split."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4))
    sns.scatterplot(frames, x="width", y="height", alpha=0.4, s=18, ax=left, color="0.3")
    distinct = frames[["height", "width"]].drop_duplicates()
    left.set(xlabel="width (px)", ylabel="height (px)")
    left.set_title(f"{len(distinct)} different sizes among {len(frames)} frames")
    shares = frames.assign(percent=100 * frames["area_share"])
    sns.ecdfplot(shares, x="percent", hue="part", palette=_PALETTE, ax=right)
    right.set(xlabel="polyp area (% of the frame)", ylabel="share of frames at or below")
    right.set_title(f"Median polyp area {shares['percent'].median():.1f} %")
    figure.tight_layout()
    return figure


def grey_levels(counts: np.ndarray, n_masks: int) -> Figure:
    """How often each grey level occurs in the masks on disk; log scale."""
    other = counts[1:255].sum() / counts.sum()
    figure, axes = plt.subplots(figsize=(9, 3.5))
    axes.bar(np.arange(256), counts, width=1.0, color=["0.3", *["#d55e00"] * 254, "0.3"])
    axes.axvline(127.5, color="0.6", linestyle="dotted")
    axes.text(129, counts.max() / 3, "threshold", color="0.4")
    axes.set(xlabel="grey level in the mask file", ylabel="pixels (log scale)", yscale="log")
    axes.set_ylim(bottom=0.5)
    axes.set_title(f"{100 * other:.2f} % of mask pixels are neither 0 nor 255 ({n_masks} masks)")
    figure.tight_layout()
    return figure


def position_map(share: np.ndarray, n_frames: int) -> Figure:
    """How often each place of the frame is polyp."""
    figure, axes = plt.subplots(figsize=(4.8, 4))
    picture = axes.imshow(100 * share, cmap="viridis", extent=(0, 100, 100, 0))
    figure.colorbar(picture, label="frames with polyp here (%)")
    axes.set(xlabel="from the left (% of width)", ylabel="from the top (% of height)")
    axes.set_title(f"Where polyps are ({n_frames} frames)")
    figure.tight_layout()
    return figure


def class_shares(shares: pd.DataFrame) -> Figure:
    """Share of pixels per class, a row per scheme and class."""
    labels = shares["scheme"] + ": " + shares["class"]
    figure, axes = plt.subplots(figsize=(9, 0.35 * len(shares) + 1.2))
    percent = 100 * shares["share"]
    sns.barplot(x=percent, y=labels, hue=shares["scheme"], legend=False, ax=axes, palette=_PALETTE)
    for container in axes.containers:
        axes.bar_label(container, fmt="%.3g %%", padding=3)  # type: ignore[arg-type]
    axes.set(xlim=(0, 105), xlabel="pixels (%)", ylabel="")
    axes.set_title("What each label scheme makes of the same masks")
    figure.tight_layout()
    return figure


def network_batch(images: np.ndarray, targets: np.ndarray, classes: Sequence[str]) -> Figure:
    """A batch as the network sees it: images float (B, H, W, 3) above class maps (B, H, W)."""
    count = len(images)
    figure, grid = plt.subplots(2, count, figsize=(1.8 * count, 4.2), squeeze=False)
    colours = plt.get_cmap("viridis", len(classes))
    for column in range(count):
        grid[0, column].imshow(images[column])
        limits = {"vmin": -0.5, "vmax": len(classes) - 0.5}
        grid[1, column].imshow(targets[column], cmap=colours, interpolation="nearest", **limits)
    for axes in grid.flat:
        axes.axis("off")
    handles = [
        Line2D([], [], marker="s", linestyle="", color=colours(i), label=name)
        for i, name in enumerate(classes)
    ]
    figure.legend(handles=handles, loc="lower center", ncols=len(classes), frameon=False)
    height, width = targets.shape[1:]
    figure.suptitle(f"One batch as the network sees it: {width}×{height} px, values in [0, 1]")
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    return figure


def augmentations(images: np.ndarray, masks: np.ndarray, title: str) -> Figure:
    """Draws of one frame: images float (B, H, W, 3) with outlines of masks bool (B, H, W)."""
    columns = 6
    rows = -(-len(images) // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(2 * columns, 2 * rows + 0.5), squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, image, mask in zip(grid.flat, images, masks, strict=False):
        axes.imshow(image)
        outline(axes, mask, TRUTH)
        axes.set(xlim=(-0.5, mask.shape[1] - 0.5), ylim=(mask.shape[0] - 0.5, -0.5))
    figure.suptitle(title)
    figure.tight_layout()
    return figure


def rim_widths(study: pd.DataFrame) -> Figure:
    """Dice of a mask that is slightly off, against the width of the rim; see `rim_study`."""
    figure, axes = plt.subplots(figsize=(7, 3.6))
    shifts = [str(c).removeprefix("rim_dice_") for c in study if str(c).startswith("rim_dice_")]
    for shift, style in zip(shifts, ("solid", "dashed", "dotted"), strict=False):
        label = f"rim, mask {shift} px off"
        axes.plot(study["rim_px"], study[f"rim_dice_{shift}"], "o", linestyle=style, label=label)
        polyp = study[f"polyp_dice_{shift}"].iloc[0]
        axes.axhline(polyp, color="0.5", linestyle=style, label=f"whole polyp, {shift} px off")
    widths = zip(study["rim_px"], 100 * study["share"], strict=True)
    labels = [f"{width:g}\n{percent:.1f} %" for width, percent in widths]
    axes.set_xticks(study["rim_px"], labels)
    axes.set(xlabel="width of the rim (px), and its share of all pixels", ylim=(0, 1))
    axes.set(ylabel="mean Dice of a perfect mask, moved")
    axes.set_title("A thin boundary class punishes what no one can see")
    axes.legend(fontsize=7)
    figure.tight_layout()
    return figure


def curves(history: pd.DataFrame) -> Figure:
    """Losses, validation Dice and learning rate per epoch; the best epoch is marked."""
    figure, (losses, scores, rates) = plt.subplots(1, 3, figsize=(14, 3.8))
    epoch = history["epoch"]
    for name, style in (("loss", "solid"), ("ce", "dashed"), ("dice_loss", "dotted")):
        for part, colour in (("train", "0.3"), ("val", "#d55e00")):
            label = f"{part} {name.replace('_', ' ')}"
            values = history[f"{part}_{name}"]
            losses.plot(epoch, values, color=colour, linestyle=style, marker=".", label=label)
    losses.set(xlabel="epoch", ylabel="loss (mean over images)", title="Losses")
    losses.legend(fontsize=7)
    best = int(history["val_polyp_dice"].fillna(-1).argmax())
    columns = [str(c) for c in history if str(c).startswith("val_dice_")]
    for name in [c for c in columns if c != "val_dice_loss"]:
        label = f"class {name.removeprefix('val_dice_')}"
        scores.plot(epoch, history[name], marker=".", linewidth=1, label=label)
    top = history["val_polyp_dice"].iloc[best]
    scores.plot(epoch, history["val_polyp_dice"], color="k", marker=".", label=POLYP)
    scores.plot(epoch.iloc[best], top, "k*", markersize=12)
    scores.set(xlabel="epoch", ylabel="Dice, per image, at network size", ylim=(0, 1))
    scores.set_title(f"Validation: best polyp Dice {top:.3f} in epoch {epoch.iloc[best]}")
    scores.legend(fontsize=7)
    rates.step(epoch, history["lr"], where="mid", color="0.3")
    rates.set(xlabel="epoch", ylabel="learning rate", yscale="log", title="Learning rate")
    for axes in (losses, scores, rates):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.tight_layout()
    return figure


def score_distributions(per_image: pd.DataFrame) -> Figure:
    """Distribution of Dice over images per class (one size), with the mean and its interval."""
    names = list(dict.fromkeys(per_image["class"]))
    figure, axes = plt.subplots(figsize=(9, 0.8 * len(names) + 1.2))
    sns.stripplot(per_image, x="dice", y="class", order=names, color="0.6", size=3, ax=axes)
    for row, name in enumerate(names):
        values = per_image.loc[per_image["class"] == name, "dice"]
        mean = mean_interval(values)
        axes.hlines(row, mean.low, mean.high, color="#d55e00", linewidth=5)
        axes.plot(mean.mean, row, "|", color="k", markersize=16)
        axes.text(1.02, row, f"{mean}, n = {mean.n}", va="center")
    axes.set(xlim=(-0.02, 1.01), xlabel="Dice at the original size, a dot per image", ylabel="")
    axes.set_title("Dice per image, its mean (black) and 95 % interval (orange)")
    figure.tight_layout()
    return figure


def confusion(matrix: np.ndarray, classes: Sequence[str]) -> Figure:
    """Where the pixels of each true class go, per cent of the row."""
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
    """What P(polyp) says against what is true, a line per table of `calibration.reliability`."""
    figure, (axes, shares) = plt.subplots(2, 1, figsize=(5.5, 6), sharex=True, height_ratios=(3, 1))
    axes.plot([0, 1], [0, 1], color="0.6", linestyle="dotted", label="honest")
    styles = ("solid", "dashed", "dashdot", "dotted")
    for (name, table), style in zip(tables.items(), itertools.cycle(styles)):
        axes.plot(table["said"], table["true"], marker=".", linestyle=style, label=name)
        shares.plot(table["said"], table["share"], marker=".", linestyle=style)
    axes.set(ylabel="share of these pixels that is polyp", ylim=(0, 1), xlim=(0, 1))
    axes.set_title("Is P(polyp) what it says?")
    axes.legend(fontsize=8)
    shares.set(xlabel="P(polyp), mean of the bin", ylabel="share of pixels", yscale="log")
    figure.tight_layout()
    return figure


def risk_coverage(tables: dict[str, pd.DataFrame]) -> Figure:
    """Mean Dice of what is kept, against how much is kept; see `uncertainty.risk_coverage`.

    Args:
        tables: name of the score that orders the frames -> its table.
    """
    figure, axes = plt.subplots(figsize=(5.5, 3.8))
    for (name, table), style in zip(tables.items(), ("solid", "dashed", "dashdot"), strict=False):
        axes.plot(100 * table["coverage"], table["dice"], linestyle=style, label=name)
    best, every = "if the worst were known", next(iter(tables.values()))
    axes.plot(100 * every["coverage"], every["best"], color="0.6", linestyle="dotted", label=best)
    axes.axhline(every["dice"].iloc[-1], color="0.3", linewidth=0.8, label="all frames")
    axes.set(xlabel="frames that are kept (%)", ylabel="mean polyp Dice of these", ylim=(0, 1.02))
    axes.set_title("What handing over the most uncertain frames would gain")
    axes.legend(fontsize=8)
    figure.tight_layout()
    return figure


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
