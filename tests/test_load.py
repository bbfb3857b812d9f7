"""Models come from disk and from the Hub, and run cards say what their runs do.

The Hub is a local stand-in that answers as huggingface_hub expects; the client is the real one. It
reads HF_ENDPOINT when it is imported, so it runs in its own process.
"""

import base64
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from polyp_utils import cli
from polyp_utils.common.config import RELEASED
from polyp_utils.common.exceptions import HubError, RunError, WeightsError
from polyp_utils.common.files import write_json
from polyp_utils.data import phantom
from polyp_utils.data.labels import SCHEMES
from polyp_utils.data.pixels import read_frame
from polyp_utils.deploy.load import load_model
from polyp_utils.deploy.onnx import describe_onnx
from polyp_utils.model.predict import to_original
from polyp_utils.model.unet import UNet
from polyp_utils.model.weights import load_weights, read_metadata, save_weights
from polyp_utils.publish import published as published_module
from polyp_utils.publish.published import publish
from polyp_utils.publish.run_card import write_run_card
from polyp_utils.runs.run import Run

SUMMARY = {
    "part": "test",
    "n": 8,
    "protocol": "one value per image, then the mean; polyp where P(all polyp classes) > 0.5; BCa",
    "scores": [
        {"size": size, "class": name, "score": score, "mean": mean, "low": low}
        | {"high": high, "n": n}
        for size, name, score, mean, low, high, n in (
            ("original", "polyp (merged)", "dice", 0.79134, 0.7504, 0.83021, 8),
            ("original", "polyp (merged)", "iou", 0.70219, 0.6613, 0.7489, 8),
            ("original", "boundary", "dice", 0.41, None, None, 1),
            ("network", "polyp (merged)", "dice", 0.80007, 0.76, 0.84, 8),
            ("network", "polyp (merged)", "recall", None, None, None, 0),
        )
    ],
}
PUBLISHED = Path(__file__).parents[1] / "results/published"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def copy_run(run: Run, folder) -> Run:
    return Run(shutil.copytree(run.path, folder / run.name))


def evaluated(run: Run) -> Run:
    (run.path / "summary.json").write_text(json.dumps(SUMMARY))
    return run


# --- loading from disk ---------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", SCHEMES)
def test_weights_of_every_scheme_come_back_with_the_same_logits(scheme, tmp_path, trained_like):
    network = trained_like(SCHEMES[scheme].logits, width=6)
    path = tmp_path / "any-name.safetensors"
    save_weights(path, network, {"settings": {"scheme": scheme, "image_size": 64}})
    model = load_model(path, device="cpu", precision="fp32")
    x = torch.rand(2, 3, 48, 32)
    with torch.no_grad():
        torch.testing.assert_close(model.network(x), network(x), rtol=1e-4, atol=1e-5)
    assert model.scheme is SCHEMES[scheme]
    assert model.image_size == 64
    assert not model.network.training


@pytest.mark.parametrize("scheme", ["trimap", "binary"])
def test_run_folder_and_its_file_give_the_predictions_of_the_run(scheme, tiny_runs):
    run = tiny_runs[scheme]
    for source in (run.path, str(run.path), run.weights):
        model = load_model(source, device="cpu", precision="fp32")
        assert model.metadata["settings"]["width"] == 4
    frame_id = "phantom-0300"  # the first of the test part
    image, _ = phantom.draw_phantom(300)
    stored = to_original(run.probabilities("test", frame_id, model.scheme), image.shape[:2])
    probabilities = model.probabilities(image)
    assert probabilities.shape == stored.shape
    assert (probabilities - stored).abs().max() < 1.02 / 255  # stored as 8 bits per class
    other = model.probabilities(image[::-1])
    assert (other - stored).abs().max() > 5 / 255  # or the test proves nothing


@pytest.fixture
def any_weights(tmp_path, trained_like):
    """A weights file whose predictions for noise differ from pixel to pixel on any machine."""
    path = tmp_path / "any.safetensors"
    save_weights(path, trained_like(), {"settings": {"scheme": "trimap", "image_size": 64}})
    return path


