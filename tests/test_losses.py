"""CE + Dice against values worked out by hand, MONAI and numerical gradients."""

import math

import pytest
import torch

from polyp_utils.model.losses import CombinedLoss, MulticlassDiceLoss, inverse_sqrt_weights

LOSSES = pytest.mark.parametrize("absent", ["include", "exclude"])
LOGITS = pytest.mark.parametrize("channels", [1, 3])


def case(channels, batch=2, size=5, dtype=torch.float32, seed=0):
    """Random logits and a target in which every class occurs."""
    generator = torch.Generator().manual_seed(seed)
    classes = max(channels, 2)
    logits = torch.randn(batch, channels, size, size, generator=generator, dtype=dtype)
    target = torch.randint(classes, (batch, size, size), generator=generator)
    target[0, 0, :classes] = torch.arange(classes)
    return logits.requires_grad_(), target


@pytest.mark.parametrize(
    ("absent", "dice_loss"),
    # Classes 0 and 1: 2·½ / (½ + ¼ + 1) = 4/7 each. Class 2, absent: 0 / ½ = 0.
    [("include", 1 - (4 / 7 + 4 / 7 + 0) / 3), ("exclude", 1 - 4 / 7)],
)
def test_three_classes_by_hand(absent, dice_loss):
    pixels = torch.tensor([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25]])  # class 0, then class 1
    logits = pixels.log().T.reshape(1, 3, 1, 2)
    target = torch.tensor([[[0, 1]]])
    ce = math.log(2)  # both pixels give their class ½
    loss = CombinedLoss(absent=absent)
    assert [x.item() for x in loss.terms(logits, target)] == pytest.approx(
        [ce, dice_loss], rel=1e-5
    )
    assert loss(logits, target).item() == pytest.approx(0.5 * ce + 0.5 * dice_loss, rel=1e-5)


def test_one_logit_by_hand():
    logits = torch.tensor([math.log(3), -math.log(3)]).reshape(1, 1, 1, 2)  # sigmoid ¾ and ¼
    ce, dice_loss = CombinedLoss().terms(logits, torch.tensor([[[1, 0]]]))
    assert ce.item() == pytest.approx(-math.log(0.75))
    assert dice_loss.item() == pytest.approx(1 - 2 * 0.75 / (0.75 + 0.25 + 1))


def test_dice_is_summed_over_the_batch_not_averaged_over_images():
    target = torch.tensor([[[1, 0, 0, 0]], [[1, 1, 1, 0]]])  # (2, 1, 4)
    found = torch.tensor([[[0, 0, 0, 0]], [[1, 1, 1, 0]]])  # the first image's polyp is missed
    logits = (found.float() * 2 - 1).unsqueeze(1) * 1e4
    loss = MulticlassDiceLoss()(logits, target).item()
    assert loss == pytest.approx(1 - 2 * 3 / (3 + 4))  # per image it would be 1 − (0 + 1) / 2


@LOGITS
def test_equals_monai(channels):
    monai = pytest.importorskip("monai.losses")
    logits, target = case(channels, batch=3, size=8)
    settings = {"softmax": True, "to_onehot_y": True} if channels > 1 else {"sigmoid": True}
    settings |= {"batch": True, "include_background": True, "smooth_nr": 1e-6, "smooth_dr": 1e-6}
    labels = target.unsqueeze(1).float()
    dice = monai.DiceLoss(**settings)(logits, labels)
    torch.testing.assert_close(MulticlassDiceLoss()(logits, target), dice)
    both = monai.DiceCELoss(**settings, lambda_dice=0.3, lambda_ce=0.7)(logits, labels)
    torch.testing.assert_close(CombinedLoss(0.7, 0.3)(logits, target), both)


@LOSSES
@LOGITS
def test_gradients_equal_numerical_ones(channels, absent):
    logits, target = case(channels, size=3, dtype=torch.float64)
    target[target == 2] = 0  # class 2 is absent
    loss = CombinedLoss(absent=absent)
    assert torch.autograd.gradcheck(lambda x: loss(x, target), logits)


@LOGITS
def test_bf16_logits_give_the_float32_loss(channels):
    logits, target = case(channels)
    low = logits.detach().bfloat16().requires_grad_()
    loss = CombinedLoss()(low, target)
    loss.backward()
    high = low.detach().float().requires_grad_()
    expected = CombinedLoss()(high, target)
    expected.backward()
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected)
    assert low.grad.dtype == torch.bfloat16
    torch.testing.assert_close(low.grad.float(), high.grad, rtol=0.02, atol=1e-5)


