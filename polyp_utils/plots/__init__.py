"""Figures; each function returns a matplotlib Figure that can be read alone."""

from polyp_utils.plots.data import (
    augmentations,
    class_shares,
    frame_sizes,
    grey_levels,
    position_map,
    rim_widths,
)
from polyp_utils.plots.errors import dice_against, effects, error_types, kinds, strata
from polyp_utils.plots.scores import (
    confusion,
    curves,
    network_batch,
    reliability,
    risk_coverage,
    score_distributions,
)
from polyp_utils.plots.sheets import outline, sheet

__all__ = [
    "augmentations",
    "class_shares",
    "confusion",
    "curves",
    "dice_against",
    "effects",
    "error_types",
    "frame_sizes",
    "grey_levels",
    "kinds",
    "network_batch",
    "outline",
    "position_map",
    "reliability",
    "rim_widths",
    "risk_coverage",
    "score_distributions",
    "sheet",
    "strata",
]
