"""What Dice is associated with: strata, correlations and a linear model of frame properties."""

import itertools
import math
from typing import NamedTuple

import numpy as np
import pandas as pd

from polyp_utils.score.intervals import (
    FEW,
    Interval,
    mean_interval,
    percentile_interval,
    resamples,
    spearman_interval,
)

FAILURE_DICE = 0.5

# Numeric properties of a frame, and their names in words.
FEATURES = {
    "area_share": "polyp size (share of the frame)",
    "off_centre": "distance of the polyp from the frame's centre",
    "brightness": "brightness of the frame",
    "contrast": "contrast of the polyp against its surroundings",
    "sharpness": "sharpness of the frame",
    "specular": "share of highlights",
    "n_polyps": "number of polyps",
}
_PERCENT = ("area_share", "specular")
# Marks that a frame has or has not; a table may lack one that its data set cannot have.
MARKS = {
    "overlay": "an overlay",
    "touches_border": "contact with the border",
    "sessile": "a flat or sessile polyp (Kvasir-Sessile)",
}


def _marks(table: pd.DataFrame) -> dict[str, str]:
    return {name: text for name, text in MARKS.items() if name in table}


def _has(values: pd.Series) -> pd.Series:
    """Whether each frame has the mark, bool."""
    return ~values.isin(["none", False])


def _mean(table: pd.DataFrame) -> Interval:
    return mean_interval(table["dice"], groups=table["group"])


def by_stratum(table: pd.DataFrame, column: str, bins: int = 4) -> pd.DataFrame:
    """Mean polyp Dice with its interval per stratum.

    Strata are quantiles of a numeric column, or the values of a categorical one.

    Returns:
        Columns ``stratum``, ``mean``, ``low``, ``high``, ``n``, ``method``.
    """
    values = 100 * table[column] if column in _PERCENT else table[column]
    if values.dtype.kind == "f" and values.nunique() > bins:
        values = _quantiles(values, bins, " %" if column in _PERCENT else "")
    rows = [
        {"stratum": _label(stratum), **_mean(group)._asdict()}
        for stratum, group in table.groupby(values, observed=True)
    ]
    return pd.DataFrame(rows)


