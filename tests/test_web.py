"""The page that runs an ONNX file in the browser: what is written, and what is seen.

In most tests a few lines of JavaScript stand in for ONNX Runtime Web, so that the page's own
arithmetic is checked to the pixel; one test runs the real one, if npm has it in its cache.
"""

import base64
import functools
import io
import json
import os
import re
import shutil
import stat
import tarfile
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from polyp_utils import cli
from polyp_utils.common.config import RELEASED
from polyp_utils.common.exceptions import UserError
from polyp_utils.data import phantom
from polyp_utils.data.transforms import resize_image
from polyp_utils.deploy import web
from polyp_utils.deploy.load import load_model
from polyp_utils.deploy.onnx import export_onnx
from polyp_utils.deploy.web import FILES, ORT, copy_ort, write_web_page
from polyp_utils.model.predict import to_original
from polyp_utils.model.weights import save_weights
from polyp_utils.runs.run import find_run

browser = pytest.mark.browser
SIDE = 48
ABOUT = {"classes": ["background", "polyp", "boundary"], "polyp": [1, 2], "image_size": SIDE}
PLAIN = {"device": "cpu", "precision": "fp32", "runtime": "torch"}
ABOUT |= {"run": "a </script><b>run", "commit": "0123456789", "sha256": "abc", "terms": "some"}
# P(polyp) is the red of the frame: 0.25 of it in one class, the rest in the other.
STAND_IN = """
export const env = {wasm: {}};
export class Tensor {
  constructor(type, data, dims) { Object.assign(this, {type, data, dims}); }
}
export const InferenceSession = {create: async (file) => {
  if (!(await fetch(file)).ok) throw Error(`no ${file}`);
  return {run: async ({images}) => {
    globalThis.seen = {...images, threads: env.wasm.numThreads};
    const n = images.data.length / 3, data = new Float32Array(3 * n);
    for (let i = 0; i < n; i++) {
      const red = images.data[3 * i] / 255;
      data.set([1 - red], i); data.set([red / 4], n + i); data.set([3 * red / 4], 2 * n + i);
    }
    if (images.data[1] === 1 && images.data[2] === 2) data[5] = NaN;
    return {probabilities: {data}};
  }};
}};
"""


# --- the files -----------------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path):
    """A folder like the unpacked npm package."""
    folder = tmp_path / "package"
    (folder / "dist").mkdir(parents=True)
    name, version = ORT.split("@")
    (folder / "package.json").write_text(json.dumps({"name": name, "version": version}))
    for file in (*FILES, "ort.webgpu.min.mjs"):
        (folder / "dist" / file).write_text(file)
    return folder


def test_only_what_the_page_needs_is_copied(package, tmp_path):
    assert copy_ort(tmp_path / "page", package) == tmp_path / "page/ort"
    found = {path.name: path.read_text() for path in (tmp_path / "page/ort").iterdir()}
    assert found == {name: name for name in FILES}


def fake_npm(folder, monkeypatch, script):
    """The only npm on the path."""
    folder.mkdir()
    (folder / "npm").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "npm").chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")


@pytest.mark.skipif(os.name == "nt", reason="npm's stand-in is a shell script")
def test_npm_brings_the_pinned_version(package, tmp_path, monkeypatch):
    with tarfile.open(tmp_path / "ort.tgz", "w:gz") as archive:
        archive.add(package, "package")
    script = f'[ "$1 $2" = "pack {ORT}" ] && cp {tmp_path}/ort.tgz .'
    fake_npm(tmp_path / "bin", monkeypatch, script)
    copy_ort(tmp_path / "page")
    assert {path.name for path in (tmp_path / "page/ort").iterdir()} == set(FILES)


@pytest.mark.skipif(os.name == "nt", reason="npm's stand-in is a shell script")
def test_when_npm_fails_the_error_has_its_words_and_the_other_way(tmp_path, monkeypatch):
    said = (
        "echo npm error code 404 >&2; echo npm error not there >&2; echo npm error log >&2; exit 1"
    )
    fake_npm(tmp_path / "bin", monkeypatch, said)
    message = rf"could not download {ORT} \(code 404 not there\): .* with --ort"
    with pytest.raises(UserError, match=message):
        copy_ort(tmp_path / "page")
    assert not (tmp_path / "page").exists()


