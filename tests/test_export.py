"""The ONNX file says of any frames what the network says, at every size and batch."""

import json
import sys

import numpy as np
import pytest
import torch

from polyp_utils import cli, hub
from polyp_utils.config import ExtraError
from polyp_utils.data.catalog import CATALOG
from polyp_utils.export import export_onnx
from polyp_utils.inference import save_weights, to_probabilities
from polyp_utils.model import UNet

SETTINGS = {"scheme": "trimap", "image_size": 64, "dataset": "kvasir-seg"}


def save(path, network, **settings):
    """Weights with the settings in their header."""
    save_weights(path, network, {"settings": {**SETTINGS, **settings}})
    return network


@pytest.fixture(scope="module")
def exported(tmp_path_factory, trained_like):
    """A network of three classes, and its file (an export takes seconds)."""
    pytest.importorskip("onnxscript")
    folder = tmp_path_factory.mktemp("onnx")
    network = save(folder / "model.safetensors", trained_like())
    return network, export_onnx(folder / "model.safetensors", folder / "made/model.onnx")


def run_onnx(path, images):
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["probabilities"], {"images": images.numpy()})[0])


@pytest.mark.parametrize(
    ("batch", "size"),
    [(1, (16, 16)), (8, (32, 48)), (3, (80, 16)), (1, (256, 256)), (1, (272, 400))],
)
def test_probabilities_are_the_networks(exported, batch, size):
    network, path = exported
    images = torch.rand(batch, 3, *size)
    with torch.no_grad():
        expected = to_probabilities(network(images))
    assert (expected.std(dim=(0, 2, 3)) > 0.01).all()  # else the test says nothing
    torch.testing.assert_close(run_onnx(path, images), expected, rtol=0, atol=1e-5)


def test_a_size_that_does_not_fit_is_refused(exported):
    with pytest.raises(Exception, match="dimensions must match"):  # the runtime's own kind
        run_onnx(exported[1], torch.rand(1, 3, 40, 32))


def test_one_logit_becomes_two_probabilities(tmp_path, trained_like):
    pytest.importorskip("onnxscript")
    network = save(tmp_path / "model.safetensors", trained_like(num_classes=1), scheme="binary")
    path = export_onnx(tmp_path / "model.safetensors", tmp_path / "model.onnx")
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        polyp = network(images).sigmoid()
    assert polyp.std() > 0.01  # else the test says nothing
    expected = torch.cat([1 - polyp, polyp], dim=1)
    torch.testing.assert_close(run_onnx(path, images), expected, rtol=0, atol=1e-5)


def test_the_file_stands_alone_and_says_what_it_is(exported):
    onnx = pytest.importorskip("onnx")
    path = exported[1]
    assert [file.name for file in path.parent.iterdir()] == ["model.onnx"]
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
    metadata = json.loads({p.key: p.value for p in model.metadata_props}["polyp_utils"])
    terms = metadata.pop("terms")
    assert CATALOG["kvasir-seg"].licence in terms
    assert "not a medical device" in terms
    expected = {"classes": ["background", "polyp", "boundary"], "polyp": [1, 2], **SETTINGS}
    assert metadata == expected


def test_weights_that_say_nothing_need_scheme_and_size(tmp_path):
    pytest.importorskip("onnxscript")
    save_weights(tmp_path / "bare.safetensors", UNet(width=4), {})
    with pytest.raises(hub.WeightsError, match="give scheme="):
        export_onnx(tmp_path / "bare.safetensors", tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.parametrize("name", ["onnx", "onnxscript"])
def test_a_missing_package_is_one_line_with_how_to_install_it(tmp_path, monkeypatch, capsys, name):
    monkeypatch.setitem(sys.modules, "onnx", np)  # there or not: any module will do
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ExtraError, match=f"{name} .*--extra export"):
        export_onnx("nowhere", tmp_path / "model.onnx")
    monkeypatch.setattr("polyp_utils.runs.find_run", lambda name: hub.Run(tmp_path))
    assert cli.main(["export", "--path", str(tmp_path / "model.onnx")]) == 2
    assert "--extra export" in capsys.readouterr().err
    assert not (tmp_path / "model.onnx").exists()
