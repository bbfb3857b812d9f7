"""The ONNX files predict what the network predicts, for frames of every size and batch."""

import hashlib
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import polyp_utils
from polyp_utils import cli
from polyp_utils.common.config import RELEASED, RunConfig
from polyp_utils.common.exceptions import ExtraError, WeightsError
from polyp_utils.data import phantom
from polyp_utils.data.catalog import CATALOG
from polyp_utils.deploy.load import load_model
from polyp_utils.deploy.onnx import describe_onnx, export_int8, export_onnx
from polyp_utils.model.predict import to_probabilities
from polyp_utils.model.unet import UNet
from polyp_utils.model.weights import load_weights, save_weights
from polyp_utils.runs.run import Run, find_run, split_of

SETTINGS = {"scheme": "trimap", "image_size": 64, "dataset": "kvasir-seg"}
PROVENANCE = {"run": "a-run", "commit": "0123abc"}


def save(path, network, **settings):
    """Weights with the settings in their header."""
    save_weights(path, network, {**PROVENANCE, "settings": {**SETTINGS, **settings}})
    return network


@pytest.fixture(scope="module")
def exported(tmp_path_factory, trained_like):
    """A network with three classes, and its ONNX file (an export takes seconds)."""
    pytest.importorskip("onnxscript")
    folder = tmp_path_factory.mktemp("onnx")
    network = save(folder / "model.safetensors", trained_like())
    return network, export_onnx(folder / "model.safetensors", folder / "made/model.onnx")


def run_onnx(path, images):
    """Of uint8 images (B, H, W, 3)."""
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["probabilities"], {"images": images})[0])


def noise(batch, height, width):
    return np.random.default_rng(0).integers(0, 256, (batch, height, width, 3), dtype=np.uint8)


def of_network(network, images):
    """Its probabilities, float32 (B, C, H, W), of uint8 images (B, H, W, 3)."""
    with torch.no_grad():
        return to_probabilities(network(torch.from_numpy(images).permute(0, 3, 1, 2) / 255))


@pytest.fixture(scope="module")
def quantised(exported):
    """Its file in int8, calibrated on noise, like the network's batch norms."""
    pytest.importorskip("onnxruntime")
    images = torch.randint(0, 256, (16, 3, 32, 32), dtype=torch.uint8)
    path = exported[1]
    return export_int8(path, path.with_suffix(".int8.onnx"), images)


SIZES = [(1, (16, 16)), (8, (32, 48)), (3, (80, 16)), (1, (256, 256)), (1, (272, 400))]


@pytest.mark.parametrize(("batch", "size"), SIZES)
def test_probabilities_are_the_networks(exported, batch, size):
    network, path = exported
    images = noise(batch, *size)
    expected = of_network(network, images)
    assert (expected.std(dim=(0, 2, 3)) > 0.01).all()  # or the test proves nothing
    torch.testing.assert_close(run_onnx(path, images), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("batch", "size"), SIZES)
def test_probabilities_of_int8_are_nearly_the_networks(exported, quantised, batch, size):
    """8 % of their spread was measured; integer arithmetic is the same on every CPU."""
    images = noise(batch, *size)
    expected = of_network(exported[0], images)
    found = run_onnx(quantised, images)
    torch.testing.assert_close(found.sum(dim=1), torch.ones_like(found[:, 0]))
    off = (found - expected).abs().mean(dim=(0, 2, 3))
    assert (off > 0).all()
    assert (off < 0.25 * expected.std(dim=(0, 2, 3))).all()


def test_weights_of_int8_cannot_saturate_where_products_are_added_in_16_bits(quantised):
    """AVX2 without VNNI adds two products of uint8 and int8 in 16 bits."""
    onnx = pytest.importorskip("onnx")
    graph = onnx.load(quantised).graph
    tensors = {i.name: onnx.numpy_helper.to_array(i) for i in graph.initializer}
    weights = [t for t in tensors.values() if t.dtype == np.int8 and t.ndim == 4]
    assert len(weights) == 19  # all convolutions but the first
    assert max(int(np.abs(w.astype(int)).max()) for w in weights) <= 64
    assert 2 * 255 * 64 < 2**15
    floats = {t.shape for t in tensors.values() if t.dtype == np.float32 and t.ndim == 4}
    assert floats == {(4, 3, 3, 3), (64, 32, 2, 2), (32, 16, 2, 2), (16, 8, 2, 2), (8, 4, 2, 2)}


