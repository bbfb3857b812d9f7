"""Failures of a run: a table of errors per image, and confused kinds of polyp."""

from collections.abc import Collection

import numpy as np
import pandas as pd
import torch

from polyp_utils.analyse.failure_types import dice_costs, find_objects, object_errors, pixel_errors
from polyp_utils.analyse.frames import frame_properties
from polyp_utils.analyse.gallery import enlarged
from polyp_utils.data.dataset import PolypDataset
from polyp_utils.data.known import sessile_ids
from polyp_utils.data.labels import MISSED, POLYP, THRESHOLD
from polyp_utils.score.evaluation import Evaluation
from polyp_utils.score.intervals import mean_interval
from polyp_utils.score.protocols import ORIGINAL


def error_table(evaluation: Evaluation, dataset: PolypDataset) -> pd.DataFrame:
    """One row per image, worst first: polyp scores at the original size, properties, errors.

    Returns:
        ``id``, ``group`` (its frames are resampled together), ``dice``, ``iou``, ``precision``,
        ``recall``; the columns of `frame_properties`; ``sessile`` if the data set holds frames of
        Kvasir-Sessile; the columns of `object_errors`, `pixel_errors` and `dice_costs`; and
        ``pixels``, the size of the frame.
    """
    per_image = evaluation.per_image
    wanted = (per_image["class"] == POLYP) & (per_image["size"] == ORIGINAL)
    sessile = sessile_ids() & {*dataset.ids}
    rows = []
    for frame_id in per_image.loc[wanted, "id"]:
        image, mask = dataset.original(frame_id)
        _, predicted = enlarged(evaluation.predictions, frame_id, mask.shape)
        truth = mask > THRESHOLD
        row = {"id": frame_id, "group": evaluation.groups.get(frame_id, frame_id)}
        row |= frame_properties(image, mask) | ({"sessile": frame_id in sessile} if sessile else {})
        row |= object_errors(predicted, truth) | pixel_errors(predicted, truth)
        row |= dice_costs(predicted, truth)
        rows.append(row | {"pixels": mask.size})
    scores = per_image.loc[wanted, ["id", "dice", "iou", "precision", "recall"]]
    return scores.merge(pd.DataFrame(rows), on="id").sort_values("dice", ignore_index=True)


def kind_table(evaluation: Evaluation, dataset: PolypDataset) -> pd.DataFrame:
    """One row per true polyp: whether it is found, and which kind is predicted.

    A polyp's true kind is that of most of its pixels; its predicted kind has the highest mean
    probability over those of its pixels that are predicted as polyp.

    Returns:
        ``id``, ``kind``, ``predicted`` (a kind, or ``missed`` by the rule of `find_objects`).
    """
    scheme = evaluation.predictions.scheme
    names = list(scheme.kinds)
    rows = []
    for frame_id in evaluation.per_image["id"].unique():
        mask = dataset.original_mask(frame_id)
        probabilities, predicted = enlarged(evaluation.predictions, frame_id, mask.shape)
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
    """How often the kind is right, given that the polyp is found, in sentences.

    Args:
        table: from `kind_table`.
        kinds: those of the label scheme.
    """
    if len(kinds) < 2:
        return ["The label scheme knows one kind of polyp, so no kind can be taken for another."]
    found = table[table["predicted"] != MISSED]
    if found.empty:
        return [f"None of {len(table)} polyps is found, so no kind is predicted."]
    right = mean_interval(found["kind"] == found["predicted"])
    usual = found["kind"].mode().iloc[0]
    sentences = [
        f"{len(found)} of {len(table)} polyps are found; of these, {right} are given the right "
        f"kind (calling all of them {usual} would give {(found['kind'] == usual).mean():.3f})."
    ]
    for kind, group in found.groupby("kind"):
        share = mean_interval(group["kind"] == group["predicted"])
        sentences.append(f"Of the {len(group)} found that are {kind}: {share}.")
    return sentences
