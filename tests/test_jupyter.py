"""Notebooks in JupyterLab in a browser: all cells run, and a mouse works the viewer."""

import csv
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("jupyterlab")

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
pytestmark = pytest.mark.browser

# no question about news, updates or kernels; every cell is in the page, also out of sight
SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "notebook-extension/tracker": {"windowingMode": "none"},
}
KERNEL = "window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel"


class Lab:
    """A JupyterLab server, and a notebook in it as a browser shows it."""

    def __init__(self, driver, folder, address, token):
        self.driver, self.folder, self.address, self.token = driver, folder, address, token

    def open(self, name, **parameters):
        """A copy of the notebook with these parameters, alone in the window, not yet run."""
        (path,) = NOTEBOOKS.glob(f"{name}_*.ipynb")
        notebook = nbformat.read(path, as_version=4)
        (cell,) = (c for c in notebook.cells if "parameters" in c.metadata.get("tags", []))
        for key, value in parameters.items():
            given = f"{key} = {value!r}"
            cell.source, found = re.subn(
                rf"^{key}: .*", lambda _, g=given: g, cell.source, flags=re.M
            )
            assert found == 1, key
        nbformat.write(notebook, self.folder / path.name)
        self.driver.get(f"{self.address}/doc/tree/{path.name}?token={self.token}&reset")
        self.wait(lambda: self.js(f"return {KERNEL}?.connectionStatus") == "connected")
        self.wait_for_kernel()

    def run_all(self):
        """As its menu does; returns when the kernel has nothing left to do."""
        run = "jupyterapp.commands.execute('notebook:run-all-cells')"
        self.js(f"window.ran = false; {run}.finally(() => ran = true)")
        self.wait(lambda: self.js("return ran"))
        self.wait_for_kernel()

    def wait_for_kernel(self):
        self.wait(lambda: self.js(f"return {KERNEL}.status") == "idle")

    def wait(self, condition):
        from selenium.webdriver.support.wait import WebDriverWait

        return WebDriverWait(self.driver, 300, 0.1).until(lambda _: condition())

    def js(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def each(self, selector, value):
        """A property of all such elements, in document order."""
        found = f"[...document.querySelectorAll({json.dumps(selector)})]"
        return self.js(f"return {found}.map(e => e.{value})")

    def find(self, path):
        return self.driver.find_element("xpath", path)


@pytest.fixture(scope="module")
def lab(chromium, session_cache, one_thread, tmp_path_factory):
    """JupyterLab on a free port, with settings of its own; it and its kernels end with the test."""
    folder, own = tmp_path_factory.mktemp("lab"), tmp_path_factory.mktemp("jupyter")
    for name, values in SETTINGS.items():
        path = own / f"config/lab/user-settings/@jupyterlab/{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    token = secrets.token_hex()
    environment = os.environ | {"JUPYTER_TOKEN": token, "IPYTHONDIR": str(own / "ipython")}
    for kind in ("config", "data", "runtime"):
        environment[f"JUPYTER_{kind.upper()}_DIR"] = str(own / kind)
    environment["POLYP_RESULTS"] = str(folder / "results")
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    options = [f"--ServerApp.port={port}", "--ServerApp.port_retries=0", "--ServerApp.ip=localhost"]
    options += ["--ServerApp.allow_root=True", "--LabApp.expose_app_in_browser=True"]
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", *options]
    with (own / "log").open("w") as log:
        server = subprocess.Popen(command, cwd=folder, env=environment, stderr=log, stdout=log)
    try:
        ready = own / f"runtime/jpserver-{server.pid}.json"
        while not ready.exists():
            assert server.poll() is None, (own / "log").read_text()
            time.sleep(0.1)
        yield Lab(chromium, folder, f"http://localhost:{port}", token)
        chromium.get("about:blank")  # or the page asks for its server
    finally:
        started = [psutil.Process(server.pid)]
        started += started[0].children(recursive=True)
        server.terminate()
        _, left = psutil.wait_procs(started, timeout=30)
        for process in left:
            process.kill()


@pytest.fixture(scope="module")
def tiny(lab, tiny_runs):
    """A copy of the trimap run, for notebooks to write into."""
    run = tiny_runs["trimap"]
    return str(shutil.copytree(run.path, lab.folder / "results" / run.name))


def check(lab):
    """Every code cell has run, none shows an error, and all pictures are there."""
    prompts = lab.each(".jp-CodeCell .jp-InputPrompt", "textContent")
    assert prompts == [f"[{n}]:" for n in range(1, len(prompts) + 1)]
    kinds = lab.each(".jp-OutputArea-output", "dataset.mimeType")
    assert not any("error" in kind or "stderr" in kind for kind in kinds if kind), kinds
    assert "Error" not in "".join(lab.each(".jp-OutputArea-output", "textContent"))
    assert all(lab.each(".jp-OutputArea-output img", "naturalWidth"))
    assert not lab.each(".jp-Dialog", "textContent")


def test_01_runs_all_cells(lab, drawn_folder):
    lab.open("01", dataset=str(drawn_folder), image_size=64, sheet=4)
    lab.run_all()
    check(lab)
    assert len(lab.each(".jp-RenderedImage img", "src")) >= 9


def test_04_runs_all_cells(lab, tiny):
    lab.open("04", run=tiny, gallery=3, phantoms=2, device="cpu")
    lab.run_all()
    check(lab)
    assert len(lab.each(".jp-RenderedImage img", "src")) >= 6


@pytest.fixture(scope="module")
def viewer(lab, tiny):
    """Notebook 10 after all its cells have run, on phantoms."""
    lab.open("10", weights=tiny, out=str(lab.folder / "out"), device="cpu")
    lab.run_all()
    return lab


def test_10_runs_all_cells(viewer):
    check(viewer)
    assert "6 frames were looked at" in "".join(viewer.each(".jp-RenderedMarkdown", "textContent"))


PICTURE = "//img[contains(@class, 'widget-image')]"


def test_a_slider_changes_the_picture(viewer):
    from selenium.webdriver import Keys

    before = viewer.find(PICTURE).screenshot_as_png
    source = viewer.find(PICTURE).get_attribute("src")
    slider = "//label[.='threshold']/following-sibling::"
    viewer.find(f"{slider}div//*[@role='slider']").send_keys(Keys.ARROW_LEFT * 6)
    viewer.wait(lambda: viewer.find(f"{slider}div[contains(@class, 'readout')]").text == "0.20")
    viewer.wait(lambda: viewer.find(PICTURE).get_attribute("src") != source)
    viewer.wait(lambda: viewer.find(PICTURE).screenshot_as_png != before)


def test_the_next_frame_is_flagged_with_a_note(viewer):
    from selenium.webdriver import Keys

    caption = "//*[contains(., '% marked')][not(*)]"
    first = viewer.find(caption).text
    viewer.find("//button[contains(., 'next')]").click()
    viewer.wait(lambda: "(2 of 6)" in viewer.find(caption).text)
    name = viewer.find(caption).text.split(":")[0]
    assert name != first.split(":")[0]
    viewer.find("//label[contains(., 'this is wrong')]/input").click()
    viewer.find("//input[@placeholder='what is wrong?']").send_keys("misses the rim" + Keys.ENTER)
    flags = viewer.folder / "out/flags.csv"
    viewer.wait(lambda: flags.exists() and "misses the rim" in flags.read_text())
    with flags.open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["frame"], row["note"]) == (name, "misses the rim")


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_of_the_viewer_is_cut_off(viewer, width):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    viewer.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    shown = """
        const shown = document.querySelector(".widget-vbox").closest(".jp-OutputArea-output");
        const parts = [shown, ...shown.querySelectorAll(":not(.noUi-target *)")];"""
    inside = (
        "return innerWidth === arguments[0] && shown.getBoundingClientRect().right < innerWidth"
    )
    cut = "return parts.filter(e => e.scrollWidth > e.clientWidth).map(e => e.outerHTML)"
    try:
        viewer.wait(lambda: viewer.js(f"{shown} {inside}", width))
        assert viewer.js(f"{shown} {cut}") == []
    finally:
        viewer.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
