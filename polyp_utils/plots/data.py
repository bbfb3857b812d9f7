"""Figures of the data."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from polyp_utils.plots.sheets import TRUTH, outline

_PALETTE = "colorblind"


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
    """How often each position in the frame is polyp."""
    figure, axes = plt.subplots(figsize=(4.8, 4))
    picture = axes.imshow(100 * share, cmap="viridis", extent=(0, 100, 100, 0))
    figure.colorbar(picture, label="frames with a polyp here (%)")
    axes.set(xlabel="from the left (% of width)", ylabel="from the top (% of height)")
    axes.set_title(f"Where polyps are ({n_frames} frames)")
    figure.tight_layout()
    return figure


def class_shares(shares: pd.DataFrame) -> Figure:
    """Share of pixels per class, one bar per scheme and class."""
    labels = shares["scheme"] + ": " + shares["class"]
    figure, axes = plt.subplots(figsize=(9, 0.35 * len(shares) + 1.2))
    percent = 100 * shares["share"]
    sns.barplot(x=percent, y=labels, hue=shares["scheme"], legend=False, ax=axes, palette=_PALETTE)
    for container in axes.containers:
        axes.bar_label(container, fmt="%.3g %%", padding=3)  # type: ignore[arg-type]
    axes.set(xlim=(0, 105), xlabel="pixels (%)", ylabel="")
    axes.set_title("Classes of the same masks under each label scheme")
    figure.tight_layout()
    return figure


def rim_widths(study: pd.DataFrame) -> Figure:
    """Dice of a slightly shifted mask against the width of the rim; from `rim_study`."""
    figure, axes = plt.subplots(figsize=(7, 3.6))
    shifts = [str(c).removeprefix("rim_dice_") for c in study if str(c).startswith("rim_dice_")]
    for shift, style in zip(shifts, ("solid", "dashed", "dotted"), strict=False):
        label = f"rim, shifted by {shift} px"
        axes.plot(study["rim_px"], study[f"rim_dice_{shift}"], "o", linestyle=style, label=label)
        polyp = study[f"polyp_dice_{shift}"].iloc[0]
        axes.axhline(polyp, color="0.5", linestyle=style, label=f"polyp, shifted by {shift} px")
    widths = zip(study["rim_px"], 100 * study["share"], strict=True)
    labels = [f"{width:g}\n{percent:.1f} %" for width, percent in widths]
    axes.set_xticks(study["rim_px"], labels)
    axes.set(xlabel="width of the rim (px), and its share of all pixels", ylim=(0, 1))
    axes.set(ylabel="mean Dice of the shifted true mask")
    axes.set_title("A thin boundary class penalises shifts too small to see")
    axes.legend(fontsize=7)
    figure.tight_layout()
    return figure


def augmentations(images: np.ndarray, masks: np.ndarray, title: str) -> Figure:
    """Augmentations of a frame: images float (B, H, W, 3), outlines of masks bool (B, H, W)."""
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