@pytest.mark.parametrize(("height", "width"), [(1, 1), (15, 16), (17, 40), (64, 33)])
def test_other_sizes_are_padded_with_their_edge_and_cut_to_size(exported, height, width):
    network, path = exported
    images = noise(2, height, width)
    below, beside = -height % 16, -width % 16
    padded = np.pad(images, ((0, 0), (0, below), (0, beside), (0, 0)), "edge")
    expected = of_network(network, padded)[..., :height, :width]
    torch.testing.assert_close(run_onnx(path, images), expected, rtol=0, atol=1e-5)


def test_int8_takes_other_sizes_too(quantised):
    assert run_onnx(quantised, noise(1, 17, 40)).shape == (1, 3, 17, 40)


def test_one_logit_becomes_two_probabilities(tmp_path, trained_like):
    pytest.importorskip("onnxscript")
    network = save(tmp_path / "model.safetensors", trained_like(num_classes=1), scheme="binary")
    path = export_onnx(tmp_path / "model.safetensors", tmp_path / "model.onnx")
    images = noise(2, 32, 32)
    with torch.no_grad():
        polyp = network(torch.from_numpy(images).permute(0, 3, 1, 2) / 255).sigmoid()
    assert polyp.std() > 0.01  # or the test proves nothing
    expected = torch.cat([1 - polyp, polyp], dim=1)
    torch.testing.assert_close(run_onnx(path, images), expected, rtol=0, atol=1e-5)


@pytest.mark.data
def test_probabilities_of_the_released_weights_on_real_frames(kvasir_root, tmp_path):
    pytest.importorskip("onnxscript")
    run = find_run(RELEASED)
    path = export_onnx(run.path, tmp_path / "model.onnx")
    network = load_weights(UNet(3, 3, run.config.width), run.weights).eval()
    for frame_id in run.split.test[:5]:
        frame = Image.open(kvasir_root / f"Kvasir-SEG/images/{frame_id}.jpg").resize((256, 256))
        images = np.array(frame)[None]
        off = (run_onnx(path, images) - of_network(network, images)).abs().max()
        assert off < 1e-3  # on the 100 test frames at most 0.000008


@pytest.mark.parametrize("file", ["exported", "quantised"])
def test_the_file_is_self_contained_and_describes_itself(file, request, exported):
    onnx = pytest.importorskip("onnx")
    path = exported[1] if file == "exported" else request.getfixturevalue(file)
    assert {f.name for f in path.parent.iterdir()} <= {"model.onnx", "model.int8.onnx"}
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
    shapes = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert shapes == {
        "images": ["batch", "height", "width", 3],
        "probabilities": ["batch", 3, "height", "width"],
    }
    metadata = describe_onnx(path)
    assert metadata.keys() > shapes.keys()  # and says in words what they are
    terms = metadata.pop("terms")
    assert CATALOG["kvasir-seg"].licence in terms
    assert "not a medical device" in terms
    digest = hashlib.sha256(path.parents[1].joinpath("model.safetensors").read_bytes()).hexdigest()
    expected = {"classes": ["background", "polyp", "boundary"], "polyp": [1, 2], **SETTINGS}
    expected |= {**PROVENANCE, "sha256": digest[:16]}
    assert {key: metadata[key] for key in metadata.keys() - shapes.keys()} == expected


def test_a_file_of_another_program_is_refused(exported, tmp_path):
    onnx = pytest.importorskip("onnx")
    model = onnx.load(exported[1])
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "bare.onnx")
    with pytest.raises(WeightsError, match="does not say what its classes are"):
        describe_onnx(tmp_path / "bare.onnx")


