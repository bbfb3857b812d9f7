"""Whether systems differ, on the same frames: paired, with what the test could have shown."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from polyp_utils.evaluation import Evaluation
from polyp_utils.protocols import polyp_scores
from polyp_utils.stats import Interval, compare_paired, holm, seeds_interval


def compare(one: Evaluation, others: Sequence[Evaluation], score: str = "dice") -> pd.DataFrame:
    """Differences of one system from each of several, on the frames that both were scored on.

    Args:
        one: the system of interest.
        others: what it is compared with.
        score: a column of the table per image.

    Returns:
        A row per other: ``other``, ``difference`` (one minus other) with ``low`` and ``high``,
        ``n``, ``p`` (permutation), ``p_holm`` (adjusted for their number) and ``detectable`` (the
        smallest difference that such a test finds with 80 % power).

    Raises:
        ValueError: no frame in common.
    """
    rows = []
    for other in others:
        both = pd.concat(
            [polyp_scores(e.per_image, score) for e in (one, other)], axis=1, join="inner"
        )
        if both.empty:
            raise ValueError(
                f"{one.predictions.name} and {other.predictions.name} share no frame: compare runs "
                "that were scored on the same part of the same data"
            )
        groups = [one.groups.get(i, i) for i in both.index]
        found = compare_paired(both.iloc[:, 0], both.iloc[:, 1], groups)
        row = {"other": other.predictions.name, **found.difference._asdict(), "p": found.p}
        rows.append(row | {"detectable": found.detectable})
    table = pd.DataFrame(rows).rename(columns={"mean": "difference"})
    table.insert(len(table.columns) - 1, "p_holm", holm(table["p"]))
    return table


def over_seeds(per_image: Sequence[pd.DataFrame], score: str = "dice") -> tuple[Interval, float]:
    """Mean over seeds and frames with an interval over both, and the sd of the seeds' means.

    Args:
        per_image: of each seed's `Evaluation` or run.
        score: a column of it.

    Raises:
        ValueError: the runs were not scored on the same frames.
    """
    columns = [polyp_scores(of_seed, score) for of_seed in per_image]
    table = pd.concat(columns, axis=1)
    if any(len(column) != len(table) for column in columns):
        raise ValueError("the runs were scored on different frames: take seeds of one split")
    values = table.to_numpy().T
    return seeds_interval(values), float(np.nanmean(values, axis=1).std(ddof=1))
