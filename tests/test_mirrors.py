"""Mirrored predictions against known values."""

import numpy as np
import pytest
import torch
from torch import nn

from polyp_utils.analyse.mirrors import (
    Mirrored,
    combine,
    mirror_cost,
    predict_mirrored,
    spread_frames,
)
from polyp_utils.common.device import get_compute
from polyp_utils.data.dataset import PolypDataset
from polyp_utils.data.labels import get_scheme
from polyp_utils.model.predict import predict
from polyp_utils.model.unet import UNet
from polyp_utils.runs.predictions import of_probabilities

TRIMAP = get_scheme("trimap")


def frames(count=3, size=32):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (count, 3, size, size), generator=generator, dtype=torch.uint8)


class Pointwise(nn.Module):
    """Treats each pixel alone, so that mirroring changes nothing."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return 9 * self.layer(x)


def test_a_pixelwise_network_agrees_with_its_mirrored_copies():
    model, compute = Pointwise().eval(), get_compute("cpu", "fp32")
    plain = list(predict(model, frames(), compute))
    for found, expected in zip(
        predict_mirrored(model, frames(), TRIMAP, compute), plain, strict=True
    ):
        torch.testing.assert_close(found.mean, expected)
        assert found.spread.max() < 1e-6
        assert found.disagreement == pytest.approx(0, abs=1e-6)


def test_the_mean_over_mirrors_commutes_with_a_mirror():
    torch.manual_seed(0)
    model, compute = UNet(width=4).eval(), get_compute("cpu", "fp32")
    found = predict_mirrored(model, frames(), TRIMAP, compute)
    turned = predict_mirrored(model, frames().flip(-1), TRIMAP, compute)
    for one, other in zip(found, turned, strict=True):
        torch.testing.assert_close(one.mean, other.mean.flip(-1), atol=1e-5, rtol=0)
        torch.testing.assert_close(one.spread, other.spread.flip(-1), atol=1e-5, rtol=0)
        assert one.spread.max() > 1e-4


def test_copies_are_combined_by_hand():
    polyp = torch.zeros(2, 2, 2)
    polyp[0, 0] = 0.9  # one copy marks the upper row, the other only its left pixel
    polyp[1, 0, 0] = 0.9
    found = combine(torch.stack([1 - polyp, polyp, 0 * polyp], dim=1), TRIMAP)
    assert found.mean[1].tolist() == pytest.approx(np.array([[0.9, 0.45], [0, 0]]))
    assert found.spread.tolist() == pytest.approx(np.array([[0, 0.45], [0, 0]]))
    assert found.disagreement == pytest.approx(1 - (2 / 3 + 1) / 2)
    nothing = combine(torch.stack([torch.ones(2, 2, 2), *torch.zeros(2, 2, 2, 2)], dim=1), TRIMAP)
    assert nothing.disagreement == 0


def test_mirrored_prediction_is_the_mean_of_the_copies():
    torch.manual_seed(0)
    model, compute = UNet(width=4).eval(), get_compute("cpu", "fp32")
    found = predict(model, frames(), compute, batch_size=2, mirrored=True)
    copies = predict_mirrored(model, frames(), TRIMAP, compute)
    plain = predict(model, frames(), compute)
    for one, other, without in zip(found, copies, plain, strict=True):
        torch.testing.assert_close(one, other.mean)
        assert (one - without).abs().max() > 1e-4


def test_mirrored_prediction_takes_longer():
    model, compute = UNet(width=4).eval(), get_compute("cpu", "fp32")
    ratio, rate = mirror_cost(model, frames(), compute, repeats=3)
    assert ratio > 1
    assert rate > 0


def test_spread_is_shown_at_the_size_of_the_frame(session_cache):
    data = PolypDataset("phantom", 32)
    frame_id = data.ids[0]
    spread = torch.zeros(32, 32)
    spread[:, 16:] = 0.4
    mean = torch.stack([torch.ones(32, 32), *torch.zeros(2, 32, 32)])
    mirrored = {frame_id: Mirrored(mean, spread, 0.5)}
    predictions = of_probabilities([(frame_id, mean)], TRIMAP, "by hand")
    (frame,) = spread_frames(predictions, data, {frame_id: "unsure"}, mirrored)
    assert frame.title == "unsure"
    assert frame.probability.shape == frame.truth.shape == frame.image.shape[:2]
    assert frame.probability[:, :4].max() == 0
    assert frame.probability[:, -4:].min() == pytest.approx(0.4)
