"""Weights that other programs saved: loaded with the logits of their own code, or refused."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from foreign_unets import KINDS, Biased, ImageNetNormalised, UpsampledFirst, Wrapped, make
from PIL import Image
from safetensors.torch import save_file

from polyp_utils import cli
from polyp_utils.common.exceptions import WeightsError
from polyp_utils.deploy.foreign import Normalised
from polyp_utils.deploy.key_map import CHOICES
from polyp_utils.deploy.load import load_model
from polyp_utils.deploy.onnx import export_onnx
from polyp_utils.deploy.openvino import OpenVINONetwork, threads_for
from polyp_utils.model.predict import to_probabilities
from polyp_utils.model.weights import save_weights

PLAIN = {"skip": "first", "channels": "RGB", "range": 1, "mean": [0, 0, 0], "std": [1, 1, 1]}
PLAIN |= {"eps": 1e-5, "scheme": "trimap", "image_size": 64}
OTHERS = {"skip": "last", "channels": "BGR", "range": 255, "eps": 1e-3}
OTHERS |= {"mean": [0.1, 0.2, 0.3], "std": [1, 1, 0.9]}
FP32 = {"device": "cpu", "precision": "fp32", "runtime": "torch"}
OURS = {"scheme": "trimap", "image_size": 64, **FP32}


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    """Refusals write into the current folder."""
    monkeypatch.chdir(tmp_path)


def save(kind):
    """A network and its file, in the format of its kind."""
    network, name = make(kind), kind.__name__
    if kind in (Biased, Wrapped):
        path = Path(f"{name}.pth")
        torch.save(network.checkpoint() if kind is Wrapped else network.state_dict(), path)
    else:
        path = Path(f"{name}.safetensors")
        save_file(network.state_dict(), path)
    return network, path


def template_of(path):
    """What the refusal writes."""
    with pytest.raises(WeightsError, match=rf"Check the names in {path.stem}\.keys\.json"):
        load_model(path)
    return json.loads(Path(f"{path.stem}.keys.json").read_text(encoding="utf-8"))


def filled(template, **choices):
    """A key map with these choices."""
    path = Path("map.json")
    path.write_text(json.dumps(template | {"choices": PLAIN | choices}))
    return path


def off(network, reference, images):
    """The largest difference of logits, in units of the spread of the reference's."""
    with torch.no_grad():
        expected = reference(reference.seen(images))
        spread = expected.std(dim=(0, 2, 3)).min()
        assert spread > 0.05  # else the test says nothing
        return float((network(images) - expected).abs().max() / spread)


# --- with a key map ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_their_own_code_and_no_choice_is_idle(kind):
    """Folding changes the order of 19 layers' sums: 3e-5 of the spread was measured in float32."""
    reference, path = save(kind)
    template, images = template_of(path), torch.rand(2, 3, 32, 48)
    assert None not in template["names"].values()

    def distance(**choices):
        keys = filled(template, **kind.choices | choices)
        return off(load_model(path, keys=keys, **FP32).network, reference, images)

    assert distance() < 1e-3
    for name, other in OTHERS.items():
        wrong = other if kind.choices.get(name, PLAIN[name]) == PLAIN[name] else PLAIN[name]
        assert distance(**{name: wrong}) > 0.1, name  # 0.3 was measured, of eps


@pytest.mark.parametrize("runtime", ["torch", "openvino"])
def test_normalisation_works_in_both_runtimes_and_is_seen_by_threads_for(runtime):
    if runtime == "openvino":
        pytest.importorskip("openvino")
    reference, path = save(Wrapped)
    keys = filled(template_of(path), **Wrapped.choices)
    model = load_model(path, keys=keys, **FP32 | {"runtime": runtime})
    assert isinstance(model.network, Normalised)
    assert isinstance(model.network.network, OpenVINONetwork) == (runtime == "openvino")
    assert off(model.network, reference, torch.rand(1, 3, 32, 32)) < 1e-3
    frame = np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)
    images = torch.from_numpy(frame).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        expected = to_probabilities(reference(reference.seen(images)))[0]
    torch.testing.assert_close(model.probabilities(frame), expected, rtol=0, atol=1e-4)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with threads_for(model.network):
            assert torch.get_num_threads() == (1 if runtime == "openvino" else 2)
    finally:
        torch.set_num_threads(before)


