"""Tables of a measured benchmark."""

import math
from pathlib import Path

import pandas as pd

from polyp_utils.bench.layers import PASSES, layers_of
from polyp_utils.bench.profile import KINDS
from polyp_utils.common.exceptions import RunError
from polyp_utils.common.paths import repo_root, results_root
from polyp_utils.score.intervals import Interval

NOT_HELD = " (ignores the limit)"  # the runtime used the real CPU, not the emulated one
LIVE = 25  # frames per second of video
LOSS = 0.01  # polyp Dice that speed may cost


def find_benchmark(folder: str = "") -> Path:
    """The folder of a measurement: the one named, else your own, else the last published by name.

    Raises:
        RunError: no measurement is found.
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


def layer_table(bench: pd.DataFrame, width: int) -> pd.DataFrame:
    """Each convolution of the network at one width, by name.

    Returns:
        ``flops`` of a pass, seconds of each of `PASSES`, and the ``way`` in which the weight
        gradient was fastest, which its seconds are for; no rows if none was measured.
    """
    rows = bench[(bench["group"] == "layer") & (bench["width"] == width)]
    if rows.empty:
        return pd.DataFrame(columns=["flops", *PASSES, "way"])
    names = rows["what"].str.split(", ", expand=True).reindex(columns=range(3))
    seconds = rows.assign(layer=names[0], task=names[1]).pivot(
        index="layer", columns="task", values="value"
    )
    size, batch = int(rows["image_size"].iloc[0]), int(rows["batch"].iloc[0])
    layers = {layer.name: layer.flops for layer in layers_of(width, size, batch)}
    table = seconds.reindex(list(layers))[list(PASSES)]
    table.insert(0, "flops", pd.Series(layers))
    return table.assign(way=names[names[1] == PASSES[-1]].set_index(0)[2])


def operation_table(bench: pd.DataFrame) -> pd.DataFrame:
    """Seconds of a training step by kind of operation (index), one column per width."""
    rows = bench[bench["group"] == "profile"]
    table = rows.pivot(index="what", columns="width", values="value").reindex(list(KINDS))
    return table[table.columns[::-1]].rename_axis(index="operations")


def speed_table(bench: pd.DataFrame) -> pd.DataFrame:
    """Training speed per width.

    Returns:
        Index width; ``plain`` and ``ours`` (images/s), ``ratio``, ``tflops`` of ours, ``ceiling``
        (TFLOP/s of its convolutions alone) and ``share`` (of the ceiling), NaN if these were not
        measured; ``validation``
        (images/s of ours) and ``validation_share``, its share of the time of an epoch with 800
        training and 100 validation frames.
    """
    rows = {}
    at = bench[bench["group"] == "training"].set_index(["width", "what"])
    for width in bench.loc[bench["group"] == "training", "width"].unique():
        row = {loop: at.loc[(width, f"{loop}, training"), "value"] for loop in ("plain", "ours")}
        arithmetic = at.loc[(width, "arithmetic")]
        seconds = arithmetic["batch"] / row["ours"]
        alone = layer_table(bench, width)[list(PASSES)].sum().sum() or math.nan
        row["ratio"] = row["ours"] / row["plain"]
        row["tflops"] = arithmetic["value"] / seconds / 1e12
        row["ceiling"] = arithmetic["value"] / alone / 1e12
        row["share"] = alone / seconds
        row["validation"] = at.loc[(width, "ours, validation"), "value"]
        per_frame = {"training": 800 / row["ours"], "validation": 100 / row["validation"]}
        row["validation_share"] = per_frame["validation"] / sum(per_frame.values())
        rows[width] = row
    return pd.DataFrame(rows).T.rename_axis("width")


def frame_speed_table(bench: pd.DataFrame) -> pd.DataFrame:
    """Time of a whole frame of 1280×1024 pixels, from its pixels to its mask.

    Returns:
        Index width, image_size, runtime; ``predict`` and ``mask`` (ms; the latter for resizing
        back to the frame's size), ``mask_share`` of both together, ``frames_per_second``.
    """
    rows = bench[bench["group"] == "frame"]
    rows = rows.join(rows["what"].str.extract(r"^(?P<runtime>.+): (?P<part>\w+)$"))
    place, parts = ["width", "image_size", "runtime"], ["predict", "mask"]
    table = rows.pivot(index=place, columns="part", values="value").reindex(columns=parts)
    table = table.loc[pd.MultiIndex.from_frame(rows[place].drop_duplicates())]  # as measured
    whole = table["predict"] + table["mask"]
    return table.assign(mask_share=table["mask"] / whole, frames_per_second=1000 / whole)


def dice_table(bench: pd.DataFrame, dice: pd.DataFrame) -> pd.DataFrame:
    """Scores of trained weights under each runtime, beside the speed of networks of their size.

    Args:
        bench: table of ``bench.csv``.
        dice: table of ``runtimes.csv``.

    Returns:
        The rows of ``dice`` with ``frames_per_second``, NaN where that was not measured.
    """
    speeds = frame_speed_table(bench)["frames_per_second"]
    return dice.join(speeds, on=["width", "image_size", "runtime"])


def live_findings(table: pd.DataFrame) -> list[str]:
    """Which runtime is the fastest that costs less than `LOSS` of Dice, and is it live, per run.

    Args:
        table: of `dice_table`. The lower end of a difference's interval counts.
    """
    sentences = []
    kept = table[table["low"] > -LOSS].dropna(subset="frames_per_second")
    for run, rows in kept.groupby("run", sort=False):
        (row,) = rows.nlargest(1, "frames_per_second").to_dict("records")
        live = "enough" if row["frames_per_second"] >= LIVE else "too few"
        sentences.append(
            f"`{run}` (width {row['width']}, {row['image_size']} px): of the runtimes that cost "
            f"less than {LOSS} of Dice, {row['runtime']} is the fastest with "
            f"{row['frames_per_second']:.1f} whole frames per second ({live} for live video at "
            f"{LIVE}); Dice {Interval.of(row, 'delta'):+.4f}."
        )
    return sentences
