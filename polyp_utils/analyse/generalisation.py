"""How much a system's Dice drops on data sets that it was not trained on."""

from collections.abc import Mapping

import pandas as pd

from polyp_utils.score.differences import compare_unpaired
from polyp_utils.score.evaluation import Evaluation
from polyp_utils.score.intervals import left_tail, mean_interval
from polyp_utils.score.protocols import polyp_scores


def drop_table(home: Evaluation, away: Mapping[str, Evaluation]) -> pd.DataFrame:
    """Polyp Dice on the system's own and on other data sets, and the drop, with intervals.

    Args:
        home: the system on its own test part.
        away: title of each other data set -> the system on it.

    Returns:
        One row per data set, home first: ``tested_on``, ``dice``, ``low``, ``high``, ``n``,
        ``method``, ``below_half``, and ``drop`` (home minus away) with ``drop_low``,
        ``drop_high`` and ``drop_method``.
        Near-duplicates and frames of one sequence are resampled together.
    """
    rows = []
    at_home, home_groups = _scores(home)
    for title, evaluation in {"its own test part": home, **away}.items():
        dice, groups = _scores(evaluation)
        row = {"tested_on": title, **mean_interval(dice, groups=groups)._asdict()}
        row["below_half"] = left_tail(dice)["below_half"]
        if evaluation is not home:
            drop = compare_unpaired(at_home, dice, (home_groups, groups))
            row |= {"drop": drop.mean, "drop_low": drop.low, "drop_high": drop.high}
            row["drop_method"] = drop.method
        rows.append(row)
    return pd.DataFrame(rows).rename(columns={"mean": "dice"})


def _scores(evaluation: Evaluation) -> tuple[pd.Series, list[object]]:
    dice = polyp_scores(evaluation.per_image)
    return dice, [evaluation.groups.get(i, i) for i in dice.index]
