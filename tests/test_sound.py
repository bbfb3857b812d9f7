"""Weights that are none, or whose numbers no network can use, are refused by name at every door."""

import io
import json
import os
import pickle
import re
import struct
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save, save_file

import polyp_utils
from polyp_utils import cli
from polyp_utils.common.config import RunConfig
from polyp_utils.common.device import get_compute
from polyp_utils.common.exceptions import WeightsError
from polyp_utils.data.labels import get_scheme
from polyp_utils.data.parts import Data
from polyp_utils.deploy.load import load_model
from polyp_utils.deploy.onnx import describe_onnx, export_onnx
from polyp_utils.deploy.openvino import for_frames
from polyp_utils.model.losses import CombinedLoss
from polyp_utils.model.pickled import read_pickle
from polyp_utils.model.predict import cannot_overflow, fold_batch_norm, predict
from polyp_utils.model.sound import check_numbers, format_of
from polyp_utils.model.unet import UNet
from polyp_utils.model.weights import halve_weights, load_weights, read_header, read_metadata
from polyp_utils.publish.run_card import write_run_card
from polyp_utils.runs.predictions import of_network
from polyp_utils.train.adopt import adopt
from polyp_utils.train.initial import find_initial
from polyp_utils.train.validation import validate

CPU = get_compute("cpu", "fp32")
FIRST = "encoder.0.0.weight"
OURS = {"scheme": "trimap", "image_size": 32, "device": "cpu", "precision": "fp32"}


def state():
    torch.manual_seed(0)
    return UNet(3, 3, 4).state_dict()


def pickled(value):
    data = io.BytesIO()
    torch.save(value, data)
    return data.getvalue()


def header(length, text=b"{"):
    return struct.pack("<Q", length) + text


def claims(**shapes):
    """A safetensors file whose tensors have shapes of no element, which take no bytes."""
    nothing = {"dtype": "F32", "data_offsets": [0, 0]}
    text = json.dumps({name: nothing | {"shape": shape} for name, shape in shapes.items()}).encode()
    return header(len(text), text)


