"""Where and why a run fails: what each frame is like, which polyps were missed, in words too."""

from collections.abc import Collection

import numpy as np
import pandas as pd
import torch

from polyp_utils.data.dataset import PolypDataset
from polyp_utils.data.labels import THRESHOLD
from polyp_utils.data.splits import sessile_ids
from polyp_utils.error_types import find_objects, object_errors, pixel_errors
from polyp_utils.evaluation import Evaluation, polyp_and_classes
from polyp_utils.explore import Frame, describe
from polyp_utils.inference import to_original
from polyp_utils.predictions import Predictions
from polyp_utils.protocols import ORIGINAL, POLYP
from polyp_utils.stats import Interval, mean_interval, spearman_interval

FAILURE_DICE = 0.5
MISSED = "missed"
_MODEL_RESAMPLES = 999
FEW = 10  # frames: with fewer no interval is worth its ink

# What a frame is like, and how to say it.
FEATURES = {
    "area_share": "polyp size (share of the frame)",
    "off_centre": "distance of the polyp from the frame's centre",
    "brightness": "brightness of the frame",
    "contrast": "contrast of the polyp against its surroundings",
    "sharpness": "sharpness of the frame",
    "specular": "share of highlights",
    "n_polyps": "number of polyps",
}
# And what it has or has not.
MARKS = {
    "overlay": "an overlay",
    "touches_border": "contact with the border",
    "sessile": "a flat or sessile polyp (Kvasir-Sessile)",
}


def error_table(evaluation: Evaluation, dataset: PolypDataset) -> pd.DataFrame:
    """A row per image, worst first: polyp scores at the original size, features, components."""
    per_image = evaluation.per_image
    wanted = (per_image["class"] == POLYP) & (per_image["size"] == ORIGINAL)
    rows = []
    for frame_id in per_image.loc[wanted, "id"]:
        image, mask = dataset.original(frame_id)
        _, predicted = _enlarged(evaluation.predictions, frame_id, mask.shape)
        truth = mask > THRESHOLD
        found = {**object_errors(predicted, truth), **pixel_errors(predicted, truth)}
        marks = {"sessile": frame_id in sessile_ids()}
        rows.append({"id": frame_id, **describe(image, mask), **marks, **found})
    scores = per_image.loc[wanted, ["id", "dice", "iou", "precision", "recall"]]
    return scores.merge(pd.DataFrame(rows), on="id").sort_values("dice", ignore_index=True)


def kind_table(evaluation: Evaluation, dataset: PolypDataset) -> pd.DataFrame:
    """A row per true polyp: is it found, and is it given its kind?

    A polyp's true kind is that of most of its pixels; the predicted one is the kind with the
    higher mean probability over those of its pixels that are predicted as polyp.

    Returns:
        ``id``, ``kind``, ``predicted`` (a kind, or ``missed`` as in `find_objects`).
    """
    scheme = evaluation.predictions.scheme
    names = list(scheme.kinds)
    rows = []
    for frame_id in evaluation.per_image["id"].unique():
        mask = dataset.original_mask(frame_id)
        probabilities, predicted = _enlarged(evaluation.predictions, frame_id, mask.shape)
        truth = scheme.encode(torch.from_numpy(mask)[None])[0].numpy()
        per_kind = np.stack([probabilities[list(c)].sum(dim=0) for c in scheme.kinds.values()])
        objects = find_objects(predicted, mask > THRESHOLD)
        for polyp, found in zip(objects.polyps, objects.found, strict=True):
            pixels = [np.isin(truth[polyp], c).sum() for c in scheme.kinds.values()]
            row = {"id": frame_id, "kind": names[int(np.argmax(pixels))], "predicted": MISSED}
            if found:
                row["predicted"] = names[int(per_kind[:, polyp & predicted].mean(axis=1).argmax())]
            rows.append(row)
    return pd.DataFrame(rows, columns=["id", "kind", "predicted"])