def test_masks_follow_from_probabilities_at_the_size_of_the_frame(any_weights):
    model = load_model(any_weights, device="cpu", precision="fp32", runtime="torch")
    noise = np.random.default_rng(0).integers(256, size=(90, 70, 3), dtype=np.uint8)
    image = noise[..., ::-1]  # not square, and a view with a negative stride
    with torch.no_grad():  # makes half of the frame polyp
        background, *polyps = model.probabilities(image)
        model.network.output.bias[0] += (sum(polyps) / background).log().median()
    p = model.probabilities(image).numpy()
    assert p.shape == (3, *image.shape[:2])
    polyp, classes = model.polyp_mask(image), model.class_map(image)
    assert polyp.dtype == bool
    assert classes.dtype == np.uint8
    clear = np.abs(p[1] + p[2] - 0.5) > 1e-5  # classes are summed before they are enlarged
    assert np.array_equal(polyp[clear], (p[1] + p[2] > 0.5)[clear])
    assert clear.mean() > 0.99
    assert np.array_equal(classes, p.argmax(axis=0))
    assert 0.4 < polyp.mean() < 0.6


def test_a_mirrored_model_predicts_the_same_for_a_flipped_frame(any_weights):
    settings = {"device": "cpu", "precision": "fp32"}
    plain, mirrored = (load_model(any_weights, **settings, mirrored=m) for m in (False, True))
    image = np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)

    def change(model):
        there, turned = model.probabilities(image), model.probabilities(image[:, ::-1])
        return (there - turned.flip(-1)).abs().max()

    assert change(mirrored) < 1e-5  # the same four copies, summed in another order
    assert change(plain) > 1e-3
    assert (plain.probabilities(image) - mirrored.probabilities(image)).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("image", "hint"),
    [
        (np.zeros((40, 40, 3), np.float32), r"float32 .*\(image \* 255\)"),
        (np.zeros((40, 40, 3), np.int64), r"int64 \(40, 40, 3\)"),
        (np.zeros((40, 40), np.uint8), r"of a grey one np\.stack"),
        (np.zeros((40, 40, 4), np.uint8), r"without alpha image\[\.\.\., :3\]"),
        (np.zeros((3, 40, 50), np.uint8), r"image\.transpose\(1, 2, 0\)"),
        (np.zeros((2, 40, 40, 3), np.uint8), "frames of a batch one by one"),
        (np.zeros((0, 40, 3), np.uint8), "has no pixels"),
        (np.zeros(3, np.uint8), r"uint8 \(3,\)"),
        (torch.zeros(3, 40, 50), r"a Tensor \[3, 40, 50\].*\.permute\(1, 2, 0\)\.numpy"),
        ([[[0, 0, 0]]], "is a list"),
        ("frame.jpg", "is a str"),
        (None, "is a NoneType"),
        (Image.new("I;16", (9, 9)), "mode I;16, so which level is white is not certain"),
        (Image.new("F", (9, 9)), "mode F"),
    ],
)
def test_what_is_no_frame_is_refused_and_it_is_said_what_to_give(image, hint, any_weights):
    model = load_model(any_weights, device="cpu")
    calls = (model.at_network_size, model.probabilities, model.class_map, model.polyp_mask)
    for call in calls:
        with pytest.raises(ValueError, match=hint) as caught:
            call(image)
        assert "\n" not in str(caught.value)


