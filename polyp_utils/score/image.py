"""All scores of one image, from its probabilities and mask: one row per class."""

import pandas as pd
import torch
from torch import Tensor

from polyp_utils.data.labels import POLYP, Scheme, is_polyp
from polyp_utils.model.predict import polyp_and_classes
from polyp_utils.score.detection import detection_counts
from polyp_utils.score.overlap import (
    Counts,
    confusion_matrix,
    counts_of,
    dice,
    iou,
    precision,
    recall,
    specificity,
)
from polyp_utils.score.protocols import threshold_scores
from polyp_utils.score.saliency import saliency_scores
from polyp_utils.score.surface import surface_scores

OVERLAP = {
    "dice": dice,
    "iou": iou,
    "precision": precision,
    "recall": recall,
    "specificity": specificity,
}


def score_image(
    probabilities: Tensor, levels: Tensor, scheme: Scheme, all_scores: bool = True
) -> tuple[pd.DataFrame, Tensor]:
    """Scores with one row per class (merged polyp first), and the confusion matrix (1, C, C).

    Args:
        probabilities: float (C, H, W).
        levels: the mask's grey levels, uint8 (H, W).
        scheme: the label scheme that the classes belong to.
        all_scores: also score outlines, maps and objects, which takes longer than overlap.
    """
    polyp, classes = polyp_and_classes(probabilities, scheme)
    target = scheme.encode(levels[None])
    truth = is_polyp(levels)
    matrix = confusion_matrix(classes[None], target, len(scheme.classes))
    merged = counts_of(confusion_matrix(polyp[None], truth[None], 2))
    pairs = zip(merged, counts_of(matrix), strict=True)
    counts = Counts(*(torch.cat([m[:, 1:], c], dim=1) for m, c in pairs))
    columns = {name: values[0].numpy() for name, values in counts._asdict().items()}
    columns |= {name: score(counts)[0].numpy() for name, score in OVERLAP.items()}
    table = pd.DataFrame({"class": [POLYP, *scheme.classes], **columns})
    if not all_scores:
        return table, matrix
    masks = [(polyp, truth)] + [(classes == c, target[0] == c) for c in range(len(scheme.classes))]
    surfaces = pd.DataFrame([surface_scores(p.numpy(), t.numpy()) for p, t in masks])
    chance = scheme.polyp_probability(probabilities[None])[0].clamp(0, 1).numpy()
    of_polyp = {
        **saliency_scores(chance, truth.numpy()),
        **threshold_scores(chance, truth.numpy()),
        **detection_counts(polyp.numpy(), truth.numpy()),
    }
    return pd.concat([table, surfaces, pd.DataFrame([of_polyp])], axis=1), matrix