EXAMPLE = """
import importlib.abc, sys
from pathlib import Path

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in ("torch", "polyp_utils"):
            raise ModuleNotFoundError(f"{name} is absent")

sys.meta_path.insert(0, Absent())
exec(Path("example.py").read_text(encoding="utf-8"))
"""


def test_the_readmes_example_needs_no_pytorch(tmp_path, trained_like):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    readme = Path(polyp_utils.__file__).with_name("README.md").read_text(encoding="utf-8")
    code = next(b for b in re.findall(r"```python\n(.*?)```", readme, re.S) if "onnxruntime" in b)
    assert len([line for line in code.splitlines() if line]) <= 15
    (tmp_path / "example.py").write_text(code, encoding="utf-8")
    network = trained_like()
    frame = phantom.draw_phantom(0)[0]
    weights = tmp_path / "model.safetensors"
    save(weights, network)
    settings = {"device": "cpu", "precision": "fp32", "runtime": "torch"}
    background, *polyps = load_model(weights, **settings).probabilities(frame)
    with torch.no_grad():  # makes half of the frame polyp
        network.output.bias[0] += (sum(polyps) / background).log().median()
    save(weights, network)
    export_onnx(weights, tmp_path / re.search(r'"(.*\.onnx)"', code)[1])
    Image.fromarray(frame).save(tmp_path / "frame.jpg", format="PNG")
    command = [sys.executable, "-c", EXAMPLE]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    mask = np.asarray(Image.open(tmp_path / "mask.png"))
    assert f"{PROVENANCE['run']}: {mask.mean():.1%} of" in done.stdout
    ours = load_model(weights, **settings).polyp_mask(frame)
    assert 0.4 < ours.mean() < 0.6
    assert (mask != ours).mean() < 0.02  # Pillow rounds otherwise than PyTorch, by one level


def test_weights_without_metadata_need_scheme_and_size(tmp_path):
    pytest.importorskip("onnxscript")
    save_weights(tmp_path / "bare.safetensors", UNet(width=4), {})
    with pytest.raises(WeightsError, match="give scheme="):
        export_onnx(tmp_path / "bare.safetensors", tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


def test_calibration_without_images_is_refused(exported, tmp_path):
    with pytest.raises(ValueError, match="no images to calibrate with"):
        export_int8(exported[1], tmp_path / "q.onnx", torch.zeros(0, 3, 32, 32, dtype=torch.uint8))
    assert not list(tmp_path.iterdir())


def test_export_writes_int8_beside_the_file(exported, tmp_path, monkeypatch, capsys):
    pytest.importorskip("onnxruntime")
    settings = {"limit": 2, "image_size": 32}
    config = RunConfig.from_recipe("quick", **settings)
    run = SimpleNamespace(path=tmp_path, config=config, split=split_of(config))
    monkeypatch.setattr("polyp_utils.runs.run.find_run", lambda name: run)
    made = lambda source, path: Path(shutil.copy(exported[1], path))  # noqa: E731
    monkeypatch.setattr("polyp_utils.deploy.onnx.export_onnx", made)
    assert cli.main(["export", "--int8", "--path", str(tmp_path / "model.onnx")]) == 0
    assert capsys.readouterr().out.endswith(f"wrote {tmp_path / 'model.int8.onnx'}\n")
    images = noise(1, 32, 32)
    both = [run_onnx(tmp_path / name, images) for name in ("model.onnx", "model.int8.onnx")]
    assert not torch.equal(*both)


@pytest.mark.parametrize("name", ["onnx", "onnxscript"])
def test_a_missing_package_is_one_line_with_how_to_install_it(tmp_path, monkeypatch, capsys, name):
    monkeypatch.setitem(sys.modules, "onnx", np)  # installed or not: any module will do
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ExtraError, match=f"{name} .*--extra export"):
        export_onnx("nowhere", tmp_path / "model.onnx")
    monkeypatch.setattr("polyp_utils.runs.run.find_run", lambda name: Run(tmp_path))
    assert cli.main(["export", "--path", str(tmp_path / "model.onnx")]) == 2
    assert "--extra export" in capsys.readouterr().err
    assert not (tmp_path / "model.onnx").exists()
