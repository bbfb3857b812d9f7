"""Tables of the published benchmarks, one row per machine and case, formatted as text."""

import json
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from polyp_utils.bench.agreement import LEVEL, differences
from polyp_utils.bench.folder_findings import folder_findings
from polyp_utils.bench.report import dice_table, frame_speed_table, live_findings, speed_table
from polyp_utils.common.paths import repo_root
from polyp_utils.score.intervals import Interval


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
                    "of the convolutions' speed": _percent(row["share"]),
                    "memory, plain / ours (GiB)": " / ".join(f"{m:.1f}" for m in memory),
                }
            )
    return pd.DataFrame(rows)


def _percent(share: float) -> str:
    return "–" if pd.isna(share) else f"{100 * share:.0f} %"


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