def test_onnx_carries_the_normalisation():
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    reference, path = save(ImageNetNormalised)
    keys = filled(template_of(path), **ImageNetNormalised.choices)
    file = export_onnx(path, "model.onnx", keys=keys)
    levels = torch.randint(0, 256, (1, 32, 32, 3), dtype=torch.uint8)
    images = levels.permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        expected = to_probabilities(reference(reference.seen(images)))
    session = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (found,) = session.run(["probabilities"], {"images": levels.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=0, atol=1e-4)


def test_predict_records_the_choices_and_refuses_to_go_on_with_others(capsys):
    _, path = save(Wrapped)
    template = template_of(path)
    Image.new("RGB", (40, 30), (200, 90, 80)).save("frame.png")
    command = ["predict", "frame.png", "--out", "out", "--weights", str(path), "--device", "cpu"]
    assert cli.main([*command, "--keys", str(filled(template, **Wrapped.choices))]) == 0
    recorded = json.loads(Path("out/summary.json").read_text())["model"]["choices"]
    assert {**PLAIN, **Wrapped.choices}.items() <= recorded.items()
    capsys.readouterr()
    assert cli.main([*command, "--keys", str(filled(template, channels="RGB"))]) == 2
    assert "'BGR'" in capsys.readouterr().err


# --- the template --------------------------------------------------------------------------------


def test_the_template_has_both_lists_and_leaves_open_what_shapes_cannot_tell():
    _, path = save(Biased)
    template = template_of(path)
    assert template["choices"] == dict.fromkeys(CHOICES)
    assert template["left"] == []
    names = template["names"]
    assert names["encoder.0.0.weight [4, 3, 3, 3]"] == "top.a.conv.weight"
    assert names["encoder.0.0.bias [4]"] == "top.a.conv.bias"
    assert names["decoder.3.4.running_var [4]"] == "top.d.bn.running_var"
    assert names["head.0.weight [2, 4, 3, 3]"] == "squeeze.conv.weight"  # 1×1 there
    state = torch.load(path, weights_only=True)
    assert sorted(names.values()) == sorted(n for n in state if "num_batches" not in n)


def test_a_name_that_is_not_guessed_is_null_and_what_is_left_is_listed():
    network = make(UpsampledFirst)
    state = {
        n.replace("reduce.1.weight", "reduce.gamma"): t for n, t in network.state_dict().items()
    }
    save_file(state, "odd.safetensors")
    template = template_of(Path("odd.safetensors"))
    assert [ours for ours, theirs in template["names"].items() if theirs is None] == [
        "head.1.weight [2]"
    ]
    assert template["left"] == ["reduce.gamma [2]"]
    with pytest.raises(WeightsError, match=r"missing: head\.1\.weight; left over: reduce\.gamma"):
        load_model("odd.safetensors", keys=filled(template))


def test_a_template_is_never_overwritten():
    _, path = save(UpsampledFirst)
    there = Path(f"{path.stem}.keys.json")
    there.write_text("mine")
    with pytest.raises(WeightsError, match=f"{there} is there already"):
        load_model(path)
    assert there.read_text() == "mine"


def test_a_template_that_cannot_be_written_is_said():
    path = Path("a" * 250 + ".pt")  # with .keys.json the name is too long for file systems
    torch.save(make(UpsampledFirst).state_dict(), path)
    with pytest.raises(WeightsError, match="cannot be written here"):
        load_model(path)


@pytest.mark.parametrize("still_open", [["skip"], ["range", "mean"], [*CHOICES]])
def test_open_choices_are_refused_by_name(still_open):
    _, path = save(UpsampledFirst)
    keys = filled(template_of(path), **dict.fromkeys(still_open))
    with pytest.raises(WeightsError, match="leaves open") as caught:
        load_model(path, keys=keys)
    assert [name for name in CHOICES if f" {name} (" in str(caught.value)] == still_open


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("skip", "middle"),
        ("channels", "rgb"),
        ("range", 256),
        ("mean", 0.5),
        ("mean", [0, 0]),
        ("std", [1, 1, 0]),
        ("eps", 0),
        ("eps", "1e-5"),
        ("scheme", "cats"),
        ("image_size", 100),
        ("gamma", 2.2),
    ],
)
def test_a_choice_that_is_none_is_refused(name, value):
    _, path = save(UpsampledFirst)
    keys = filled(template_of(path), **{name: value})
    with pytest.raises(WeightsError, match=rf"{name} .* it is |unknown choice '{name}'"):
        load_model(path, keys=keys)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"choices": {}, "names": {"a": 1}}'])
