"""The class map of a frame is that of all its probabilities, enlarged."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from polyp_utils.model.enlarge import to_class_map
from polyp_utils.model.predict import to_original


def smooth(classes, seed=0):
    """Probabilities with regions of every class and outlines between them."""
    torch.manual_seed(seed)
    coarse = torch.randn(1, classes, 7, 7)
    return F.interpolate(4 * coarse, (32, 32), mode="bicubic")[0].softmax(dim=0)


@pytest.mark.parametrize("size", [(240, 299), (32, 32), (33, 31), (20, 7), (1, 1), (3, 200)])
@pytest.mark.parametrize("classes", [2, 3, 4])
def test_equals_the_argmax_of_enlarged_probabilities(classes, size):
    probabilities = smooth(classes)
    enlarged = to_original(probabilities, size)
    found = to_class_map(probabilities, size)
    assert found.shape == size
    assert found.dtype == np.uint8
    best = enlarged.topk(2, dim=0).values
    clear = (best[0] - best[1] > 1e-5).numpy()  # rounding may decide between equal classes
    assert (found == enlarged.argmax(dim=0).numpy())[clear].all()
    assert clear.mean() > 0.99


def test_one_class_everywhere_is_itself():
    found = to_class_map(torch.eye(3)[:, 2].view(3, 1, 1).expand(3, 8, 8), (9, 5))
    assert (found == 2).all()
