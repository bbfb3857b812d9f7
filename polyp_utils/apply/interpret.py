"""What a network's probabilities say of a frame: classes, regions, doubt."""

from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from polyp_utils.analyse.mirrors import combine
from polyp_utils.analyse.uncertainty import self_doubt
from polyp_utils.apply.regions import find_regions
from polyp_utils.deploy.load import Model
from polyp_utils.model.enlarge import to_class_map
from polyp_utils.model.predict import to_original


class Prediction(NamedTuple):
    """What a model says of a frame of (H, W) pixels.

    Attributes:
        classes: the likeliest class per pixel, uint8 (H, W).
        polyp: P(any polyp class), float32 (H, W).
        regions: rows of `find_regions`.
        doubt: of the frame, in [0, 1].
        kinds: per kind of polyp where it stands, bool (H, W).
    """

    classes: np.ndarray
    polyp: np.ndarray
    regions: list[dict[str, Any]]
    doubt: float
    kinds: list[np.ndarray]


def interpret(copies: Tensor, model: Model, size: tuple[int, int]) -> Prediction:
    """Class probabilities of a frame's copies, float32 (K, C, S, S), at the frame's ``size``.

    K is 1, or 4 where the model sees frames mirrored too.
    """
    scheme = model.scheme
    if len(copies) == 1:
        per_class, others = copies[0], []
        doubt = self_doubt(per_class, scheme)
    else:
        mirrored = combine(copies, scheme)
        per_class, doubt = mirrored.mean, mirrored.disagreement
        others = [_enlarged(p, size) for p in scheme.polyp_probability(copies)]
    kinds = {
        kind: _enlarged(per_class[list(indices)].sum(dim=0), size)
        for kind, indices in scheme.kinds.items()
    }
    classes = to_class_map(per_class, size)
    if len(kinds) == 1:
        (polyp,) = kinds.values()
        where = [polyp > 0.5]
    else:
        polyp = np.sum([*kinds.values()], axis=0)
        where = [np.isin(classes, indices) for indices in scheme.kinds.values()]
    return Prediction(classes, polyp, find_regions(polyp, kinds, others), doubt, where)


def _enlarged(p: Tensor, size: tuple[int, int]) -> np.ndarray:
    return to_original(p[None], size)[0].numpy()