def test_an_image_of_pillow_is_seen_as_the_file_is(any_weights, tmp_path):
    model = load_model(any_weights, device="cpu", precision="fp32", runtime="torch")
    pixels = np.random.default_rng(0).integers(256, size=(40, 64, 3), dtype=np.uint8)
    for mode in ("RGB", "L", "P", "RGBA", "CMYK", "1"):
        image = Image.fromarray(pixels).convert(mode)
        image.getexif()[0x0112] = 6  # a quarter to the right
        suffix = "jpg" if mode == "CMYK" else "png"
        image.save(tmp_path / f"{mode}.{suffix}", exif=image.getexif())
        with Image.open(tmp_path / f"{mode}.{suffix}") as opened:
            found = model.probabilities(opened)
            assert model.polyp_mask(opened).shape == model.class_map(opened).shape == (64, 40)
        frame = read_frame(tmp_path / f"{mode}.{suffix}")
        assert torch.equal(found, model.probabilities(frame))


def test_a_plain_state_dict_loads_if_scheme_and_size_are_given(tmp_path, trained_like):
    network, path = trained_like(), tmp_path / "plain.safetensors"
    save_file(network.state_dict(), path)
    with pytest.raises(WeightsError, match=r"3 logits: one of trimap, unused-third, jpeg-levels"):
        load_model(path)
    with pytest.raises(WeightsError, match="image_size="):
        load_model(path, scheme="trimap")
    with pytest.raises(WeightsError, match="3 logits but scheme 'binary' needs 1"):
        load_model(path, scheme="binary", image_size=64)
    settings = {"scheme": "unused-third", "image_size": 64}
    model = load_model(path, **settings, device="cpu", precision="fp32")
    x = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model.network(x), network(x), rtol=1e-4, atol=1e-5)
    assert model.metadata == {}


def test_scheme_that_contradicts_the_weights_is_refused(tiny_runs):
    with pytest.raises(WeightsError, match="trained with scheme 'trimap', not 'jpeg-levels'"):
        load_model(tiny_runs["trimap"].path, scheme="jpeg-levels")
    assert load_model(tiny_runs["trimap"].path, scheme="trimap", image_size=64).image_size == 64


def test_pickle_and_foreign_tensors_are_refused(tmp_path):
    pickled, foreign = tmp_path / "model.safetensors", tmp_path / "foreign.safetensors"
    torch.save(UNet(3, 3, 4).state_dict(), pickled)
    save_file({"conv.weight": torch.zeros(3)}, foreign)
    with pytest.raises(WeightsError, match=r"not a safetensors file but a pickle of torch\.save"):
        load_model(tmp_path)
    with pytest.raises(WeightsError, match=r"no U-Net of this package \(1 tensors\)"):
        load_model(foreign)


@pytest.mark.parametrize("source", ["nothing-here", "a/b/c", "a/missing.safetensors", "../x", "."])
def test_neither_folder_nor_file_nor_repository(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"is not a run, a file|holds no model\.safe"):
        load_model(source)


def test_without_a_source_the_released_weights_are_loaded(tmp_path, monkeypatch):
    model = load_model(precision="fp32", runtime="torch")
    assert (model.metadata["run"], model.image_size, model.scheme.name) == (RELEASED, 256, "trimap")
    assert "research only" in model.metadata["use"]
    assert load_model(RELEASED, precision="fp32", runtime="torch").metadata == model.metadata
    monkeypatch.setattr("polyp_utils.deploy.load.repo_root", lambda: tmp_path)
    with pytest.raises(FileNotFoundError, match=r"released weights, .* run this in a clone"):
        load_model()


def test_a_missing_run_folder_is_not_looked_up_on_the_hub(tmp_path, monkeypatch):
    (tmp_path / "results").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"is not a run, .* Runs with weights"):
        load_model("results/quick-trimap-w16-s0")


