"""Figures; each function returns a matplotlib Figure that can be read alone.

A function comes from its module when it is first asked for, so that who draws one figure does not
wait for the libraries of all.
"""

import importlib
from typing import Any

_HOMES = {
    "ablation": ("ablation_curves", "ablation_gains"),
    "data": (
        "augmentations",
        "class_shares",
        "frame_sizes",
        "grey_levels",
        "position_map",
        "rim_widths",
    ),
    "failures": ("dice_against", "effects", "error_types", "kind_confusion", "strata"),
    "hypotheses": ("hypothesis_clouds", "hypothesis_scores"),
    "inline": ("frames_as_jpeg",),
    "scores": (
        "bootstrap_histogram",
        "confusion",
        "reliability",
        "risk_coverage",
        "score_distributions",
        "scores_by_threshold",
    ),
    "sheets": ("outline", "sheet"),
    "speed": ("cost_law", "layer_times", "operation_shares", "training_rates"),
    "training": ("loss_terms", "network_batch", "training_curves"),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