def kind_findings(table: pd.DataFrame, kinds: Collection[str]) -> list[str]:
    """How often the kind is right given that the polyp is found, in sentences.

    Args:
        table: of `kind_table`.
        kinds: that the label scheme knows.
    """
    if len(kinds) < 2:
        return ["The label scheme knows one kind of polyp, so there is none to mistake."]
    found = table[table["predicted"] != MISSED]
    if found.empty:
        return [f"None of {len(table)} polyps is found, so no kind is given."]
    right = mean_interval(found["kind"] == found["predicted"])
    usual = found["kind"].mode().iloc[0]
    sentences = [
        f"Of {len(table)} polyps {len(found)} are found; {right} of these are given their right "
        f"kind (calling all of them {usual} would give {(found['kind'] == usual).mean():.3f})."
    ]
    for kind, group in found.groupby("kind"):
        share = mean_interval(group["kind"] == group["predicted"])
        sentences.append(f"Of the {len(group)} {kind} ones that are found: {share}.")
    return sentences


def gallery(
    predictions: Predictions,
    dataset: PolypDataset,
    titles: dict[str, str],
    with_map: bool = False,
) -> list[Frame]:
    """Frames at the original size with truth and prediction, for `plots.sheet`.

    Args:
        predictions: to show.
        dataset: holds the frames.
        titles: frame id -> title, in the order of the gallery.
        with_map: also the probability map.
    """
    frames = []
    for frame_id, title in titles.items():
        image, mask = dataset.original(frame_id)
        probabilities, predicted = _enlarged(predictions, frame_id, mask.shape)
        chance = predictions.scheme.polyp_probability(probabilities[None])[0].numpy()
        polyp_map = chance if with_map else None
        frames.append(Frame(title, image, mask > THRESHOLD, predicted, polyp_map))
    return frames


def _enlarged(
    predictions: Predictions, frame_id: str, size: tuple[int, ...]
) -> tuple[torch.Tensor, np.ndarray]:
    """Probabilities brought to (H, W): (C, H, W), and the polyp mask bool (H, W)."""
    height, width = size
    probabilities = to_original(predictions.read(frame_id), (height, width))
    return probabilities, polyp_and_classes(probabilities, predictions.scheme)[0].numpy()


def by_stratum(table: pd.DataFrame, column: str, bins: int = 4) -> pd.DataFrame:
    """Polyp Dice with its interval per stratum: quantiles of a number, or each value of a category.

    Returns:
        Rows ``stratum``, ``mean``, ``low``, ``high``, ``n``.
    """
    values = table[column]
    if values.dtype.kind == "f" and values.nunique() > bins:
        values = pd.qcut(values, bins, duplicates="drop")
    rows = [
        {"stratum": _label(stratum), **mean_interval(group["dice"])._asdict()}
        for stratum, group in table.groupby(values, observed=True)
    ]
    return pd.DataFrame(rows)


def _label(stratum: object) -> str:
    if isinstance(stratum, pd.Interval):
        return f"{max(stratum.left, 0):.2f}–{stratum.right:.2f}"
    if isinstance(stratum, float):
        return f"{stratum:.2f}"
    return {"True": "yes", "False": "no"}.get(str(stratum), str(stratum))


def correlations(table: pd.DataFrame) -> pd.DataFrame:
    """Spearman correlation of polyp Dice with each numeric feature, strongest first."""
    rows = [
        {"feature": text, **spearman_interval(table[name], table["dice"])._asdict()}
        for name, text in FEATURES.items()
    ]
    result = pd.DataFrame(rows).rename(columns={"mean": "rho"})
    return result.sort_values("rho", key=abs, ascending=False, ignore_index=True)