def test_without_npm_and_folder_the_error_names_both(tmp_path, monkeypatch):
    monkeypatch.setattr(web.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match=f"needs {ORT}: install npm, .* unpacked with --ort"):
        copy_ort(tmp_path / "page")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: shutil.rmtree(p), "no npm package: a folder with package.json and dist"),
        (lambda p: (p / "package.json").write_text("[]"), "no npm package"),
        (
            lambda p: (p / "package.json").write_text('{"name": "ort", "version": "1"}'),
            f"holds ort@1, not {ORT}",
        ),
        (lambda p: (p / "dist" / FILES[2]).unlink(), f"without {FILES[2]} in dist"),
    ],
    ids=["nothing", "no package", "another package", "incomplete"],
)
def test_a_wrong_folder_is_refused_and_nothing_written(change, message, package, tmp_path):
    change(package)
    with pytest.raises(UserError, match=re.escape(message)):
        copy_ort(tmp_path / "page", package)
    assert not (tmp_path / "page").exists()


@pytest.fixture
def exports(monkeypatch, tmp_path):
    """`export` without its export, which takes seconds."""
    monkeypatch.setattr(web, "describe_onnx", lambda path: ABOUT)
    run = SimpleNamespace(path=tmp_path, name="a #run")
    monkeypatch.setattr("polyp_utils.runs.run.find_run", lambda name: run)

    def made(source, path):
        path.write_bytes(bytes(2_400_000))
        return path

    monkeypatch.setattr("polyp_utils.deploy.onnx.export_onnx", made)


