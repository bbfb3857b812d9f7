"""Paired comparisons of systems on the same frames, with the smallest detectable difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from polyp_utils.score.differences import compare_paired, holm
from polyp_utils.score.intervals import Interval, seeds_interval
from polyp_utils.score.protocols import ORIGINAL, polyp_scores

if TYPE_CHECKING:
    from polyp_utils.score.evaluation import Evaluation

LARGE = 0.1  # difference in Dice that is obvious to the eye


def compare_systems(
    one: Evaluation, others: Sequence[Evaluation], score: str = "dice"
) -> pd.DataFrame:
    """Compares one system with each of several, on the frames that both were scored on.

    Args:
        one: the system of interest.
        others: the systems that it is compared with.
        score: a column of `Evaluation.per_image`.

    Returns:
        One row per other system: ``other``, ``difference`` (one minus other) with ``low`` and
        ``high``, ``n``, ``method`` (of the interval), ``p`` (permutation test), ``p_holm``
        (Holm-adjusted) and ``detectable`` (the smallest true difference that the test detects
        with 80 % power).

    Raises:
        ValueError: the systems share no frame.
    """
    rows = []
    for other in others:
        both = _paired(one, other, score)
        groups = [one.groups.get(i, i) for i in both.index]
        found = compare_paired(both["one"], both["other"], groups)
        row = {"other": other.predictions.name, **found.difference._asdict(), "p": found.p}
        rows.append(row | {"detectable": found.detectable})
    table = pd.DataFrame(rows).rename(columns={"mean": "difference"})
    table.insert(len(table.columns) - 1, "p_holm", holm(table["p"]))
    return table


def _paired(one: Evaluation, other: Evaluation, score: str) -> pd.DataFrame:
    """Columns ``one`` and ``other``: scores of the frames that both were scored on, by id."""
    systems = {"one": one, "other": other}
    scores = {name: polyp_scores(system.per_image, score) for name, system in systems.items()}
    both = pd.concat(scores, axis=1, join="inner")
    if both.empty:
        raise ValueError(
            f"{one.predictions.name} and {other.predictions.name} share no frame: compare runs "
            "that were scored on the same part of the same data"
        )
    return both


def disagreements(one: Evaluation, other: Evaluation) -> pd.DataFrame:
    """Frames by how much the polyp Dice of two systems differs, largest difference first.

    Returns:
        Columns ``id``, ``one`` and ``other`` (Dice at the original size), ``difference`` (one
        minus other); frames for which either Dice is NaN are left out.

    Raises:
        ValueError: the systems share no frame.
    """
    both = _paired(one, other, "dice").dropna().rename_axis("id").reset_index()
    both["difference"] = both["one"] - both["other"]
    return both.sort_values("difference", key=abs, ascending=False, ignore_index=True)


def far_apart(table: pd.DataFrame, count: int) -> pd.DataFrame:
    """The ``count`` frames from `disagreements` that each system wins by the widest margin."""
    sides = (table[table["difference"] > 0], table[table["difference"] < 0])
    return pd.concat([side.head(count) for side in sides])


def disagreement_findings(table: pd.DataFrame, one: str, other: str) -> list[str]:
    """How often each of two systems wins, in sentences.

    Args:
        table: from `disagreements`.
        one: name of the first system.
        other: name of the second.
    """
    wins = {one: table["difference"] > 0, other: table["difference"] < 0}
    equal = len(table) - sum(int(won.sum()) for won in wins.values())
    large = table["difference"].abs() > LARGE
    return [
        f"Of {len(table)} frames `{one}` is better on {wins[one].sum()}, `{other}` on "
        f"{wins[other].sum()}; they are equal on {equal}.",
        f"They differ by more than {LARGE} of Dice on {large.sum()}: `{one}` is better on "
        f"{(wins[one] & large).sum()} of these, `{other}` on {(wins[other] & large).sum()}.",
    ]


def over_seeds(
    per_image: Sequence[pd.DataFrame], groups: Mapping[str, int], size: str = ORIGINAL
) -> tuple[Interval, float]:
    """Mean polyp Dice with an interval over seeds and frames, and the SD of the seeds' means.

    Args:
        per_image: the table of each seed's `Evaluation` or run.
        groups: id -> group; frames of one group are resampled together.
        size: as in `polyp_scores`.

    Raises:
        ValueError: the runs were not scored on the same frames.
    """
    columns = [polyp_scores(of_seed, size=size) for of_seed in per_image]
    table = pd.concat(columns, axis=1)
    if any(len(column) != len(table) for column in columns):
        raise ValueError("the runs were scored on different frames: give seeds of one split")
    values = table.to_numpy().T
    interval = seeds_interval(values, [groups[i] for i in table.index])
    return interval, float(np.nanmean(values, axis=1).std(ddof=1))