WHOLE = save(state())
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 124123\n"
NO_WEIGHTS = {
    "empty": (b"", r"is empty \(0 bytes\)"),
    "git-lfs": (LFS, "git-lfs pointer .*git lfs pull"),
    "page": (b"\n<!DOCTYPE html><title>401</title>" * 50, "is a web page, .*log in"),
    "answer": (b"Invalid credentials in Authorization header", "begins with 'Invalid credentials"),
    "onnx": (b"\x08\x0a\x12\x07pytorch\x1a\x03", "is an ONNX file"),
    "keras": (b"\x89HDF\r\n\x1a\n" + bytes(99), "is an HDF5 file"),
    "noise": (bytes(range(129, 256)), "neither safetensors nor of torch.save"),
    "half": (WHOLE[: len(WHOLE) // 2], r"bytes where its header tells of .*truncated"),
    "half a header": (WHOLE[:300], "its header alone would have"),
    "more": (WHOLE + b"x", "bytes where its header tells of"),
    "endless header": (header(2**40), r"its header alone would have 1,099,511,627,776"),
    "deep header": (header(200_000, b'{"a":' * 40_000), "header that is no safetensors"),
    "a list of numbers": (header(9, b'{"a": 1} '), "header that is no safetensors"),
    "pickle": (pickled(state()), "is not a safetensors file but a pickle"),
}


DOORS = {
    "load_model": load_model,
    "load_weights": lambda path: load_weights(UNet(width=4), path),
    "init": lambda path: find_initial(RunConfig(init=str(path), dataset="phantom", width=4)),
}


@pytest.mark.parametrize("kind", NO_WEIGHTS)
@pytest.mark.parametrize("door", DOORS)
def test_what_is_no_weights_is_refused_by_name(tmp_path, kind, door):
    content, message = NO_WEIGHTS[kind]
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=message) as caught:
        DOORS[door](path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_and_a_file_that_is_too_large_are_refused(tmp_path):
    with pytest.raises(WeightsError, match="is a folder: give a file"):
        format_of(tmp_path)
    with (tmp_path / "large.safetensors").open("wb") as file:
        file.truncate(5 * 2**30)  # a hole, which takes no space
    with pytest.raises(WeightsError, match=r"has 5,368,709,120 bytes, and at most"):
        format_of(tmp_path / "large.safetensors")
    torch.save(state(), tmp_path / "pytorch_model.bin")
    (tmp_path / "large.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no model.* but pytorch_model\.bin: give"):
        load_model(tmp_path)


@pytest.mark.parametrize("width", [2**31, 512, 0])
def test_a_file_that_claims_a_wide_network_makes_none(tmp_path, width):
    shapes = {FIRST: [width, 3, 3, 0], "output.weight": [1, width // 2, 1, 0]}
    path = tmp_path / "claims.safetensors"
    path.write_bytes(claims(**shapes))
    with pytest.raises(WeightsError, match="does not hold the U-Net of this package, whole"):
        load_model(path)
    if width == 512:
        assert read_header(path).width == 512
    else:
        with pytest.raises(WeightsError, match="holds no U-Net of this package"):
            read_header(path)


@pytest.mark.parametrize(
    "text", ["[]", "{", "[" * 10**5, '{"settings": 3}', '{"classes": [1]}', '{"classes": 1}']
)
def test_metadata_that_are_none_of_ours_are_refused(tmp_path, text):
    save_file(state(), tmp_path / "odd.safetensors", {"polyp_utils": text})
    with pytest.raises(WeightsError, match="has metadata"):
        read_metadata(tmp_path / "odd.safetensors")


@pytest.mark.parametrize("size", [100, 0, -16, 10**9, "64", 64.0, [64]])
def test_an_input_size_that_no_network_sees_is_refused(tmp_path, size):
    settings = json.dumps({"settings": {"scheme": "trimap", "image_size": size}})
    save_file(state(), tmp_path / "odd.safetensors", {"polyp_utils": settings})
    with pytest.raises(WeightsError, match=r"multiple of 16|does not say .* input size"):
        load_model(tmp_path / "odd.safetensors")


@pytest.mark.parametrize("scheme", ["triiap", ["trimap"], 3])
def test_a_scheme_that_nobody_knows_is_asked_for(tmp_path, scheme):
    settings = json.dumps({"settings": {"scheme": scheme, "image_size": 32}})
    save_file(state(), tmp_path / "odd.safetensors", {"polyp_utils": settings})
    with pytest.raises(WeightsError, match=r"odd\.safetensors says .*, which is none here: give"):
        load_model(tmp_path / "odd.safetensors")
    assert load_model(tmp_path / "odd.safetensors", scheme="trimap", device="cpu").image_size == 32


# --- pickles -------------------------------------------------------------------------------------


class Runs:
    """Makes a file when it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch ran",)


class Takes:
    """Takes memory when it is unpickled; PyTorch admits it."""

    def __reduce__(self):
        return bytearray, (10**13,)


def deflated(size):
    """A file of torch.save whose tensors unpack to more bytes than it has."""
    packed = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(pickled({"a": torch.ones(9)}))) as whole,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for name in whole.namelist():
            archive.writestr(name, whole.read(name) if "data/0" not in name else bytes(size))
    return packed.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickled({"state_dict": state(), "by": Runs()}), r"needs \w+\.system; .*it is not run"),
        (pickle.dumps(Runs(), protocol=4), r"needs \w+\.system; .*it is not run"),
        (pickled(UNet(3, 3, 4)), r"needs .*polyp_utils\.model\.unet\.\w+.* and \d+ more"),
        (pickled({"a": Takes()}), r"needs __builtin__\.bytearray"),
        (pickled(state())[:3000], "or damaged"),
        (b"PK\x03\x04 cut", "or damaged"),
        (deflated(10**7), r"would unpack from [\d,]+ to 10,0"),
        (pickled({"w": torch.ones(1, 1).expand(10**7, 10**7)}), "other than floating-point"),
        (pickled({"w": torch.ones(3, 3, device="meta")}), "needs torch._utils._rebuild_meta"),
        (pickled({"w": torch.eye(3).to_sparse()}), "needs .*sparse"),
    ],
    ids=[
        "code",
        "bare code",
        "module",
        "memory",
        "cut",
        "zip",
        "bomb",
        "strides",
        "meta",
        "sparse",
    ],
)
def test_a_pickle_runs_no_code_and_takes_no_memory(tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.pth").write_bytes(content)
    with pytest.raises(WeightsError, match=message):
        load_model(tmp_path / "model.pth")
    assert not (tmp_path / "ran").exists()


def test_pickles_are_read_in_one_place_only():
    package = Path(polyp_utils.__file__).parent
    readers = re.compile(r"torch\.load\(|pickle\.loads?\(|allow_pickle=True|read_pickle\(path: ")
    found = [p.name for p in package.rglob("*.py") if readers.search(p.read_text("utf-8"))]
    assert found == ["pickled.py"]


@pytest.mark.parametrize(("name", "new"), [("model.pth.tar", True), ("model", False)])
def test_the_content_tells_the_format_whatever_the_name(tmp_path, name, new):
    path = tmp_path / name
    rest = {"epoch": 3, "optimizer": {"lr": 0.1}, "seen": {1, 2}, "note": b"x"}
    whole = {"state_dict": {f"ema.{k}": v for k, v in state().items()}, **rest}
    torch.save(whole, path, _use_new_zipfile_serialization=new)
    assert read_pickle(path)["optimizer"] == {"lr": 0.1}
    found = load_model(path, **OURS, runtime="torch").network
    expected = fold_batch_norm(_net(state()))
    assert torch.equal(found.encoder[0][0].weight, expected.encoder[0][0].weight)


def test_the_average_of_pytorch_loads_without_its_counter(tmp_path, capsys):
    average = torch.optim.swa_utils.AveragedModel(_net(state()))
    save_file(average.state_dict(), tmp_path / "ema.safetensors")
    load_model(tmp_path / "ema.safetensors", **OURS, runtime="torch")
    assert "prefix 'module.' stripped" in capsys.readouterr().out


def test_dicts_that_hold_themselves_end(tmp_path, monkeypatch):
    inner = {}
    inner["again"] = inner
    for _ in range(5000):
        inner = {"deeper": inner}
    (tmp_path / "loop.pth").write_bytes(pickled(3))  # `torch.save` cannot write such a dict
    monkeypatch.setattr("polyp_utils.deploy.foreign.read_pickle", lambda path: inner)
    with pytest.raises(WeightsError, match=r"0 sets of tensors \(none\)"):
        load_model(tmp_path / "loop.pth")


# --- numbers -------------------------------------------------------------------------------------


def _net(tensors):
    network = UNet(3, 3, 4)
    network.load_state_dict(tensors)
    return network.eval()


def changed(name, value, dtype=torch.float32):
    tensors = {key: tensor.clone() for key, tensor in state().items()}
    tensors[name] = tensors[name].to(dtype)
    tensors[name].view(-1)[1] = value
    return tensors


BAD = {
    "NaN": (changed(FIRST, torch.nan), rf"{FIRST} \(1 NaN and 0 infinite of 108\): use those"),
    "half": (changed(FIRST, torch.inf, torch.float16), r"1 infinite of 108\): float16 ends at"),
    "double": (changed(FIRST, 1e300, torch.float64), r"\(0 NaN and 1 infinite of 108\)"),
    "mean": (changed("head.1.running_mean", -torch.inf), r"head\.1\.running_mean \(0 NaN and 1"),
    "variance": (changed("head.1.running_var", -1e-3), r"running_var \(1 of 2 negative\)"),
    "int8": ({**state(), FIRST: torch.ones(4, 3, 3, 3).char()}, "other than floating-point"),
}


@pytest.mark.parametrize("kind", BAD)
def test_numbers_that_no_network_can_use_are_refused(tmp_path, kind):
    tensors, message = BAD[kind]
    save_file(tensors, tmp_path / "model.safetensors")
    torch.save(tensors, tmp_path / "model.pth")
    for path in (tmp_path / "model.safetensors", tmp_path / "model.pth"):
        with pytest.raises(WeightsError, match=f"{path.name} holds .*{message}"):
            load_model(path, **OURS)
    with pytest.raises(WeightsError, match=message):
        load_weights(UNet(width=4), tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=f"the state_dict holds .*{message}"):
        UNet(width=4).load_state_dict(tensors)  # as from_pretrained does, and the card's snippet


def test_every_use_of_a_run_refuses_its_weights(run, dataset, tmp_path, capsys):
    tensors = load_file(run.weights)
    tensors["bottleneck.1.bias"][:2] = torch.nan
    save_file(tensors, run.weights, {"polyp_utils": json.dumps(read_metadata(run.weights))})
    said = r"model\.safetensors holds .* in bottleneck\.1\.bias \(2 NaN and 0 infinite of 64\)"
    config = replace(run.config, init=run.name)
    for use in (
        lambda: of_network(run, dataset, device="cpu"),
        lambda: find_initial(config),
        lambda: adopt(replace(config, name="theirs"), "by others"),
        lambda: write_run_card(run),
        lambda: halve_weights(run.weights, tmp_path / "half.safetensors"),
    ):
        with pytest.raises(WeightsError, match=said):
            use()
    out = tmp_path / "out"
    frame = str(tmp_path / "frame.png")
    cli.main(["predict", frame, "--weights", str(run.path), "--out", str(out)])
    (tmp_path / "frame.png").write_bytes(b"")
    capsys.readouterr()
    assert cli.main(["predict", frame, "--weights", str(run.path), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert "bottleneck.1.bias" in error
    assert not out.exists()


def test_many_wrong_tensors_are_cut_with_a_count():
    tensors = {f"w{i}": torch.full((2,), torch.nan) for i in range(10)}
    with pytest.raises(WeightsError, match=r"w0 .*, w1 .*, w2 \(.*\) and 7 more: use"):
        check_numbers("x", tensors)


def test_kernels_beyond_float16_stay_as_they_are(tmp_path):
    tensors = state()
    tensors[FIRST][0, 0, 0, 0] = 1e5
    save_file(tensors, tmp_path / "whole.safetensors")
    halve_weights(tmp_path / "whole.safetensors", tmp_path / "half.safetensors")
    found = load_file(tmp_path / "half.safetensors")
    assert torch.equal(found[FIRST], tensors[FIRST])
    assert found["output.weight"].dtype == torch.float16


# --- output --------------------------------------------------------------------------------------


def overflowing(logits=3):
    """A network of finite weights that no float32 holds the output of."""
    torch.manual_seed(0)
    network = UNet(3, logits, 4).eval()
    network.output.weight.data.fill_(1e38)
    network.output.bias.data.fill_(1e38)
    network.head[1].bias.data.fill_(1e5)
    return network


def test_overflow_is_foreseen():
    assert cannot_overflow(fold_batch_norm(UNet(3, 3, 4)))
    assert not cannot_overflow(fold_batch_norm(overflowing()))
    inside = UNet(3, 3, 4).eval()
    inside.bottleneck[1].weight.data.fill_(1e38)
    inside.bottleneck[4].weight.data.fill_(0)  # what overflows does not reach the output
    assert not cannot_overflow(fold_batch_norm(inside))


@pytest.mark.parametrize("logits", [1, 3])
@pytest.mark.parametrize("mirrored", [False, True])
def test_output_that_is_not_finite_names_the_frame(logits, mirrored):
    images = torch.randint(256, (3, 3, 32, 32), dtype=torch.uint8)
    network = overflowing(logits)
    network.output.weight.data.zero_()
    network.output.bias.data.zero_()
    network.register_forward_hook(
        lambda module, inputs, out: out / (inputs[0].amax((1, 2, 3), keepdim=True) > 0)
    )
    images[1] = 0  # 0 / 0, of this one
    names = ["a by run", "b by run", "c by run"]
    found = predict(network, images, CPU, 1, mirrored, names)
    assert next(found).isfinite().all()
    with pytest.raises(WeightsError, match="output for b by run is not finite: these weights"):
        next(found)
    with pytest.raises(WeightsError, match="output for image 2 is not finite"):
        list(predict(network, images, CPU))


@pytest.mark.parametrize("runtime", ["auto", "torch", "openvino"])
def test_no_runtime_makes_a_mask_of_overflow(tmp_path, runtime):
    if runtime == "openvino":
        pytest.importorskip("openvino")
        with pytest.raises(WeightsError, match="beyond float32: use runtime torch"):
            for_frames(overflowing(), CPU, runtime)
        return
    save_file(overflowing(1).state_dict(), tmp_path / "model.safetensors")
    model = load_model(tmp_path, **OURS | {"scheme": "binary"}, runtime=runtime)
    image = torch.zeros(40, 50, 3, dtype=torch.uint8).numpy()
    for call in (model.polyp_mask, model.class_map, model.probabilities):
        with pytest.raises(WeightsError, match=r"the frame by .*model\.safetensors is not finite"):
            call(image)


def test_weights_that_might_overflow_are_not_exported(tmp_path):
    pytest.importorskip("onnxscript")
    save_file(overflowing().state_dict(), tmp_path / "model.safetensors")
    settings = {"scheme": "trimap", "image_size": 32}
    with pytest.raises(WeightsError, match=r"model\.safetensors is not exported"):
        export_onnx(tmp_path / "model.safetensors", tmp_path / "model.onnx", **settings)
    assert not (tmp_path / "model.onnx").exists()


def test_what_is_no_onnx_file_is_refused(tmp_path):
    pytest.importorskip("onnx")
    (tmp_path / "page.onnx").write_bytes(NO_WEIGHTS["page"][0])
    with pytest.raises(WeightsError, match=r"page\.onnx is no ONNX file"):
        describe_onnx(tmp_path / "page.onnx")
    with pytest.raises(FileNotFoundError):
        describe_onnx(tmp_path / "none.onnx")


def test_validation_does_not_hide_what_is_not_finite():
    """A logit of +∞ where the mask is polyp costs nothing, and its sigmoid is 1."""
    images = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    data = Data(("a", "b"), images, torch.full((2, 32, 32), 255, dtype=torch.uint8), CPU.device)
    scheme = get_scheme("binary")
    losses = []
    for bias in (50.0, 1e38):
        network = UNet(3, 1, 4).eval()
        network.output.weight.data.zero_()
        network.output.bias.data.fill_(bias)
        network.register_forward_hook(lambda module, inputs, out: out * 10)
        losses.append(validate(network, data, scheme, CombinedLoss(), CPU, 2)["loss"])
    assert losses[0] == pytest.approx(0, abs=1e-3)
    assert losses[1] != losses[1]  # NaN
