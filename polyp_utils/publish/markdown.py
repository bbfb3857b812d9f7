"""Tables and numbers as Markdown."""

import re
from typing import Any

import pandas as pd

from polyp_utils.data.labels import POLYP
from polyp_utils.runs.run import Run
from polyp_utils.score.intervals import Interval


def whole_table(table: pd.DataFrame) -> str:
    """A DataFrame as a Markdown table, all columns as text."""
    return markdown_table([str(c) for c in table], table.astype(str).to_numpy().tolist())


def value_text(value: object) -> str:
    """The value of a setting as text."""
    return f"{value:g}" if isinstance(value, float) else str(value) or "empty"


def score_row(summary: dict[str, Any], size: str, score: str, name: str) -> dict[str, Any] | None:
    """The row of a run's summary for one score of one class; None if it has none."""
    for row in summary["scores"]:
        if (row["size"], row["class"], row["score"]) == (size, name, score):
            return row
    return None


def score_text(
    summary: dict[str, Any], size: str, score: str, name: str = POLYP, bold: bool = False
) -> str:
    """A score with its interval, the mean in bold on request; a dash where there is none."""
    row = score_row(summary, size, score, name)
    if row is None:
        return "–"
    text = str(Interval.of(row))
    return re.sub(r"^\S+", r"**\g<0>**", text) if bold else text


def run_name(run: Run) -> str:
    """The name of a run as code."""
    return f"`{run.name}`"


def markdown_table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table of cells that are Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