def dice_by_strata(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """`by_stratum` of every property in the table, by its name in words."""
    return {text: by_stratum(table, name) for name, text in {**FEATURES, **_marks(table)}.items()}


def _quantiles(values: pd.Series, bins: int, unit: str) -> pd.Series:
    """Each value's quantile bin, named by its edges with as many digits as tell them apart."""
    edges = np.unique(values.quantile(np.linspace(0, 1, bins + 1)))
    digits = max(0, -math.floor(math.log10(np.diff(edges).min())))
    texts = [f"{edge:.{digits}f}" for edge in edges]
    labels = [f"{low}–{high}{unit}" for low, high in itertools.pairwise(texts)]
    return pd.cut(values, edges.tolist(), include_lowest=True, labels=labels)


def _label(stratum: object) -> str:
    if isinstance(stratum, float):
        return f"{stratum:.3g}"
    return {"True": "yes", "False": "no"}.get(str(stratum), str(stratum))


def correlations(table: pd.DataFrame) -> pd.DataFrame:
    """Spearman correlation of polyp Dice with each numeric feature, strongest first."""
    rows = [
        {"feature": text, **spearman_interval(table[name], table["dice"])._asdict()}
        for name, text in FEATURES.items()
    ]
    result = pd.DataFrame(rows).rename(columns={"mean": "rho"})
    return result.sort_values("rho", key=abs, ascending=False, ignore_index=True)


class DiceModel(NamedTuple):
    """A linear model of Dice on frame properties.

    Attributes:
        effects: one row per property that varies, largest effect first: ``property``; ``effect``
            on Dice of one standard deviation (for marks: of having it), the other properties held
            constant; ``low`` and ``high``. No rows with fewer than ten frames per property.
        explained: adjusted R², the share of variance explained, corrected for the number of
            properties; NaN without a model.
        frames: number of frames that are scored and have all properties.
        properties: number of properties that vary.
    """

    effects: pd.DataFrame
    explained: float
    frames: int
    properties: int

    @property
    def findings(self) -> list[str]:
        """The model's results, in sentences."""
        if self.effects.empty:
            return [
                f"No model of Dice is fitted: {self.properties} properties vary, and ten frames "
                f"are needed for each; there are {self.frames}."
            ]
        share = f"{100 * self.explained:.0f} %" if self.explained > 0 else "none"
        sentences = [
            f"Together, the {self.properties} properties that vary explain {share} of the variance "
            f"of Dice over {self.frames} frames (adjusted R² {self.explained:.2f})."
        ]
        clear = (self.effects["low"] > 0) | (self.effects["high"] < 0)
        for row in self.effects[clear].to_dict("records"):
            change = Interval.of(row, "effect")
            of = "" if row["property"] in MARKS.values() else "one standard deviation more of "
            sentences.append(
                f"With the others held, Dice changes by {change} with {of}{row['property']}."
            )
        rest = self.effects.loc[~clear, "property"]
        if len(rest):
            sentences.append(f"No clear effect of their own: {'; '.join(rest)}.")
        return sentences


def dice_model(table: pd.DataFrame, seed: int = 0) -> DiceModel:
    """Fits Dice to frame properties by least squares: each effect with the others held constant.

    Polyp size enters as its logarithm. Intervals: 95 %, percentile bootstrap over groups of frames.

    Args:
        table: from `failures.error_table`.
        seed: for the bootstrap.
    """
    scored = table.dropna(subset=["dice", *FEATURES])
    columns = {}
    for name, text in FEATURES.items():
        values = np.log(scored[name]) if name == "area_share" else scored[name].astype(float)
        if values.std() > 0:
            columns[text] = (values - values.mean()) / values.std()
    for name, text in _marks(scored).items():
        has = _has(scored[name])
        if min(has.sum(), (~has).sum()) >= FEW:
            columns[text] = has.astype(float)
    n, p = len(scored), len(columns)
    effects = pd.DataFrame(columns=["property", "effect", "low", "high"])
    if not p or n < FEW * p:
        return DiceModel(effects, float("nan"), n, p)
    x, y = np.column_stack([*columns.values(), np.ones(n)]), scored["dice"].to_numpy()
    fitted = np.linalg.lstsq(x, y, rcond=None)[0]
    drawn = resamples(scored["group"], np.random.default_rng(seed)).astype(float)
    squares = np.einsum("rn,np,nq->rpq", drawn, x, x, optimize=True)
    refitted = np.linalg.pinv(squares, hermitian=True) @ ((drawn * y) @ x)[..., None]
    rows = []
    for name, effect, refits in zip(columns, fitted, refitted[..., 0].T, strict=False):
        found = percentile_interval(float(effect), refits, n)
        rows.append({"property": name, "effect": effect, "low": found.low, "high": found.high})
    effects = pd.DataFrame(rows).sort_values("effect", key=abs, ascending=False, ignore_index=True)
    unexplained = ((y - x @ fitted) ** 2).sum() / ((y - y.mean()) ** 2).sum()
    return DiceModel(effects, float(1 - unexplained * (n - 1) / (n - p - 1)), n, p)


def driver_findings(table: pd.DataFrame) -> list[str]:
    """What the table says, in sentences computed from it."""
    scored = table.dropna(subset="dice")
    failures = (scored["dice"] < FAILURE_DICE).sum()
    sentences = [
        f"{failures} of {len(scored)} frames score below {FAILURE_DICE}; the mean is "
        f"{_mean(scored)}, the median {scored['dice'].median():.3f}.",
    ]
    for _, row in correlations(scored).iterrows():
        interval = Interval.of(row, "rho")
        sentences.append(_correlation_sentence(row["feature"], interval))
    sentences.append(_smallest_sentence(scored))
    for column, text in _marks(scored).items():
        sentences.append(_difference_sentence(scored, column, text))
    return sentences


def _correlation_sentence(feature: str, rho: Interval) -> str:
    if rho.n < FEW:
        return f"Nothing can be said about the {feature}: {rho.n} frames are too few."
    if np.isnan(rho.low):
        return f"Nothing can be said about the {feature}: it hardly varies here."
    if rho.low <= 0 <= rho.high:
        return f"No steady rise or fall of Dice with the {feature} (Spearman ρ {rho})."
    verb = "rises" if rho.mean > 0 else "falls"
    return f"Dice {verb} with the {feature} (Spearman ρ {rho})."


def _smallest_sentence(table: pd.DataFrame) -> str:
    """Smallest polyps against the rest: a fall at one end only is not a correlation."""
    if len(table) < 4 * FEW:
        return f"Too few frames ({len(table)}) to look at the smallest quarter of polyps alone."
    limit = table["area_share"].quantile(0.25)
    small = table["area_share"] <= limit
    one, rest = (_mean(table[rows]) for rows in (small, ~small))
    return (
        f"The smallest quarter of polyps (up to {100 * limit:.1f} % of the frame): {one} "
        f"(n = {one.n}); the others: {rest} (n = {rest.n})."
    )


def _difference_sentence(table: pd.DataFrame, column: str, text: str) -> str:
    has = _has(table[column])
    if min(has.sum(), (~has).sum()) < FEW:
        return f"Too few frames with or without {text} to compare."
    with_it, without = (_mean(table[rows]) for rows in (has, ~has))
    return f"With {text}: {with_it} (n = {with_it.n}); without: {without} (n = {without.n})."
