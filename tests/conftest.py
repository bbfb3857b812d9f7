"""Shared fixtures: no test writes into the repository, and none reaches the network."""

import functools
import importlib.util
import os
import pickle
import shutil
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from exact import float64
from PIL import Image

from polyp_utils.bench import inference, loops, training
from polyp_utils.common.config import RunConfig
from polyp_utils.common.exceptions import warn_once
from polyp_utils.common.paths import data_root
from polyp_utils.data import phantom, sources
from polyp_utils.data.dataset import PolypDataset
from polyp_utils.model.unet import UNet
from polyp_utils.runs.run import Run
from polyp_utils.train.fit import fit

REAL_DATA = data_root()  # from the session's environment, before any test changes it


@pytest.fixture(autouse=True, scope="session")
def session_cache(tmp_path_factory):
    """One cache folder for all processes of a session; each phantom is drawn once, then resized."""
    base = tmp_path_factory.getbasetemp()
    cache = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"
    drawn = functools.cache(phantom.draw_phantom)
    once = SimpleNamespace(
        draw_phantom=lambda index: tuple(pixels.copy() for pixels in drawn(index)),
        VERSION=phantom.VERSION,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POLYP_CACHE", str(cache))
        patch.setattr(sources, "phantom", once)
        yield


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """One thread here and in subprocesses: tiny networks need no more; some results depend on it.

    On a busy machine, two threads that wait for each other take several times as long.
    """
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="session")
def dataset(session_cache):
    """The phantoms at 32 px."""
    return PolypDataset("phantom", 32)


