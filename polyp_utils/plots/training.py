"""Figures of training: a batch, and the curves."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from polyp_utils.analyse.loss_terms import TERMS
from polyp_utils.data.labels import POLYP

_CE, _DICE = "#0072b2", "#d55e00"


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


def loss_terms(missed: pd.DataFrame, pulls: Mapping[str, pd.DataFrame]) -> Figure:
    """What cross-entropy and Dice loss ask for; see `analyse.loss_terms`.

    Args:
        missed: of `cost_of_missing`.
        pulls: what the polyp is like -> its table of `pull_on_polyp`.
    """
    figure, (cost, pull) = plt.subplots(1, 2, figsize=(12, 3.8))
    ce, dice = TERMS
    for name, colour in ((ce, _CE), (dice, _DICE)):
        cost.plot(100 * missed["share"], missed[name], ".", color=colour, label=name)
    every = next(iter(pulls.values()))
    pull.plot(every["chance"], every[ce], color=_CE, label=f"{ce}, any polyp")
    for (polyp, table), style in zip(pulls.items(), ("solid", "dashed"), strict=False):
        pull.plot(table["chance"], table[dice], color=_DICE, ls=style, label=f"{dice}, {polyp}")
    cost.set(xlabel="polyp, % of the frame (log scale)", ylabel="loss", xscale="log")
    cost.set_title(f"{len(missed)} polyps overlooked: small ones cost little cross-entropy")
    pull.set(xlabel="P(polyp) that a polyp pixel is given (log scale)", xscale="log", yscale="log")
    pull.set(
        ylabel="pull on its logit (log scale)",
        title="Sure and wrong, at the left: there the Dice loss lets go",
    )
    for axes in (cost, pull):
        axes.legend(fontsize=8)
    figure.tight_layout()
    return figure


def training_curves(history: pd.DataFrame, kept: int) -> Figure:
    """Losses, validation Dice and learning rate per epoch; the kept epoch is marked."""
    figure, (losses, scores, rates) = plt.subplots(1, 3, figsize=(14, 3.8))
    epoch = history["epoch"]
    for name, style in (("loss", "solid"), ("ce", "dashed"), ("dice_loss", "dotted")):
        for part, colour in (("train", "0.3"), ("val", "#d55e00")):
            label = f"{part} {name.replace('_', ' ')}"
            values = history[f"{part}_{name}"]
            losses.plot(epoch, values, color=colour, linestyle=style, marker=".", label=label)
    losses.set(xlabel="epoch", ylabel="loss (mean over images)", title="Losses")
    losses.legend(fontsize=7, handlelength=4)  # long enough to tell dashes from a line
    columns = [str(c) for c in history if str(c).startswith("val_dice_")]
    for name in [c for c in columns if c != "val_dice_loss"]:
        label = f"class {name.removeprefix('val_dice_')}"
        scores.plot(epoch, history[name], marker=".", linewidth=1, label=label)
    top = history["val_polyp_dice"].iloc[kept - 1]
    scores.plot(epoch, history["val_polyp_dice"], color="k", marker=".", label=POLYP)
    scores.plot(kept, top, "k*", markersize=12)
    scores.set(xlabel="epoch", ylabel="Dice, per image, at network size", ylim=(0, 1))
    scores.set_title(f"Validation: epoch {kept} is kept, polyp Dice {top:.3f}")
    scores.legend(fontsize=7)
    rates.step(epoch, history["lr"], where="mid", color="0.3")
    rates.set(xlabel="epoch", ylabel="learning rate", yscale="log", title="Learning rate")
    for axes in (losses, scores, rates):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.tight_layout()
    return figure