def test_without_huggingface_hub_the_error_says_what_to_download(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    url = "https://huggingface.co/user/name/resolve/v1/model.safetensors"
    with pytest.raises(HubError, match=f"not installed: install it, or download {re.escape(url)} "):
        load_model("user/name@v1")


# --- the Hub -------------------------------------------------------------------------------------


class StandIn(ThreadingHTTPServer):
    """Keeps repositories in memory: ``repos[id][path] = bytes``."""

    def __init__(self):
        self.repos: dict[str, dict[str, bytes]] = {}
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    """Answers hf_hub_download, create_repo and upload_folder; everything else is 404."""

    server: StandIn

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path)
        if not match:
            return self.answer(404)
        repo_id, revision, path = match.groups()
        if repo_id not in self.server.repos:
            return self.answer(401, **{"X-Error-Code": "RepoNotFound"})
        if revision not in ("main", "v1", COMMIT):
            return self.answer(404, **{"X-Error-Code": "RevisionNotFound"})
        if path not in self.server.repos[repo_id]:
            return self.answer(404, **{"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        body = self.server.repos[repo_id][path]
        etag = f'"{len(body)}-{hash(body)}"'
        return self.answer(200, body, **{"ETag": etag, "X-Repo-Commit": COMMIT})

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        repo_id = "/".join(self.path.split("/")[3:5])
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            repo_id = f"{asked['organization']}/{asked['name']}"
            self.server.repos.setdefault(repo_id, {})
            return self.json({"url": f"{self.server.url}/{repo_id}"})
        if self.path == "/api/validate-yaml":
            return self.json({"errors": [], "warnings": []})
        if "/preupload/" in self.path:
            paths = [file["path"] for file in json.loads(body)["files"]]
            modes = {"uploadMode": "regular", "shouldIgnore": False}
            return self.json({"files": [{"path": path, **modes} for path in paths]})
        if "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    self.server.repos[repo_id][line["value"]["path"]] = content
            url = f"{self.server.url}/{repo_id}/commit/{COMMIT}"
            return self.json({"commitUrl": url, "commitOid": COMMIT, "success": True})
        return self.answer(404)

    def json(self, values):
        self.answer(200, json.dumps(values).encode(), **{"Content-Type": "application/json"})

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def stand_in():
    with StandIn() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


# One process for everything, as importing torch takes longest. argv: sources, then the runs to push
# as user/<name> and to use as their cards say. An export takes seconds: one is enough.
CLIENT = """
import importlib.util, json, re, sys
from pathlib import Path
from huggingface_hub import PyTorchModelHubMixin, hf_hub_download
from polyp_utils.data import phantom
from polyp_utils.deploy.load import load_model
from polyp_utils.model import UNet
from polyp_utils.publish import hub
from polyp_utils.runs.run import Run
class HubUNet(UNet, PyTorchModelHubMixin):
    pass
export = hub.export_onnx
answers = {}
for source in json.loads(sys.argv[1]):
    try:
        answers[source] = load_model(source, device="cpu").scheme.name
    except Exception as error:
        answers[source] = f"{type(error).__name__}: {error}"
for name, folder in json.loads(sys.argv[2]).items():
    repo_id = f"user/{name}"
    whole = name == "released" and importlib.util.find_spec("onnxscript")
    stub = lambda source, path: path.write_bytes(b"onnx") and path
    hub.export_onnx = export if whole else stub
    address = hub.push(Run(Path(folder)), repo_id)
    card = Path(hf_hub_download(repo_id, "README.md")).read_text(encoding="utf-8")
    scope = {"frame": phantom.draw_phantom(0)[0]}
    for block in re.findall(r"```python\\n(.*?)```", card, re.S):
        exec(block, scope)
    state = scope["model"].state_dict()
    again = HubUNet.from_pretrained(repo_id).state_dict()
    answers[name] = {
        "address": str(address),
        "state": {key: value.double().sum().item() for key, value in state.items()},
        "from_pretrained": all(value.equal(again[key]) for key, value in state.items()),
        "polyp": int(scope["mask"].sum()),
        "shapes": [list(scope[name].shape) for name in ("classes", "mask", "frame")],
        "values": scope["classes"].unique().tolist(),
    }
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def answers(stand_in, tiny_runs, tmp_path_factory):
    """The client's answers by source; its cache is checked to be where it should be."""
    pytest.importorskip("huggingface_hub")
    folder = tmp_path_factory.mktemp("client")
    torch.save({}, folder / "pickle")
    stand_in.repos |= {
        "user/good": {"model.safetensors": tiny_runs["binary"].weights.read_bytes()},
        "user/old": {"pytorch_model.bin": b"pickle"},
        "user/bad": {"model.safetensors": (folder / "pickle").read_bytes()},
    }
    names = ("good", "good@v1", "good@v2", "old", "bad", "none")
    sources = json.dumps([f"user/{name}" for name in names])
    runs = {scheme: str(evaluated(copy_run(r, folder)).path) for scheme, r in tiny_runs.items()}
    released = Run(PUBLISHED / RELEASED)  # not one of that name that was trained here
    runs["released"] = str(copy_run(released, folder).path)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    mine = {
        "HF_ENDPOINT": stand_in.url,
        "HF_HOME": str(folder / "hf"),
        "HF_TOKEN": "hf_stand_in",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
    }
    done = subprocess.run(
        [sys.executable, "-c", CLIENT, sources, json.dumps(runs)],
        env=kept | mine,
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert list((folder / "hf").rglob("model.safetensors"))
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("source", ["user/good", "user/good@v1"])
def test_load_from_the_hub(source, answers):
    assert answers[source] == "binary"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("user/good@v2", "HubError: user/good has no revision 'v2'"),
        ("user/old", "HubError: user/old has no model.safetensors at revision 'main'"),
        ("user/none", "HubError: user/none is not a file or folder here, nor a repository"),
        ("user/bad", "WeightsError: .* is not a safetensors file"),
    ],
)
def test_what_the_hub_does_not_have(source, message, answers):
    assert re.match(message, answers[source])


@pytest.mark.parametrize("scheme", ["trimap", "binary"])
def test_a_pushed_run_is_used_as_its_card_says(scheme, answers, stand_in, tiny_runs):
    answer = answers[scheme]
    assert answer["address"] == f"{stand_in.url}/user/{scheme}/commit/{COMMIT}"
    assert set(stand_in.repos[f"user/{scheme}"]) == {
        *("README.md", "config.json", "history.csv", "model.onnx"),
        *("model.safetensors", "summary.json", "training.json"),
    }
    assert answer["state"] == sums(tiny_runs[scheme].weights)
    classes, mask, frame = answer["shapes"]
    assert (classes, mask) == ([1, 32, 32], frame[:2])
    assert set(answer["values"]) <= set(range(len(SCHEMES[scheme].classes)))


def sums(weights):
    return {key: value.double().sum().item() for key, value in load_file(weights).items()}


@pytest.mark.parametrize("name", ["trimap", "binary", "released"])
def test_config_is_the_record_and_what_from_pretrained_needs(name, answers, stand_in, tiny_runs):
    run = tiny_runs.get(name) or Run(PUBLISHED / RELEASED)
    config = json.loads(stand_in.repos[f"user/{name}"]["config.json"])
    assert config == {**run.record, **config}
    network = {"in_channels": 3, "num_classes": run.scheme.logits, "width": run.config.width}
    assert {key: config[key] for key in config.keys() - run.record.keys()} == network
    assert answers[name]["from_pretrained"]


def test_the_released_weights_come_back_from_the_hub(answers, stand_in, tmp_path):
    run, files = Run(PUBLISHED / RELEASED), stand_in.repos["user/released"]
    assert files["model.safetensors"] == run.weights.read_bytes()
    assert answers["released"]["state"] == sums(run.weights)
    model = load_model(device="cpu")
    assert answers["released"]["polyp"] == model.polyp_mask(phantom.draw_phantom(0)[0]).sum()
    card = files["README.md"].decode()
    assert "`model.onnx` takes RGB uint8" in card
    assert "onnx" in hub_card(card).data.tags
    assert "model.onnx" not in write_run_card(copy_run(run, tmp_path)).read_text(encoding="utf-8")


def test_the_onnx_file_on_the_hub_is_of_the_released_weights(answers, stand_in, tmp_path):
    pytest.importorskip("onnxscript")
    path = tmp_path / "model.onnx"
    path.write_bytes(stand_in.repos["user/released"]["model.onnx"])
    about = describe_onnx(path)
    assert about["run"] == RELEASED
    digest = hashlib.sha256(Run(PUBLISHED / RELEASED).weights.read_bytes()).hexdigest()
    assert about["sha256"] == digest[:16]


def test_without_a_network_the_error_says_what_to_download(tmp_path, monkeypatch):
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # a dead line is retried for 23 s first
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    url = "https://huggingface.co/user/name/resolve/main/model.safetensors"
    with pytest.raises(HubError, match=f"cannot be loaded .* download {re.escape(url)} and"):
        load_model("user/name")


# --- the model card ------------------------------------------------------------------------------


def test_card_numbers_are_those_of_the_summary(run):
    before = {path for path in evaluated(run).path.rglob("*")}
    path = write_run_card(run)
    assert {path for path in run.path.rglob("*")} - before == {run.path / "README.md"}
    text = path.read_text(encoding="utf-8")
    table = re.findall(r"^\| (?:original|network) \|.*\|$", text, re.M)
    assert len(table) == len(SUMMARY["scores"])
    for line, row in zip(table, SUMMARY["scores"], strict=True):
        size, name, score, interval, n = line.strip("| ").split(" | ")
        assert (size, name, score, int(n)) == tuple(
            row[key] for key in ("size", "class", "score", "n")
        )
        shown = [float(number) for number in re.findall(r"[\d.]+", interval)]
        known = [row[key] for key in ("mean", "low", "high") if row[key] is not None]
        assert shown == pytest.approx(known, abs=5e-4)
    assert "Polyp Dice **0.791 [0.750, 0.830]** on 8 frames of test" in text
    assert SUMMARY["protocol"] in text
    assert "not been evaluated" not in text


def hub_card(text):
    return pytest.importorskip("huggingface_hub").ModelCard(text)


def test_front_matter_is_what_the_hub_reads(run):
    text = write_run_card(evaluated(run)).read_text(encoding="utf-8")
    data = hub_card(text).data  # raises if the Hub could not read the model index
    assert data.pipeline_tag == "image-segmentation"
    assert data.library_name == "pytorch"
    assert data.model_name == run.name
    results = {(r.metric_type, r.metric_name.split(", ")[2]): r for r in data.eval_results}
    assert {key: r.metric_value for key, r in results.items()} == {
        ("dice", "original size"): 0.79134,
        ("iou", "original size"): 0.70219,
        ("dice", "network size"): 0.80007,
    }
    first = data.eval_results[0]
    assert (first.dataset_type, first.dataset_split) == ("phantom", "test")
    assert data.metrics == ["dice", "iou"]


def test_card_of_a_run_that_was_not_evaluated(run):
    text = write_run_card(run).read_text(encoding="utf-8")
    assert "This run has not been evaluated: its folder holds no `summary.json`" in text
    assert "model-index" not in hub_card(text).data
    assert hub_card(text).data.eval_results is None


def test_card_facts_come_from_the_run(run):
    text = write_run_card(run).read_text(encoding="utf-8")
    tensors = load_file(run.weights)
    learned = {k: v for k, v in tensors.items() if "running" not in k and "num_batches" not in k}
    assert f"Parameters: {sum(v.numel() for v in learned.values()):,}\n" in text
    assert "train 12, val 12, test 12 frames" in text
    assert "(4, 8, 16, 32 channels), bottleneck\n(64)" in text
    assert "| 2 | boundary | yes |" in text
    for known in (*run.record["fingerprints"].values(), run.training["device"]):
        assert known in text
    assert run.record["commit"] in text
    assert "MB, in this folder." in text
    assert "nothing about endoscopy" in text


def test_command_of_the_card_trains_the_same_run(run, capsys):
    text = write_run_card(run).read_text(encoding="utf-8")
    words = shlex.split(re.search(r"```bash\n(.*?)\n```", text)[1])
    assert words[:4] == ["python", "-m", "polyp_utils", "train"]
    assert cli.main(words[3:]) == 0  # other settings would make another folder, or an error
    assert capsys.readouterr().out == f"{run.name} is finished: nothing to train\n"


def test_weights_from_research_data_are_for_research_only(run):
    record = run.record
    record["settings"] |= {"recipe": "card", "dataset": "kvasir-seg", "split": "random-800-s42"}
    record["resumed"] = [{"commit": "later"}]
    (run.path / "config.json").write_text(json.dumps(record))
    text = write_run_card(run).read_text(encoding="utf-8")
    data = hub_card(text).data
    assert (data.license, data.license_name) == ("other", "research-only")
    assert "commercial use needs permission" in text
    assert "MMM 2020" in text
    assert "False positives on frames without polyps are not measured" in text
    assert "Not a medical device" in text
    assert f"| commit | {record['commit']}, then later |" in text


def test_card_without_weights_says_how_to_make_them(run):
    run.weights.unlink()
    text = write_run_card(run).read_text(encoding="utf-8")
    assert "not in this folder, so that it is light to clone; the command above trains them" in text
    with pytest.raises(FileNotFoundError, match=r"has the command that trains it again"):
        load_model(run.path)


def test_publishing_leaves_out_heavy_weights_and_state(run, tmp_path, monkeypatch):
    monkeypatch.setattr(published_module, "repo_root", lambda: tmp_path)
    write_run_card(run)
    for name in ("last/state.pt", ".x.tmp"):
        (run.path / name).parent.mkdir(exist_ok=True)
        (run.path / name).write_bytes(b"12345")
    notebook = tmp_path / "results/published" / run.name / "02_train.ipynb"
    notebook.parent.mkdir(parents=True)
    notebook.write_text('{"cells": []}')  # is there before the run is published, and stays
    published = publish(run)
    assert published.path == notebook.parent
    names = {path.name for path in published.path.rglob("*") if path.is_file()}
    assert names >= {"02_train.ipynb", "model.safetensors", "history.csv", "test.zip"}
    assert not names & {"state.pt", ".x.tmp", ".lock", "phantom-0300.png"}
    text = (published.path / "README.md").read_text()
    assert "MB, in this folder, kernels in float16 (scored in float32)." in text
    assert publish(published) == published
    monkeypatch.chdir(tmp_path)
    there = Run(published.path.relative_to(tmp_path))
    assert publish(there) == there

    shutil.rmtree(published.path)
    light = publish(run, light=True)
    names = {path.name for path in light.path.rglob("*") if path.is_file()}
    assert names >= {"config.json", "history.csv", "training.json", "README.md"}
    assert not [n for n in names if n.endswith((".png", ".ipynb", ".safetensors"))]
    assert "not in this folder" in (light.path / "README.md").read_text()

    halved = publish(run).weights
    assert halved.stat().st_size < 0.75 * run.weights.stat().st_size  # the header, and some float32
    assert read_metadata(halved) == read_metadata(run.weights)
    model = load_weights(UNet(width=4), halved)
    for key, value in load_file(run.weights).items():
        kernel = value.ndim > 1
        assert torch.equal(model.state_dict()[key], value.half().float() if kernel else value)
    monkeypatch.setattr(published_module, "MAX_COMMITTED_BYTES", 4)
    halved.unlink()
    assert not publish(run).weights.exists()
    assert "not in this folder" in (published.path / "README.md").read_text()
    write_json(run.path / "config.json", {**run.record, "commit": "another"})
    with pytest.raises(RunError, match="another run of that name"):
        publish(run)
    (run.path / "training.json").unlink()
    with pytest.raises(RunError, match="is not finished"):
        publish(run)


def test_no_card_for_an_unfinished_run(run):
    (run.path / "training.json").unlink()
    with pytest.raises(RunError, match="is not finished"):
        write_run_card(run)
    assert not (run.path / "README.md").exists()