@pytest.fixture(scope="session")
def tiny_runs(session_cache, one_thread, tmp_path_factory) -> dict[str, Run]:
    """A finished run per scheme, for all tests that only read it; others take a copy.

    Of the card's recipe, which is fixed, and in the precision that every CPU has.
    """
    tiny = {"dataset": "phantom", "limit": 12, "width": 4, "image_size": 32, "batch_size": 4}
    tiny |= {"epochs": 12, "lr": 0.02, "precision": "fp32", "device": "cpu"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POLYP_RESULTS", str(tmp_path_factory.mktemp("tiny")))
        configs = (RunConfig.from_recipe(scheme=s, **tiny) for s in ("trimap", "binary"))
        return {config.scheme: fit(config) for config in configs}


@pytest.fixture
def run(tiny_runs, results) -> Run:
    """A copy of the trimap run in this test's results folder, free to change."""
    run = tiny_runs["trimap"]
    return Run(shutil.copytree(run.path, results / run.name))


@pytest.fixture(scope="session")
def trained_like():
    """Makes networks whose batch norms all scale and shift, so that losing one would show.

    Their statistics come from noise, so that no layer is dead: logits differ from pixel to pixel.
    """

    def make(num_classes: int = 3, width: int = 4) -> UNet:
        torch.manual_seed(0)
        model = UNet(3, num_classes, width)
        norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = 1.0
            norm.weight.data.uniform_(0.5, 1.5)
            norm.bias.data.uniform_(-0.3, 0.3)
        with torch.no_grad():
            model.train()(torch.rand(4, 3, 32, 32))
            logits = model.eval()(torch.rand(2, 3, 32, 48))
        for norm in norms:
            norm.momentum = 0.1
        assert (logits.std(dim=(0, 2, 3)) > 0.05).all()  # or the tests prove nothing
        return model

    return make


@pytest.fixture
def exact():
    """Networks made in the test are float64."""
    with float64():
        yield


@pytest.fixture(autouse=True)
def _warnings_come_anew():
    """Each test is warned as a new process is."""
    warn_once.cache_clear()


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    """A separate results folder for every test."""
    folder = tmp_path / "results"
    monkeypatch.setenv("POLYP_RESULTS", str(folder))
    return folder


@pytest.fixture
def kvasir_root(monkeypatch):
    """Root of the real data, for tests marked ``data``."""
    monkeypatch.setenv("POLYP_DATA", str(REAL_DATA))
    return REAL_DATA


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Tests not marked ``cuda`` see no GPU; nor do their fixtures and subprocesses."""
    with pytest.MonkeyPatch.context() as patch:
        if not item.get_closest_marker("cuda"):
            patch.setenv("CUDA_VISIBLE_DEVICES", "")
            patch.setattr(torch.cuda, "is_available", lambda: False)
            no = functools.cache(lambda: False)  # torch._dynamo reads its __wrapped__
            patch.setattr(torch.backends.mps, "is_available", no)
        return (yield)


def pytest_runtest_setup(item):
    if item.get_closest_marker("browser"):
        missing = [name for name in ("chromium", "chromedriver") if not shutil.which(name)]
        missing += [] if importlib.util.find_spec("selenium") else ["selenium"]
        if missing:
            pytest.skip(f"{' and '.join(missing)} not installed: Debian's chromium-driver has both")
    if item.get_closest_marker("cuda") and not torch.cuda.is_available():
        pytest.skip("no CUDA GPU is visible")
    if item.get_closest_marker("data") and not (REAL_DATA / "Kvasir-SEG").is_dir():
        pytest.skip(f"no Kvasir-SEG/ in {REAL_DATA}: set POLYP_DATA to the folder that holds it")


@pytest.fixture(scope="session")
def drawn_folder(tmp_path_factory):
    """Eight phantom pairs laid out like Kvasir-SEG; tests take a copy, see `kvasir_like`."""
    folder = tmp_path_factory.mktemp("drawn") / "Kvasir-SEG"
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for index in range(8):
        image, mask = phantom.draw_phantom(index)
        Image.fromarray(image).save(folder / "images" / f"frame-{index}.jpg", quality=95)
        rgb_mask = Image.fromarray(mask).convert("RGB")
        rgb_mask.save(folder / "masks" / f"frame-{index}.jpg", quality=95)  # 0–8 and 246–255
    return folder


@pytest.fixture
def kvasir_like(drawn_folder, tmp_path, monkeypatch) -> Path:
    """A folder like Kvasir-SEG (ids frame-0 … frame-7) under POLYP_DATA, free to change.

    `open_source` warns that it has 8 pairs, not 1,000.
    """
    folder = tmp_path / "data" / "Kvasir-SEG"
    shutil.copytree(drawn_folder, folder)
    monkeypatch.setenv("POLYP_DATA", str(folder.parent))
    return folder


@pytest.fixture(scope="session")
def chromium():
    """A headless Chromium that reaches nothing but files and this machine, at 1280×900."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    options.add_argument("--headless=new")
    options.add_argument("--no-sandbox")  # containers often lack what it needs
    options.add_argument("--window-size=1280,900")
    options.add_argument("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost")
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    with webdriver.Chrome(options=options, service=service) as driver:
        yield driver


class Here:
    """Stands in for a ProcessPoolExecutor: works in this process, but on pickled arguments."""

    def __init__(self, workers, mp_context):
        assert (workers, mp_context.get_start_method()) == (1, "spawn")
        self.loop = None  # each process has its own

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def submit(self, *call):
        function, *arguments = pickle.loads(pickle.dumps(call))
        loops._here, future = self.loop, Future()
        try:
            future.set_result(function(*arguments))
        except ImportError as error:
            future.set_exception(pickle.loads(pickle.dumps(error)))
        self.loop = loops._here
        return future


@pytest.fixture(scope="module")
def workers_here():
    """Benchmark workers run in this process, since speed is not what is tested."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (training, inference):
            patch.setattr(module, "ProcessPoolExecutor", Here)
        patch.setattr(loops, "_here", None, raising=False)
        yield


@pytest.fixture
def blobs():
    """Masks uint8 (B, H, W) of 0 and 255: smooth blobs, many cut off by the frame's edge."""

    def make(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
        from scipy.ndimage import gaussian_filter

        noise = np.random.default_rng(seed).standard_normal((count, height, width))
        smooth = gaussian_filter(noise, (0, height / 12, width / 12))
        return np.where(smooth > 0, 255, 0).astype(np.uint8)

    return make
