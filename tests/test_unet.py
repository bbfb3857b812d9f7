"""The U-Net against the card: sizes counted independently, wiring seen through hooks."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from polyp_utils.model.unet import Conv3x3, UNet, UpConv

CARD_WIDTHS = [64, 128, 256, 512, 1024]


def block(c_in, c_out):
    """Parameters of (3×3 convolution without bias, batch norm) × 2."""
    return 9 * c_in * c_out + 2 * c_out + 9 * c_out * c_out + 2 * c_out


def test_parameters_per_stage_are_those_of_the_docstring():
    with torch.device("meta"):
        model = UNet()
    downwards = list(zip([3, *CARD_WIDTHS], CARD_WIDTHS, strict=False))
    upwards = list(zip(CARD_WIDTHS[:0:-1], CARD_WIDTHS[-2::-1], strict=True))  # (1024, 512) …
    expected = {
        "encoder": [block(a, b) for a, b in downwards[:4]],
        "bottleneck": [block(512, 1024)],
        "up": [4 * a * b + b for a, b in upwards],
        "decoder": [block(a, b) for a, b in upwards],  # the concatenation doubles the channels
        "head": [9 * 64 * 32 + 2 * 32],
        "output": [32 * 3 + 3],
    }
    listed = {"encoder": model.encoder, "up": model.up, "decoder": model.decoder}
    for name, counts in expected.items():
        stages = listed.get(name, [getattr(model, name)])
        assert [sum(p.numel() for p in stage.parameters()) for stage in stages] == counts
        assert " + ".join(f"{n:,}" for n in counts) in UNet.__doc__
    total = sum(sum(counts) for counts in expected.values())
    assert sum(p.numel() for p in model.parameters()) == total == 31_056_163
    assert f"{total:,}" in UNet.__doc__


@pytest.mark.parametrize("num_classes", [1, 3])
@pytest.mark.parametrize(("height", "width"), [(32, 48), (16, 16), (80, 32)])
def test_logits_have_the_size_of_the_input(height, width, num_classes):
    model = UNet(in_channels=1, num_classes=num_classes, width=4)
    model.eval()
    assert model(torch.rand(2, 1, height, width)).shape == (2, num_classes, height, width)


@pytest.mark.parametrize(
    ("height", "width", "message"),
    [
        (250, 256, "height is 250.* 240 and 256"),
        (256, 100, "width is 100.* 96 and 112"),
        (33, 32, "height is 33.* 32 and 48"),
        (32, 8, "width is 8.* nearest are 16"),
        (0, 32, "height is 0.* nearest are 16"),
    ],
)
def test_other_sizes_are_rejected_with_the_nearest(height, width, message):
    with pytest.raises(ValueError, match=message):
        UNet(width=2)(torch.zeros(1, 3, height, width))


def test_weights_round_trip_as_in_the_card(tmp_path):
    torch.manual_seed(0)
    trained = UNet(width=8)
    trained(torch.rand(4, 3, 32, 32))  # moves the batch norms' running statistics
    save_file(trained.state_dict(), tmp_path / "model.safetensors")

    model = UNet(in_channels=3, num_classes=3, width=8)
    model.load_state_dict(load_file(tmp_path / "model.safetensors"))
    model.eval()
    images = torch.rand(2, 3, 32, 32)
    logits = model(images)
    assert torch.equal(logits, trained.eval()(images))
    assert logits.argmax(dim=1).shape == (2, 32, 32)
    with pytest.raises(RuntimeError, match="size mismatch"):
        UNet(num_classes=1, width=8).load_state_dict(load_file(tmp_path / "model.safetensors"))


def test_skip_comes_first_in_each_concatenation():
    model = UNet(width=4).eval()
    seen = {}
    for name, module in model.named_modules():
        module.register_forward_hook(
            lambda module, inputs, output, name=name: seen.update(
                {name: (inputs[0].clone(), output.clone())}
            )
        )
    model(torch.rand(1, 3, 32, 32))
    below = "bottleneck"
    for depth in range(4):
        skip, up = seen[f"encoder.{3 - depth}"][1], seen[f"up.{depth}"][1]
        assert torch.equal(seen[f"decoder.{depth}"][0], torch.cat([skip, up], dim=1))
        assert torch.equal(seen[f"up.{depth}"][0], seen[below][1])
        below = f"decoder.{depth}"
    assert torch.equal(seen["head"][0], seen[below][1])


def test_upsampling_spreads_one_pixel_over_two_by_two():
    for up in UNet(width=2).up:
        pixel = torch.zeros(1, up.in_channels, 3, 3)
        pixel[..., 1, 1] = 1
        lit = (up(pixel) - up(torch.zeros_like(pixel)))[0].abs().sum(0) > 0
        expected = torch.zeros(6, 6, dtype=torch.bool)
        expected[2:4, 2:4] = True
        assert torch.equal(lit, expected)


def test_evaluation_is_deterministic_and_per_image_training_is_not():
    torch.manual_seed(0)
    model, images = UNet(width=4), torch.rand(3, 3, 32, 32)
    alone, together = (lambda: model(images[:1])), (lambda: model(images)[:1])
    assert not torch.allclose(alone(), together(), atol=1e-3)  # batch statistics
    model.eval()
    assert torch.equal(together(), together())
    torch.testing.assert_close(alone(), together())


def test_every_parameter_gets_a_gradient():
    torch.manual_seed(0)
    model = UNet(width=4)
    model(torch.rand(2, 3, 32, 32)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_convolutions_in_training_have_the_gradients_of_autograd(monkeypatch, layout):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    torch.manual_seed(0)
    ours = Conv3x3(32, 3).double().to(memory_format=layout)
    plain = torch.nn.Conv2d(32, 3, 3, padding=1, bias=False).double()
    plain.load_state_dict(ours.state_dict())
    x = torch.randn(2, 32, 4, 6, dtype=torch.float64).to(memory_format=layout)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    outputs = [module(i) for module, i in zip((ours.train(), plain), inputs, strict=True)]
    assert "_Conv3x3" in type(outputs[0].grad_fn).__name__
    torch.testing.assert_close(*outputs)
    weights = torch.randn_like(outputs[0])
    for output in outputs:
        (weights * output).sum().backward()
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad)
    torch.testing.assert_close(ours.weight.grad, plain.weight.grad)
    ours(x).sum().backward()  # the first layer's input needs no gradient
    ours(x[:0]).sum().backward()  # as in a process without a frame


@pytest.mark.parametrize("where", ["evaluation", "bf16", "meta", "AVX512", "few channels"])
def test_convolutions_elsewhere_are_those_of_pytorch(monkeypatch, where):
    used = where if where == "AVX512" else "AVX2"
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: used)
    channels = 16 if where == "few channels" else 32
    device = "meta" if where == "meta" else "cpu"
    conv = Conv3x3(channels, 3).train(where != "evaluation").to(device)
    x = torch.empty(1, channels, 4, 4, device=device)
    with torch.autocast("cpu", torch.bfloat16, enabled=where == "bf16"):
        assert "ConvolutionBackward" in type(conv(x).grad_fn).__name__


def test_upsampling_in_training_is_the_transposed_convolution():
    torch.manual_seed(0)
    ours = UpConv(8, 4).double()
    plain = torch.nn.ConvTranspose2d(8, 4, 2, stride=2).double()
    plain.load_state_dict(ours.state_dict())
    x = torch.randn(2, 8, 3, 5, dtype=torch.float64)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    outputs = [module(i) for module, i in zip((ours.train(), plain), inputs, strict=True)]
    torch.testing.assert_close(*outputs)
    torch.testing.assert_close(ours.eval()(x), outputs[0])
    weights = torch.randn_like(outputs[0])
    for output in outputs:
        (weights * output).sum().backward()
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad)
    for one, other in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)
    empty = ours.train()(x[:0])  # as in a process without a frame
    assert empty.shape == (0, 4, 6, 10)
    empty.sum().backward()
