"""From weights to probabilities: sums, sizes, and weights that do not fit."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from polyp_utils.common.device import get_compute
from polyp_utils.common.exceptions import WeightsError
from polyp_utils.data.labels import SCHEMES, get_scheme
from polyp_utils.data.transforms import to_input
from polyp_utils.model.predict import (
    fold_batch_norm,
    freeze,
    predict,
    to_original,
    to_polyp_mask,
    to_probabilities,
)
from polyp_utils.model.unet import UNet
from polyp_utils.model.weights import load_weights, read_metadata, save_weights

CPU = get_compute("cpu", "fp32")


@pytest.mark.parametrize(("logits", "classes"), [(1, 2), (2, 2), (3, 3)])
def test_probabilities_sum_to_one_even_for_bf16(logits, classes):
    values = 50 * torch.randn(2, logits, 5, 4).bfloat16()
    probabilities = to_probabilities(values)
    assert probabilities.shape == (2, classes, 5, 4)
    assert probabilities.dtype == torch.float32
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(2, 5, 4))


def test_one_logit_is_the_log_odds_of_polyp():
    probabilities = to_probabilities(torch.tensor([0.8 / 0.2]).log().reshape(1, 1, 1, 1))
    assert probabilities.flatten().tolist() == pytest.approx([0.2, 0.8])


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_predict_is_the_models_softmax_in_the_order_of_the_images(batch_size):
    torch.manual_seed(0)
    model = UNet(width=4)
    images = torch.randint(256, (5, 3, 32, 32), dtype=torch.uint8)
    model(to_input(images, CPU.device))  # moves the running statistics; the model still trains
    found = torch.stack(list(predict(model, images, CPU, batch_size)))
    with torch.no_grad():
        expected = model.eval()(images / 255).exp()
    torch.testing.assert_close(found, expected / expected.sum(dim=1, keepdim=True))


@pytest.mark.parametrize("num_classes", [1, 3])
def test_folding_changes_the_logits_only_by_rounding(num_classes, trained_like):
    model = trained_like(num_classes=num_classes)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    folded, x = fold_batch_norm(model), torch.rand(2, 3, 32, 48)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    with torch.no_grad():
        expected = model(x)
        torch.testing.assert_close(folded(x), expected, rtol=1e-4, atol=1e-4 * expected.std())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_a_model_that_still_trains_is_folded_in_evaluation_mode(trained_like):
    model = trained_like()
    folded = fold_batch_norm(model.train())
    assert model.training
    assert not folded.training


@pytest.mark.parametrize(("precision", "most"), [("fp32", 1e-4), ("bf16", 0.1)])
def test_frozen_predictions_are_those_of_the_model(precision, most, trained_like):
    model, compute = trained_like(), get_compute("cpu", precision)
    images = torch.randint(256, (3, 3, 32, 32), dtype=torch.uint8)
    frozen = freeze(model, compute)
    assert {p.dtype for p in frozen.parameters()} == {compute.dtype}
    found = torch.stack(list(predict(frozen, images, compute)))
    expected = torch.stack(list(predict(model, images, CPU)))
    assert found.dtype == torch.float32
    assert expected.std() > 0.1  # else the test would show nothing
    assert (found - expected).abs().max() < most


@pytest.mark.parametrize("scheme", SCHEMES)
def test_polyp_mask_is_the_merged_probability_above_one_half(scheme):
    scheme = get_scheme(scheme)
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(1, len(scheme.classes), 16, 16, generator=generator)
    probabilities = logits.softmax(dim=1)[0]
    merged = to_original(probabilities, (40, 23))[list(scheme.polyp)].sum(dim=0)
    clear = (merged - 0.5).abs() > 1e-5
    mask = to_polyp_mask(probabilities, scheme, (40, 23))
    assert mask.dtype == torch.bool
    assert torch.equal(mask[clear], (merged > 0.5)[clear])
    assert clear.float().mean() > 0.99
    assert 0.1 < mask.float().mean() < 0.9


@pytest.mark.parametrize("size", [(32, 32), (7, 90), (200, 33)])
def test_a_constant_stays_constant_at_the_original_size(size):
    probabilities = torch.tensor([0.2, 0.3, 0.5])[:, None, None].expand(3, 32, 32)
    brought = to_original(probabilities, size)
    assert brought.shape == (3, *size)
    torch.testing.assert_close(brought, probabilities[:, :1, :1].expand(3, *size))


def test_enlarging_is_bilinear_between_pixel_centres():
    rows = torch.tensor([[[0.0], [1.0]]])  # (1, 2, 1)
    assert to_original(rows, (4, 1)).flatten().tolist() == [0, 0.25, 0.75, 1]
    assert to_original(rows.mT, (1, 4)).flatten().tolist() == [0, 0.25, 0.75, 1]


def test_weights_and_metadata_round_trip(tmp_path):
    model, path = UNet(width=4), tmp_path / "model.safetensors"
    save_weights(path, model.to(memory_format=torch.channels_last), {"epoch": 3, "classes": ["a"]})
    assert read_metadata(path) == {"epoch": 3, "classes": ["a"]}
    loaded = load_weights(UNet(width=4), path)
    for key, value in load_file(path).items():
        assert torch.equal(loaded.state_dict()[key], value)
        assert torch.equal(model.state_dict()[key], value)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            UNet(width=6),
            "holds in_channels=3, num_classes=3, width=6, the model is .*3, .*3, width=4",
        ),
        (UNet(num_classes=1, width=4), "holds .*num_classes=1, width=4, the model is .*classes=3"),
        (UNet(in_channels=1, width=4), "holds in_channels=1"),
        (torch.nn.Linear(2, 2), r"holds no U-Net of this package \(2 tensors\)"),
    ],
)
def test_weights_of_another_network_are_rejected(tmp_path, other, message):
    save_file(other.state_dict(), tmp_path / "other.safetensors")
    model = UNet(width=4)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(WeightsError, match=message):
        load_weights(model, tmp_path / "other.safetensors")
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("missing", ["bottleneck.0.weight", "decoder.2.4.running_var"])
def test_weights_without_a_tensor_are_rejected(tmp_path, missing):
    tensors = UNet(width=4).state_dict()
    del tensors[missing]
    save_file(tensors, tmp_path / "part.safetensors")
    with pytest.raises(WeightsError, match=missing):
        load_weights(UNet(width=4), tmp_path / "part.safetensors")


def write_pickle(path):
    torch.save(UNet(width=4).state_dict(), path)


def write_half(path):
    save_weights(path, UNet(width=4), {})
    path.write_bytes(path.read_bytes()[:5000])


@pytest.mark.parametrize(
    "write",
    [write_pickle, write_half, lambda path: path.touch(), lambda path: path.write_text("{}")],
    ids=["pickle", "truncated", "empty", "text"],
)
def test_only_safetensors_are_loaded(tmp_path, write):
    path = tmp_path / "model.safetensors"
    write(path)
    said = r"model.safetensors (is not a (safetensors )?file|has 5,000 bytes, but its header)"
    with pytest.raises(WeightsError, match=said):
        load_weights(UNet(width=4), path)


def test_missing_weights_say_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent.safetensors does not exist: train"):
        load_weights(UNet(width=4), tmp_path / "absent.safetensors")


def test_weights_made_elsewhere_have_no_metadata(tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors", {"format": "pt"})
    assert read_metadata(tmp_path / "x.safetensors") == {}
