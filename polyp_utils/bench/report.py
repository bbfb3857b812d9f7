"""Tables of a measured benchmark."""

import json
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from polyp_utils.bench.agreement import LEVEL, differences
from polyp_utils.bench.folder_findings import folder_findings
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
        gradient was fastest, which its seconds are for.
    """
    rows = bench[(bench["group"] == "layer") & (bench["width"] == width)]
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
        (TFLOP/s of its convolutions alone) and ``share`` (of the ceiling); ``validation``
        (images/s of ours) and ``validation_share``, its share of the time of an epoch with 800
        training and 100 validation frames.
    """
    rows = {}
    at = bench[bench["group"] == "training"].set_index(["width", "what"])
    for width in bench.loc[bench["group"] == "training", "width"].unique():
        row = {loop: at.loc[(width, f"{loop}, training"), "value"] for loop in ("plain", "ours")}
        arithmetic = at.loc[(width, "arithmetic")]
        seconds = arithmetic["batch"] / row["ours"]
        alone = layer_table(bench, width)[list(PASSES)].sum().sum()
        row["ratio"] = row["ours"] / row["plain"]
        row["tflops"] = arithmetic["value"] / seconds / 1e12
        row["ceiling"] = arithmetic["value"] / alone / 1e12
        row["share"] = alone / seconds
        row["validation"] = at.loc[(width, "ours, validation"), "value"]
        per_frame = {"training": 800 / row["ours"], "validation": 100 / row["validation"]}
        row["validation_share"] = per_frame["validation"] / sum(per_frame.values())
        rows[width] = row
    return pd.DataFrame(rows).T.rename_axis("width")


def training_speed() -> pd.DataFrame:
    """Training speed of both loops per published machine and width, formatted as text."""
    rows = []
    for machine, bench, _ in _published():
        at = bench[bench["group"] == "training"].set_index(["width", "what"])["value"].to_dict()
        for row in speed_table(bench).reset_index().to_dict("records"):
            width = int(row["width"])
            memory = [at[width, f"{loop}, peak memory"] / 1024 for loop in ("plain", "ours")]
            rows.append(
                {
                    "machine": machine,
                    "width": width,
                    "plain loop, images/s": f"{row['plain']:.2f}",
                    "ours": f"{row['ours']:.2f}",
                    "ratio": f"{row['ratio']:.1f}×",
                    "TFLOP/s": f"{row['tflops']:.2f}",
                    "of the convolutions' speed": f"{100 * row['share']:.0f} %",
                    "memory, plain / ours (GiB)": " / ".join(f"{m:.1f}" for m in memory),
                }
            )
    return pd.DataFrame(rows)


def inference_speed() -> pd.DataFrame:
    """Inference per published machine, width, image size and runtime, formatted as text."""
    rows = []
    for machine, bench, _ in _published():
        found = bench[bench["group"] == "inference"]
        keys = ["width", "image_size", "what"]
        for (width, size, runtime), group in found.groupby(keys, sort=False):
            at = group.set_index(["batch", "unit"])["value"].to_dict()
            latency = [at[1, f"ms, {p}"] for p in ("p50", "p95")]
            rows.append(
                {
                    "machine": machine,
                    "width": width,
                    "px": size,
                    "runtime and precision": runtime,
                    "images/s, batch 1": f"{at[1, 'images/s']:.1f}",
                    "batch 8": f"{at[8, 'images/s']:.1f}",
                    "latency p50 / p95 (ms)": " / ".join(f"{ms:.0f}" for ms in latency),
                    "MB": f"{at[1, 'MB']:.0f}",
                }
            )
    return pd.DataFrame(rows)


def frame_speed_table(bench: pd.DataFrame) -> pd.DataFrame:
    """Time of a whole frame of 1280×1024 pixels, from its pixels to its mask.

    Returns:
        Index width, image_size, runtime; ``predict`` and ``mask`` (ms; the latter for resizing
        back to the frame's size), ``mask_share`` of both together, ``frames_per_second``.
    """
    rows = bench[bench["group"] == "frame"]
    rows = rows.join(rows["what"].str.extract(r"^(?P<runtime>.+): (?P<part>\w+)$"))
    place = ["width", "image_size", "runtime"]
    table = rows.pivot(index=place, columns="part", values="value")[["predict", "mask"]]
    table = table.loc[pd.MultiIndex.from_frame(rows[place].drop_duplicates())]  # as measured
    whole = table["predict"] + table["mask"]
    return table.assign(mask_share=table["mask"] / whole, frames_per_second=1000 / whole)


