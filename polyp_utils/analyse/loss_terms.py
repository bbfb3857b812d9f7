"""What the two terms of the loss ask for, seen on real masks with a network that is made up.

One logit, so that the Dice loss is that of the polyp alone; the losses are those of training.
"""

from collections.abc import Iterable

import numpy as np
import pandas as pd
import torch
from scipy import special
from torch import Tensor

from polyp_utils.model.losses import CombinedLoss

NO = 0.01  # P(polyp) of a network that is sure there is none
TERMS = ("cross-entropy", "Dice loss")
_CHANCES = tuple(special.expit(np.linspace(-7, 5, 49)))


def cost_of_missing(polyps: Iterable[Tensor]) -> pd.DataFrame:
    """Both losses of a network that overlooks every polyp: P(polyp) is `NO` at each pixel.

    Args:
        polyps: masks bool (H, W); one without a polyp is left out.

    Returns:
        A row per frame, by its place among the masks: ``share`` of it that is polyp, and a column
        per loss of `TERMS`.
    """
    rows = {}
    for place, polyp in enumerate(polyps):
        if polyp.any():
            losses = CombinedLoss().terms(_logits(polyp, NO), polyp[None].long())
            values = (float(loss) for loss in losses)
            rows[place] = (float(polyp.double().mean()), *values)
    return pd.DataFrame.from_dict(rows, orient="index", columns=["share", *TERMS])


def pull_on_polyp(polyp: Tensor, chances: Iterable[float] = _CHANCES) -> pd.DataFrame:
    """How strongly each loss raises the logit of a polyp pixel, by what the network says there.

    The background is right: P(polyp) is `NO` there.

    Args:
        polyp: mask bool (H, W) with a polyp.
        chances: P(polyp) of all polyp pixels, in (0, 1).

    Returns:
        A row per chance: ``chance``, and per loss of `TERMS` minus its derivative by the logit of
        one polyp pixel, times the pixels of the frame; that of the cross-entropy is 1 − P.
    """
    rows = []
    for chance in chances:
        logits = _logits(polyp, chance).requires_grad_()
        row = {"chance": chance}
        for name, loss in zip(TERMS, CombinedLoss().terms(logits, polyp[None].long()), strict=True):
            (gradient,) = torch.autograd.grad(loss, logits, retain_graph=True)
            row[name] = float(-gradient[0, 0][polyp].mean() * polyp.numel())
        rows.append(row)
    return pd.DataFrame(rows)


def _logits(polyp: Tensor, chance: float) -> Tensor:
    """Float64 (1, 1, H, W): ``chance`` on the polyp, `NO` elsewhere."""
    return torch.where(polyp, chance, NO).double().logit()[None, None]
