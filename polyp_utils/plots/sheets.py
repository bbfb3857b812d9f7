"""Frames side by side with outlines: truth in solid green, the prediction in dashed magenta.

A second system's prediction is in dotted blue.
"""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from polyp_utils.analyse.gallery import Frame

TRUTH, PREDICTION, SECOND = "#00e050", "#ff20ff", "#30b0ff"


def outline(axes: Axes, mask: np.ndarray, colour: str, style: str = "solid") -> None:
    """Draws the outline of a bool mask (H, W); nothing if it is empty."""
    if mask.any():
        padded = np.pad(mask, 1)  # closes outlines at the frame's edge
        extent = (np.arange(-1, mask.shape[1] + 1), np.arange(-1, mask.shape[0] + 1))
        axes.contour(*extent, padded, [0.5], colors=colour, linewidths=1.2, linestyles=style)


def sheet(
    frames: Sequence[Frame],
    title: str,
    columns: int = 6,
    names: tuple[str, str] = ("prediction", "second prediction"),
    map_title: str = "P(polyp)",
    map_top: float = 1,
) -> Figure:
    """Frames side by side with outlines; a frame with a map takes a second panel.

    The figure's label is the name of their data set.

    Args:
        frames: to show, in this order.
        title: of the figure.
        columns: number of panels in a row.
        names: names of the systems in the legend.
        map_title: what the maps show.
        map_top: upper end of their colour scale, which starts at 0.
    """
    panels = [(frame, False) for frame in frames]
    if frames and frames[0].probability is not None:
        panels = [(frame, shows_map) for frame in frames for shows_map in (False, True)]
    outlines = (
        ("truth", "truth", TRUTH, "solid"),
        ("prediction", names[0], PREDICTION, "dashed"),
        ("second", names[1], SECOND, "dotted"),
    )
    drawn = [o for o in outlines if any(getattr(frame, o[0]) is not None for frame in frames)]
    rows = -(-len(panels) // columns)
    lines = max((frame.title.count("\n") for frame in frames), default=0)
    size = (2.1 * columns, (2.5 + 0.12 * lines) * rows + 0.8)
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
        for field, _, colour, style in drawn:
            if (mask := getattr(frame, field)) is not None:
                outline(axes, mask, colour, style)
        axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    figure.set_label(frames[0].dataset if frames else "")
    figure.suptitle(title, y=1 - 0.1 / size[1], va="top")
    handles = [Line2D([], [], color=c, ls=style, label=name) for _, name, c, style in drawn]
    figure.legend(handles=handles, loc="lower center", ncols=3, frameon=False)
    figure.tight_layout(rect=(0, 0.35 / size[1], 1, 1 - 0.3 / size[1]))
    if frames and frames[0].probability is not None:
        scale = figure.add_axes((0.78, 0.22 / size[1], 0.2, 0.1 / size[1]))
        colours = ScalarMappable(Normalize(0, map_top), "magma")
        figure.colorbar(colours, scale, orientation="horizontal", ticks=(0, map_top / 2, map_top))
    return figure