@LOSSES
@LOGITS
@pytest.mark.parametrize("truth", ["background", "polyp", "mixed"])
def test_extreme_logits_stay_finite(channels, truth, absent):
    target = torch.zeros(2, 4, 4, dtype=torch.int64)
    if truth != "background":
        target[:, :, slice(None) if truth == "polyp" else slice(2)] = 1
    sign = target.unsqueeze(1) * 2 - 1  # 1 on polyp, −1 elsewhere
    logits = 1e4 * torch.cat([-sign, sign, -torch.ones_like(sign)], dim=1)
    logits = logits if channels == 3 else logits[:, 1:2]
    for prediction, low, high in ((logits, 0, 1e-6), (-logits, 2e3, 2e4)):
        prediction = prediction.clone().requires_grad_()
        loss = CombinedLoss(absent=absent)(prediction, target)
        loss.backward()
        assert low <= loss.item() <= high
        assert prediction.grad.isfinite().all()


def test_false_positives_of_an_absent_class_cost_only_with_include():
    # Two background pixels; polyp gets 0.6 and 0.2, the absent boundary 0.1 and 0.1.
    logits = torch.tensor([[0.3, 0.6, 0.1], [0.7, 0.2, 0.1]]).log().T.reshape(1, 3, 1, 2)
    target = torch.zeros(1, 1, 2, dtype=torch.int64)
    background = 2 * 1 / (1 + 2)
    include, exclude = (MulticlassDiceLoss(a)(logits, target) for a in ("include", "exclude"))
    assert include.item() == pytest.approx(1 - background / 3, rel=1e-5)
    assert exclude.item() == pytest.approx(1 - background, rel=1e-5)


def test_one_logit_without_polyp_has_no_dice_term_with_exclude():
    logits, target = torch.full((1, 1, 2, 2), 5.0), torch.zeros(1, 2, 2, dtype=torch.int64)
    assert MulticlassDiceLoss("include")(logits, target).item() == pytest.approx(1, abs=1e-5)
    assert MulticlassDiceLoss("exclude")(logits, target).item() == 0


@pytest.mark.parametrize(("ce_weight", "dice_weight"), [(1.0, 0.0), (0.0, 1.0), (0.3, 2.0)])
def test_weights_are_adjustable(ce_weight, dice_weight):
    logits, target = case(3)
    ce, dice_loss = CombinedLoss().terms(logits, target)
    loss = CombinedLoss(ce_weight, dice_weight)(logits, target)
    torch.testing.assert_close(loss, ce_weight * ce + dice_weight * dice_loss)


@pytest.mark.parametrize(
    "target",
    [
        torch.zeros(2, 1, 4, 4, dtype=torch.int64),  # one-hot or with a channel
        torch.zeros(2, 4, 5, dtype=torch.int64),
        torch.zeros(1, 4, 4, dtype=torch.int64),
        torch.zeros(2, 4, 4),  # not indices
        torch.zeros(2, 4, 4, dtype=torch.uint8),
    ],
)
@pytest.mark.parametrize("loss", [CombinedLoss(), MulticlassDiceLoss()])
def test_targets_that_do_not_match_are_rejected(loss, target):
    with pytest.raises(ValueError, match=r"logits \(2, 3, 4, 4\) and target .*int64 \(B, H, W\)"):
        loss(torch.zeros(2, 3, 4, 4), target)


def test_unknown_rule_for_absent_classes_is_rejected():
    with pytest.raises(ValueError, match="absent is 'ignore'"):
        CombinedLoss(absent="ignore")


def test_class_weights_by_hand():
    """Weights enter pixel by pixel: −mean(w_y · log p_y)."""
    logits = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    target = torch.randint(0, 3, (2, 4, 5), generator=torch.Generator().manual_seed(1))
    weights = torch.tensor([0.5, 2.0, 4.0])
    ce, _ = CombinedLoss(class_weights=weights).terms(logits, target)
    log_p = logits.log_softmax(dim=1).gather(1, target[:, None])[:, 0]
    assert ce.item() == pytest.approx(-(weights[target] * log_p).mean().item(), rel=1e-6)
    even, _ = CombinedLoss(class_weights=torch.ones(3)).terms(logits, target)
    plain, _ = CombinedLoss().terms(logits, target)
    assert even.item() == pytest.approx(plain.item(), rel=1e-6)


def test_inverse_sqrt_weights_by_hand():
    weights = inverse_sqrt_weights(torch.tensor([81, 16, 1, 0]))  # 1/√share = √98 · (1/9, 1/4, 1)
    scale = 98 / (9 + 4 + 1)  # their mean over the pixels is √98 · 14 / 98
    assert weights.tolist() == pytest.approx([scale / 9, scale / 4, scale, 0])
    assert (weights[:3] * torch.tensor([81, 16, 1])).sum().item() / 98 == pytest.approx(1)