def dice_model(table: pd.DataFrame, seed: int = 0) -> tuple[pd.DataFrame, float]:
    """Which properties of a frame go with Dice when the others are held: a linear model.

    Args:
        table: of `error_table`.
        seed: of the bootstrap.

    Returns:
        A row per property that varies, largest effect first: ``property``, ``effect`` on Dice of
        one standard deviation (of having it, for marks), with ``low`` and ``high`` (95 %,
        percentile bootstrap over frames); and the share of the variance that all explain. No rows
        with fewer than ten frames per property.
    """
    columns, names = [], []
    scored = table.dropna(subset=["dice", *FEATURES])
    for name, text in {**FEATURES, **MARKS}.items():
        values = scored[name]
        if name in MARKS:
            column = (~values.isin(["none", False])).astype(float)
            varies = min(column.sum(), (1 - column).sum()) >= FEW
        else:
            column = np.log(values) if name == "area_share" else values.astype(float)
            spread = column.std()
            varies = len(column) > 1 and spread > 0
            column = (column - column.mean()) / spread if varies else column
        if varies:
            columns.append(column.to_numpy())
            names.append(text)
    rows = len(scored)
    if not names or rows < FEW * len(names):
        return pd.DataFrame(columns=["property", "effect", "low", "high"]), float("nan")
    x, y = np.column_stack([*columns, np.ones(rows)]), scored["dice"].to_numpy()
    rng = np.random.default_rng(seed)
    drawn = [np.arange(rows), *rng.integers(rows, size=(_MODEL_RESAMPLES, rows))]
    effects = np.array([np.linalg.lstsq(x[r], y[r], rcond=None)[0][:-1] for r in drawn])
    low, high = np.quantile(effects[1:], [0.025, 0.975], axis=0)
    found = {"property": names, "effect": effects[0], "low": low, "high": high}
    fitted = x @ np.linalg.lstsq(x, y, rcond=None)[0]
    explained = 1 - ((y - fitted) ** 2).sum() / ((y - y.mean()) ** 2).sum()
    result = pd.DataFrame(found).sort_values("effect", key=abs, ascending=False, ignore_index=True)
    return result, float(explained)


def findings(table: pd.DataFrame) -> list[str]:
    """What the table says, in sentences computed from it."""
    scored = table.dropna(subset="dice")
    failures = (scored["dice"] < FAILURE_DICE).sum()
    sentences = [
        f"{failures} of {len(scored)} frames score below {FAILURE_DICE}; the mean is "
        f"{mean_interval(scored['dice'])}, the median {scored['dice'].median():.3f}.",
        f"As objects: {table['found'].sum()} of {table['found'].sum() + table['missed'].sum()} "
        f"polyps found, {table['missed'].sum()} missed, {table['hallucinated'].sum()} "
        "hallucinated.",
    ]
    for _, row in correlations(scored).iterrows():
        interval = Interval(row["rho"], row["low"], row["high"], row["n"])
        sentences.append(_correlation_sentence(row["feature"], interval))
    sentences.append(_smallest_sentence(scored))
    for column, text in MARKS.items():
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
    """A fall at one end only is no correlation."""
    if len(table) < 4 * FEW:
        return f"Too few frames ({len(table)}) to look at the smallest quarter of polyps alone."
    limit = table["area_share"].quantile(0.25)
    small = table["area_share"] <= limit
    one, rest = (mean_interval(table.loc[rows, "dice"]) for rows in (small, ~small))
    return (
        f"The smallest quarter of polyps (up to {100 * limit:.1f} % of the frame): {one} "
        f"(n = {one.n}); the others: {rest} (n = {rest.n})."
    )


def _difference_sentence(table: pd.DataFrame, column: str, text: str) -> str:
    has = ~table[column].isin(["none", False])
    if min(has.sum(), (~has).sum()) < FEW:
        return f"Too few frames with or without {text} to compare."
    with_it, without = (mean_interval(table.loc[rows, "dice"]) for rows in (has, ~has))
    return f"With {text}: {with_it} (n = {with_it.n}); without: {without} (n = {without.n})."