def test_what_is_no_key_map_is_refused(text):
    _, path = save(UpsampledFirst)
    Path("map.json").write_text(text)
    with pytest.raises(WeightsError, match=r"map\.json is no key map"):
        load_model(path, keys="map.json")


def test_names_that_are_unknown_or_used_twice_are_refused():
    _, path = save(UpsampledFirst)
    template = template_of(path)
    names = template["names"]
    ours, other = [name for name in names if name.startswith("encoder.0.1.")][:2]
    twice, unknown = names | {ours: names[other]}, names | {ours: "nobody"}
    with pytest.raises(WeightsError, match=rf"names more than once: {names[other]}"):
        load_model(path, keys=filled(template | {"names": twice}))
    with pytest.raises(WeightsError, match="does not hold: nobody"):
        load_model(path, keys=filled(template | {"names": unknown}))


# --- our own names -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prefix", "wrapped"), [("module.", "state_dict"), ("model.net._orig_mod.", "")]
)
def test_prefixes_and_wrapping_dicts_are_taken_off_and_said(prefix, wrapped, trained_like, capsys):
    network = trained_like()
    state = {prefix + name: tensor for name, tensor in network.state_dict().items()}
    torch.save({"epoch": 3, wrapped: state} if wrapped else state, "mine.pt")
    model = load_model("mine.pt", **OURS)
    said = f"prefix '{prefix}' stripped"
    said = f"taken from '{wrapped}', {said}" if wrapped else said
    assert capsys.readouterr().out == f"mine.pt: {said}\n"
    images = torch.rand(2, 3, 32, 48)
    with torch.no_grad():
        torch.testing.assert_close(model.network(images), network(images), rtol=1e-4, atol=1e-5)
    assert model.choices == {}


def test_biases_before_a_batch_norm_are_folded(trained_like):
    network = trained_like()
    state, biased = network.state_dict(), {}
    for name, module in network.named_modules():
        if isinstance(module, torch.nn.Conv2d) and module.bias is None:
            stem, _, index = name.rpartition(".")
            bias = biased[f"{name}.bias"] = torch.randn(module.out_channels)
            state[f"{stem}.{int(index) + 1}.running_mean"] += bias  # the same network
    assert len(biased) == 19
    save_file(state | biased, "biased.safetensors")
    found = load_model("biased.safetensors", **OURS).network
    images = torch.rand(2, 3, 32, 48)
    with torch.no_grad():
        expected = trained_like()(images)
        torch.testing.assert_close(found(images), expected, rtol=1e-4, atol=1e-4)
        save_file(state, "shifted.safetensors")
        shifted = load_model("shifted.safetensors", **OURS).network(images)
    assert (shifted - expected).abs().max() > 0.1  # a bias that is lost would show