def whole_frames() -> pd.DataFrame:
    """`frame_speed_table` of each published machine, formatted as text."""
    rows = []
    for machine, bench, _ in _published():
        for row in frame_speed_table(bench).reset_index().to_dict("records"):
            rows.append(
                {
                    "machine": machine,
                    "width": row["width"],
                    "px": row["image_size"],
                    "runtime and precision": row["runtime"],
                    "network, with resizing (ms)": f"{row['predict']:.1f}",
                    "back to 1280×1024 (ms)": f"{row['mask']:.1f}",
                    "share of that": f"{100 * row['mask_share']:.0f} %",
                    "frames/s": f"{row['frames_per_second']:.1f}",
                }
            )
    return pd.DataFrame(rows)


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


def inference_dice() -> pd.DataFrame:
    """`dice_table` of each published machine, formatted as text."""
    rows = []
    for machine, bench, folder in _published():
        if (folder / "runtimes.csv").is_file():
            table = dice_table(bench, pd.read_csv(folder / "runtimes.csv"))
            for row in table.to_dict("records"):
                speed = row["frames_per_second"]
                rows.append(
                    {
                        "machine": machine,
                        "run": f"`{row['run']}`",
                        "px": row["image_size"],
                        "runtime and precision": row["runtime"],
                        "Dice": f"{row['dice']:.4f}",
                        "difference [95 %]": f"{Interval.of(row, 'delta'):+.4f}",
                        "largest": f"{row['largest']:.3f}",
                        "whole frames/s": "–" if pd.isna(speed) else f"{speed:.1f}",
                    }
                )
    return pd.DataFrame(rows)


def live_runtimes() -> str:
    """`live_findings` of each published machine, a list in Markdown."""
    sentences = [
        f"- {machine}: {sentence}"
        for machine, bench, folder in _published()
        if (folder / "runtimes.csv").is_file()
        for sentence in live_findings(dice_table(bench, pd.read_csv(folder / "runtimes.csv")))
    ]
    return "\n".join(sentences) or "- (No published measurement has both for one network.)"


def folders() -> pd.DataFrame:
    """`folder_findings` of each published machine, formatted as text."""
    rows = []
    for machine, _, folder in _published():
        if (folder / "folder.csv").is_file():
            found = folder_findings(pd.read_csv(folder / "folder.csv"))
            for row in found.to_dict("records"):
                rows.append(
                    {
                        "machine": machine,
                        "weights": f"`{row['run']}`",
                        "way": row["what"],
                        "frames/s": f"{row['frames_per_second']:.1f}",
                        "card's snippet": f"{row['frames_per_second'] / row['ratio']:.1f}",
                        "ratio": f"{row['ratio']:.1f}×",
                        "network (ms)": f"{row['network']:.0f}",
                        "beside it (ms)": f"{row['beside_network']:.0f}",
                        "of the stages' floor": f"{row['of_floor']:.2f}×",
                    }
                )
    return pd.DataFrame(rows)


def equivalence_table() -> pd.DataFrame:
    """Ours against the plain loop per published machine, formatted as text."""
    rows = []
    for machine, _, folder in _published():
        if (folder / "equivalence.csv").is_file():
            for row in differences(pd.read_csv(folder / "equivalence.csv")).to_dict("records"):
                interval = f"{Interval.of(row, 'difference'):+.4f}"
                what = {"loss": "loss at step", "polyp_dice": "polyp Dice after epoch"}[row["what"]]
                rows.append(
                    {
                        "machine": machine,
                        "what": f"{what} {row['at']}",
                        "plain loop": f"{row['plain']:.4f}",
                        "ours": f"{row['ours']:.4f}",
                        f"difference [{100 * LEVEL:.0f} %]": f"{interval}, {row['seeds']} seeds",
                    }
                )
    return pd.DataFrame(rows)


def machines() -> pd.DataFrame:
    """What each published benchmark was measured on, when, and by which commit."""
    rows = []
    for machine, _, folder in _published():
        facts = json.loads((folder / "machine.json").read_text(encoding="utf-8"))
        notebook = (folder / "08_speed.ipynb").relative_to(repo_root() / "results")
        rows.append(
            {
                "machine": machine,
                "hardware": facts["device"],
                "PyTorch": facts["torch"],
                "measured": facts["measured"][:10],
                "commit": facts["commit"][:7],
                "notebook 08": f"[executed]({notebook.as_posix()})",
            }
        )
    return pd.DataFrame(rows)


def _published() -> Iterator[tuple[str, pd.DataFrame, Path]]:
    """Machine, table and folder of each published measurement.

    A machine is named by its folder, since CPUs hide their generation ("AMD EPYC"), with the
    instruction set (a GPU: its name) and the precision.
    """
    root = repo_root() / "results/published/benchmark"
    for path in sorted(root.glob("*/bench.csv")):
        machine = json.loads((path.parent / "machine.json").read_text(encoding="utf-8"))
        *hardware, precision = machine["device"].split(", ")
        kind = hardware[min(1, len(hardware) - 1)]
        yield f"`{path.parent.name}`: {kind}, {precision}", pd.read_csv(path), path.parent