def test_export_writes_the_page_beside_the_file(exports, package, tmp_path, capsys):
    folder = tmp_path / "page"
    assert cli.main(["export", "--web", str(folder), "--ort", str(package)]) == 0
    assert f"wrote {folder / 'index.html'}: python -m http.server" in capsys.readouterr().out
    assert {path.name for path in folder.iterdir()} == {"index.html", "a #run.onnx", "ort"}
    text = (folder / "index.html").read_text(encoding="utf-8")
    assert text.count("<script") == text.count("</script") == 2  # no name ends one
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1])
    assert data == {**ABOUT, "file": "a%20%23run.onnx", "mb": 2}
    assert not re.search(r"[\"'(=](\w+:)?//|@import", text)  # nothing is fetched from elsewhere


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--web", "page", "--path", "x.onnx"], "give --path or --web"),
        (["--ort", "folder"], "give --web, its folder"),
        (["--web", "page", "--ort", "nowhere"], "nowhere holds no npm package"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_the_export(
    exports, options, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["export", *options]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.onnx"))


# --- in the browser ------------------------------------------------------------------------------


class Handler(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def end_headers(self):
        if self.server.isolated:
            self.send_header("Cross-Origin-Opener-Policy", "same-origin")
            self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()


@pytest.fixture(scope="module")
def serve():
    """Serves a folder until the module's tests are done; returns the address."""
    servers = []

    def start(folder, isolated=False):
        handler = functools.partial(Handler, directory=folder)
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.isolated = isolated
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://localhost:{server.server_port}/"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A page whose runtime is the stand-in."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "ort").mkdir()
    (folder / "ort/ort.wasm.min.mjs").write_text(STAND_IN)
    (folder / "a model.onnx").write_bytes(b"onnx")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(web, "describe_onnx", lambda path: ABOUT)
        write_web_page(folder / "a model.onnx")
    return folder


@pytest.fixture(scope="module")
def address(folder, serve):
    return serve(folder)


class Seen:
    """The page in the browser, and what a user does with it."""

    def __init__(self, driver, address):
        self.driver = driver
        driver.get(address)

    def js(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def wait(self, script, *arguments, seconds=20):
        """Until the script returns what is true; returns it."""
        from selenium.webdriver.support.wait import WebDriverWait

        return WebDriverWait(self.driver, seconds, 0.02).until(
            lambda _: self.js(script, *arguments)
        )

    def status(self):
        return self.js("return document.getElementById('status').textContent")

    def give(self, path, seconds=20):
        """Chooses a file, and waits for its outline."""
        self.driver.find_element("id", "file").send_keys(str(path))
        self.shown(path.name, seconds)

    def shown(self, name, seconds=20):
        done = "return document.getElementById('stack').dataset.file === arguments[0]"
        self.wait(done, name, seconds=seconds)

    def numbers(self):
        texts = "return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)"
        names, values = (self.js(texts, f"#numbers {tag}") for tag in ("dt", "dd"))
        return dict(zip(names, values, strict=True))

    def canvas(self, name):
        """RGBA, uint8 (H, W, 4)."""
        data = """
            const canvas = document.getElementById(arguments[0]), {width, height} = canvas;
            const {data} = canvas.getContext("2d").getImageData(0, 0, width, height);
            let text = "";
            for (const value of data) text += String.fromCharCode(value);
            return [height, width, btoa(text)];"""
        height, width, text = self.js(data, name)
        values = np.frombuffer(base64.b64decode(text), np.uint8)
        return values.reshape(height, width, 4)


@pytest.fixture
def seen(chromium, address):
    return Seen(chromium, address)


def save(image, path):
    Image.fromarray(image).save(path)
    return path


def reds(height, width):
    """A frame whose red makes smooth blobs, RGB uint8 (H, W, 3)."""
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.random((1, 3, 7, 9), dtype=np.float32))
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    return (smooth[0].clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy()


@browser
@pytest.mark.parametrize(("height", "width"), [(211, 300), (30, 41), (48, 48), (500, 20)])
def test_frames_are_resized_and_masks_enlarged_as_by_load_model(seen, tmp_path, height, width):
    frame = reds(height, width)
    seen.give(save(frame, tmp_path / f"{height}.png"))
    given = seen.js("return [...globalThis.seen.data]")
    assert seen.js("return [seen.type, ...seen.dims]") == ["uint8", 1, SIDE, SIDE, 3]
    small = torch.tensor(given, dtype=torch.uint8).view(SIDE, SIDE, 3).permute(2, 0, 1)
    expected = resize_image(torch.from_numpy(frame).permute(2, 0, 1), (SIDE, SIDE))
    assert torch.equal(small, expected)
    polyp = to_original(small[:1] / 255, (height, width))[0]
    clear = (polyp - 0.5).abs() > 1e-5
    mask = seen.canvas("fill")[..., 3] == 255
    assert np.array_equal(mask[clear], (polyp > 0.5)[clear])
    assert 0.1 < mask.mean() < 0.9
    assert np.array_equal(seen.canvas("frame")[..., :3], frame)
    numbers = seen.numbers()
    assert numbers["Size"] == f"{width} × {height} px"
    assert numbers["Area"] == f"{100 * mask.mean():.1f} % of the frame"
    assert (numbers["Polyp"], seen.status()) == ("found", "Ready.")


@browser
def test_the_outline_lies_around_the_mask_and_the_slider_fills_it(seen, tmp_path):
    frame = np.zeros((120, 160, 3), np.uint8)
    frame[40:80, 50:110, 0] = 255
    seen.give(save(frame, tmp_path / "block.png"))
    mask, outline = seen.canvas("fill"), seen.canvas("outline")
    assert np.array_equal(np.unique(mask[mask[..., 3] > 0], axis=0), [[255, 32, 255, 255]])
    drawn, inside = outline[..., 3] > 0, mask[..., 3] > 0
    assert drawn.any()
    assert not (drawn & inside).any()
    rows, columns = np.nonzero(inside)
    near = np.zeros_like(drawn)
    near[rows.min() - 3 : rows.max() + 4, columns.min() - 3 : columns.max() + 4] = True
    assert not (drawn & ~near).any()
    slider = "const s = document.getElementById('opacity'); s.value = arguments[0];"
    for opacity in ("0", "0.55"):
        seen.js(slider + "s.dispatchEvent(new Event('input'))", opacity)
        assert seen.js("return getComputedStyle(fill).opacity") == opacity
        assert seen.js("return getComputedStyle(outline).opacity") == "1"
    assert seen.driver.find_element("id", "opacity-shown").text == "55 %"


@browser
def test_a_frame_without_a_polyp_is_said_to_have_none(seen, tmp_path):
    seen.give(save(np.full((60, 60, 3), 90, np.uint8), tmp_path / "dull.png"))
    numbers = seen.numbers()
    assert (numbers["Polyp"], numbers["Highest P(polyp)"]) == ("none found", "0.35")
    assert not seen.canvas("outline").any()


@browser
def test_a_photo_is_turned_as_its_camera_says(seen, tmp_path):
    frame = Image.fromarray(reds(64, 96))
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter to the right
    frame.save(tmp_path / "turned.png", exif=exif)
    seen.give(tmp_path / "turned.png")
    assert np.array_equal(seen.canvas("frame")[..., :3], np.rot90(np.asarray(frame), -1))


@browser
def test_a_dropped_frame_is_looked_at(seen):
    bytes_of = io.BytesIO()
    Image.fromarray(reds(40, 50)).save(bytes_of, "PNG")
    drop = """
        const transfer = new DataTransfer();
        transfer.items.add(new File([new Uint8Array(arguments[0])], "dropped.png"));
        for (const name of ["dragover", "drop"]) document.body.dispatchEvent(new DragEvent(name,
            {dataTransfer: transfer, bubbles: true, cancelable: true}));"""
    seen.js(drop, list(bytes_of.getvalue()))
    seen.shown("dropped.png")
    assert seen.canvas("frame").shape == (40, 50, 4)


@browser
def test_what_is_no_image_is_said_and_the_next_frame_works(seen, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    seen.driver.find_element("id", "file").send_keys(str(tmp_path / "text.png"))
    seen.wait("return document.getElementById('status').classList.contains('error')")
    assert seen.status() == "text.png cannot be read as an image by this browser."
    seen.give(save(reds(40, 50), tmp_path / "good.png"))
    assert seen.status() == "Ready."


@browser
def test_output_that_is_not_finite_is_said_and_no_mask_is_shown(seen, tmp_path):
    seen.give(save(reds(40, 50), tmp_path / "good.png"))
    bad = save(np.full((60, 60, 3), (200, 1, 2), np.uint8), tmp_path / "bad.png")
    seen.driver.find_element("id", "file").send_keys(str(bad))
    seen.wait("return document.getElementById('status').classList.contains('error')")
    assert "is not finite, so there is no mask" in seen.status()
    assert seen.js("return document.getElementById('result').hidden")
    seen.give(save(reds(40, 50), tmp_path / "good-again.png"))
    assert not seen.js("return document.getElementById('result').hidden")


@browser
def test_a_model_that_is_missing_is_said(chromium, folder, serve, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "a model.onnx").unlink()
    seen = Seen(chromium, serve(copy))
    seen.wait("return document.getElementById('status').classList.contains('error')")
    assert seen.status() == "no a%20model.onnx"


@browser
def test_opened_as_a_file_the_page_says_what_to_do(chromium, folder):
    seen = Seen(chromium, (folder / "index.html").as_uri())
    seen.wait("return document.getElementById('status').classList.contains('error')")
    assert "run “python -m http.server”" in seen.status()


@browser
def test_the_page_reaches_nothing_but_its_own_server(seen, serve, tmp_path):
    seen.give(save(reds(40, 50), tmp_path / "frame.png"))
    fetched = seen.js("return performance.getEntriesByType('resource').map(e => e.name)")
    own = seen.js("return location.origin") + "/"
    assert {name.removeprefix(own) for name in fetched} <= {
        "ort/ort.wasm.min.mjs",
        "a%20model.onnx",
    }
    ask = """
        const done = arguments[1];
        fetch(arguments[0], {mode: "no-cors"}).then(() => done("sent"), () => done("refused"));"""
    other = serve(tmp_path)
    assert seen.driver.execute_async_script(ask, other) == "refused"
    assert seen.driver.execute_async_script(ask, own) == "sent"
    text = seen.driver.find_element("tag name", "body").text
    assert "Research use, not a medical device." in text
    assert "nothing is uploaded" in text
    assert "Model a </script><b>run · commit 0123456" in text


@browser
@pytest.mark.parametrize("isolated", [False, True])
def test_all_threads_are_used_where_the_server_isolates(
    chromium, folder, serve, isolated, tmp_path
):
    seen = Seen(chromium, serve(folder, isolated))
    seen.give(save(reds(40, 50), tmp_path / "frame.png"))
    cores = seen.js("return navigator.hardwareConcurrency")
    assert seen.js("return globalThis.seen.threads") == (cores if isolated else 1)


@pytest.fixture
def emulate(chromium):
    """Sets width and theme; afterwards they are as before."""

    def change(width, theme):
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        features = [{"name": "prefers-color-scheme", "value": theme}]
        chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    yield change
    chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def luminance(colour):
    """Relative luminance of WCAG 2 of a colour as the browser gives it, rgb(r, g, b)."""
    rgb = np.array([float(v) for v in re.findall(r"[\d.]+", colour)[:3]]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@browser
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_both_themes_can_be_read_at_both_widths(seen, emulate, theme, width, tmp_path):
    emulate(width, theme)
    seen.give(save(reds(90, 120), tmp_path / f"{'long' * 20}.png"))
    seen.js("document.getElementById('status').classList.add('error')")
    texts = ("body", ".use", "#place", "#place b", "#place .faint", "#status", "dt", "footer")
    colours = """
        const colour = (e, key) => getComputedStyle(e)[key];
        const ground = (e) => colour(e, "backgroundColor") === "rgba(0, 0, 0, 0)"
            ? ground(e.parentElement) : colour(e, "backgroundColor");
        return arguments[0].map((text) => document.querySelector(text))
            .map((e) => [colour(e, "color"), ground(e)]);"""
    pairs = seen.js(colours, texts)
    for selector, (ink, ground) in zip(texts, pairs, strict=True):
        low, high = sorted((luminance(ink), luminance(ground)))
        assert (high + 0.05) / (low + 0.05) >= 4.5, (selector, ink, ground)  # WCAG 2, level AA
    assert (luminance(pairs[0][1]) < 0.1) == (theme == "dark")
    assert seen.js("return document.documentElement.scrollWidth <= innerWidth")
    box = seen.driver.find_element("id", "opacity").rect
    assert 0 <= box["x"] < box["x"] + box["width"] <= width


@pytest.fixture(scope="module")
def write_real(tmp_path_factory):
    """Writes a page with ONNX Runtime Web; returns its folder."""
    pytest.importorskip("onnxscript")

    def write(source):
        folder = tmp_path_factory.mktemp("real")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("npm_config_offline", "true")  # tests reach no network
            try:
                copy_ort(folder)
            except UserError as error:
                pytest.skip(f"{error} (before the tests: npm cache add {ORT})")
        write_web_page(export_onnx(source, folder / "model.onnx"))
        return folder

    return write


@pytest.fixture(scope="module")
def half(tmp_path_factory, trained_like):
    """Weights that take about half of the first phantom for polyp."""
    weights, network = tmp_path_factory.mktemp("half") / "model.safetensors", trained_like()
    metadata = {"settings": {"scheme": "trimap", "image_size": 64}}
    save_weights(weights, network, metadata)
    background, *polyps = load_model(weights, **PLAIN).probabilities(phantom.draw_phantom(0)[0])
    with torch.no_grad():
        network.output.bias[0] += (sum(polyps) / background).log().median()
    save_weights(weights, network, metadata)
    return weights


def overlap(mask, other):
    return 2 * (mask & other).sum() / (mask.sum() + other.sum())


@browser
def test_the_network_finds_in_the_browser_what_load_model_finds(
    chromium, write_real, half, serve, tmp_path
):
    folder, frame = write_real(half), phantom.draw_phantom(0)[0]
    ours = load_model(half, **PLAIN).polyp_mask(frame)
    assert 0.4 < ours.mean() < 0.6
    path = save(frame, tmp_path / "frame.png")
    for isolated in (False, True):
        seen = Seen(chromium, serve(folder, isolated))
        seen.give(path, seconds=60)
        assert overlap(seen.canvas("fill")[..., 3] > 0, ours) > 0.999
        assert seen.js("return crossOriginIsolated") is isolated


@browser
@pytest.mark.data
@pytest.mark.parametrize("name", ["release-trimap-w16-s0-image-size-128", RELEASED])
def test_released_weights_mark_in_the_browser_what_load_model_marks(
    chromium, write_real, serve, kvasir_root, name, capsys
):
    """Ten test frames, decoded by the browser; prints what `results/speed.md` says."""
    if name == RELEASED and "POLYP_SLOW" not in os.environ:
        pytest.skip("half a minute, and nothing else than at width 16: set POLYP_SLOW to measure")
    run = find_run(name)
    model, folder = load_model(run.path, **PLAIN), write_real(run.path)
    for isolated in (False, True):
        seen, dice, seconds = Seen(chromium, serve(folder, isolated)), [], []
        for frame_id in run.split.test[:10]:
            path = kvasir_root / f"Kvasir-SEG/images/{frame_id}.jpg"
            seen.give(path, seconds=60)
            ours = model.polyp_mask(np.asarray(Image.open(path).convert("RGB")))
            dice.append(overlap(seen.canvas("fill")[..., 3] > 0, ours))
            seconds.append(float(seen.numbers()["Time"].split()[0]))
        assert min(dice) > 0.999
        with capsys.disabled():
            print(f"{name}, isolated {isolated}: Dice with ours {min(dice):.4f} to {max(dice):.4f}")
            print(f"seconds per frame: median {np.median(seconds):.2f}, all {sorted(seconds)}")