def test_all_that_is_wrong_is_named_and_cut_with_a_count(trained_like):
    state = trained_like().state_dict()
    for name in [name for name in state if name.startswith("bottleneck.")]:
        del state[name]
    state |= {"head.0.weight": torch.zeros(3, 4, 3, 3), "aux.weight": torch.zeros(2, 2)}
    save_file(state, "part.safetensors")
    with pytest.raises(WeightsError) as caught:
        load_model("part.safetensors", **OURS)
    missing, left, shapes = str(caught.value).split(": ", 1)[1].split("; ")
    assert missing.startswith("missing: bottleneck.0.weight, bottleneck.1.weight")
    assert missing.endswith(" and 4 more")  # of ten: two kernels, two norms of four
    assert left == "left over: aux.weight"
    assert shapes == "of another shape: head.0.weight [3, 4, 3, 3] for [2, 4, 3, 3]"


def test_predict_takes_scheme_and_size_of_weights_that_do_not_say_them(trained_like, capsys):
    torch.save(trained_like().state_dict(), "mine.pt")
    Image.new("RGB", (40, 30), (200, 90, 80)).save("frame.png")
    command = ["predict", "frame.png", "--out", "out", "--weights", "mine.pt", "--device", "cpu"]
    assert cli.main(command) == 2
    assert "does not say its label scheme and input size" in capsys.readouterr().err
    assert cli.main([*command, "--scheme", "trimap", "--image-size", "64"]) == 0
    recorded = json.loads(Path("out/summary.json").read_text())["model"]
    assert (recorded["scheme"], recorded["image_size"]) == ("trimap", 64)
    assert recorded["choices"] is None


# --- what is no such file ------------------------------------------------------------------------


class Evil:
    """Writes a file when it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch ran",)


def test_a_pickle_that_needs_code_is_refused_and_not_run(trained_like):
    torch.save({"state_dict": trained_like().state_dict(), "by": Evil()}, "evil.pt")
    with pytest.raises(WeightsError, match=r"needs \w+\.system.*export its state_dict"):
        load_model("evil.pt")
    assert not Path("ran").exists()


def test_a_file_with_several_networks_is_refused(trained_like):
    state = trained_like().state_dict()
    torch.save(
        {"model": state, "ema": {"shadow": dict(state)}, "metrics": {"a": torch.ones(3)}}, "two.pt"
    )
    with pytest.raises(WeightsError, match=r"2 sets of tensors \(model, ema\.shadow\)"):
        load_model("two.pt")
    torch.save({"epoch": 1}, "none.pt")
    with pytest.raises(WeightsError, match=r"0 sets of tensors \(none\)"):
        load_model("none.pt")


@pytest.mark.parametrize("change", ["empty", "no norms", "deeper head", "integers", "lacking"])
def test_a_network_that_is_not_the_cards_gets_no_template(change):
    state = make(UpsampledFirst).state_dict()
    if change == "empty":
        state = {}
    elif change == "no norms":
        state = {name: t for name, t in state.items() if t.ndim > 1}
    elif change == "deeper head":
        state["aux.weight"] = torch.zeros(3, 8, 1, 1)
    elif change == "integers":
        state = {name: t.to(torch.int8) for name, t in state.items()}
    else:
        del state["down2.double_conv.3.weight"]
    save_file(state, "other.safetensors")
    with pytest.raises(WeightsError, match=r"holds no U-Net of this package|floating-point"):
        load_model("other.safetensors")
    assert not list(Path.cwd().glob("*.json"))


def test_half_precision_is_loaded_as_it_is(trained_like):
    network = trained_like().bfloat16()
    save_weights(Path("half.safetensors"), network, {})
    found = load_model("half.safetensors", **OURS).network
    images = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        expected = network.float()(images)
        torch.testing.assert_close(found(images), expected, rtol=1e-4, atol=1e-5)
