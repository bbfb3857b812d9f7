"""Tables from a measured benchmark."""

from pathlib import Path

import pandas as pd

from polyp_utils.bench.ceiling import PASSES
from polyp_utils.config import repo_root, results_root
from polyp_utils.runs import RunError


def find_benchmark(folder: str = "") -> Path:
    """The folder of a measurement: the one named, else yours, else the newest published one.

    Raises:
        RunError: there is none.
    """
    published = sorted((repo_root() / "results/published/benchmark").glob("*/bench.csv"))
    places = [Path(folder), repo_root() / folder] if folder else [results_root() / "benchmark"]
    places += [path.parent for path in reversed(published)] if not folder else []
    for place in places:
        if (place / "bench.csv").is_file():
            return place
    raise RunError(
        f"no bench.csv in {', '.join(map(str, places))}: measure with python -m polyp_utils bench"
    )


def speed_table(bench: pd.DataFrame, layers: pd.DataFrame) -> pd.DataFrame:
    """Training speed per width.

    Returns:
        Index width; ``plain`` and ``ours`` (images/s), ``ratio``, ``tflops`` of ours, ``ceiling``
        (TFLOP/s of its convolutions alone) and ``share`` (of the ceiling).
    """
    rows = {}
    at = bench[bench["group"] == "training"].set_index(["width", "what"])
    for width in bench.loc[bench["group"] == "training", "width"].unique():
        row = {loop: at.loc[(width, f"{loop}, training"), "value"] for loop in ("plain", "ours")}
        arithmetic = at.loc[(width, "arithmetic")]
        seconds = arithmetic["batch"] / row["ours"]
        alone = layers.loc[layers["width"] == width, list(PASSES)].sum().sum()
        row["ratio"] = row["ours"] / row["plain"]
        row["tflops"] = arithmetic["value"] / seconds / 1e12
        row["ceiling"] = arithmetic["value"] / alone / 1e12
        rows[width] = {**row, "share": alone / seconds}
    return pd.DataFrame(rows).T.rename_axis("width")


def layer_table(layers: pd.DataFrame) -> pd.DataFrame:
    """Time (ms) and speed (TFLOP/s) of each pass of each convolution of one width."""
    table = layers.set_index("layer")
    found = {}
    for name in PASSES:
        found[f"{name}, ms"] = 1000 * table[name]
        found[f"{name}, TFLOP/s"] = table["flops"] / table[name] / 1e12
    return pd.DataFrame(found)
