"""Agreement of ours and the plain loop, over the seeds of `equivalence.compare_loops`."""

import numpy as np
import pandas as pd
from scipy import stats

from polyp_utils.score.intervals import Interval

LEVEL = 0.9  # confidence level of the difference's interval
MARGIN = 0.02  # Dice: the loops are equivalent if the interval lies within ±MARGIN


def equivalence_findings(found: pd.DataFrame) -> list[str]:
    """What `differences` say, in sentences: the loss, and Dice after the last epoch."""
    loss, *_, dice = found.to_dict("records")
    inside = dice["low"] > -MARGIN and dice["high"] < MARGIN
    verdict = f"{'' if inside else 'not '}within ±{MARGIN}"
    return [
        f"Loss at step {loss['at']}: plain {loss['plain']:.4f}, ours {loss['ours']:.4f}; "
        f"difference {Interval.of(loss, 'difference'):+.4f}. For comparison, ours as it trains "
        f"here and ours in fp32 differ by {loss['rounding']:.4f} (mean absolute difference).",
        f"Validation polyp Dice after epoch {dice['at']}: plain {dice['plain']:.4f}, ours "
        f"{dice['ours']:.4f}; difference {Interval.of(dice, 'difference'):+.4f} "
        f"({100 * LEVEL:.0f} %, {dice['seeds']} seeds): "
        f"{verdict}.",
    ]


def differences(table: pd.DataFrame) -> pd.DataFrame:
    """Ours minus the plain loop, over the seeds.

    Args:
        table: from `equivalence.compare_loops`.

    Returns:
        One row for the ``loss`` at the last kept step, and one for ``polyp_dice`` after each epoch:
        ``what``, ``at``, means ``plain`` and ``ours``, mean ``difference`` with ``low`` and
        ``high`` (Student's t at `LEVEL` over the seeds), ``seeds``, and ``rounding``: the mean
        absolute difference between ours as it trains here and in fp32 (losses only).
    """
    rows = []
    wide = table.pivot(index=["what", "at", "seed"], columns="loop", values="value")
    last = wide.loc["loss"].index.get_level_values("at").max()
    for (what, at), group in wide.groupby(level=["what", "at"]):
        if what == "loss" and at != last:
            continue
        delta = group["ours"] - group["plain"]
        half = stats.t.ppf((1 + LEVEL) / 2, len(delta) - 1) * delta.std() / np.sqrt(len(delta))
        rows.append(
            {
                "what": what,
                "at": at,
                "plain": group["plain"].mean(),
                "ours": group["ours"].mean(),
                "difference": delta.mean(),
                "low": delta.mean() - half,
                "high": delta.mean() + half,
                "seeds": len(delta),
                "rounding": (group["ours"] - group["ours, fp32"]).abs().mean(),
            }
        )
    return pd.DataFrame(rows)
