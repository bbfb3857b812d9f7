"""What others made cannot leave its folder, run code or fill the memory: see SECURITY.md."""

import ast
import json
import os
import re
import struct
import zipfile
import zlib
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image, ImageFile

import polyp_utils
from polyp_utils.apply import video
from polyp_utils.apply.inputs import Input, find_inputs
from polyp_utils.apply.results import FRAMES, Results
from polyp_utils.apply.timeline import timeline
from polyp_utils.cli import main
from polyp_utils.common import files
from polyp_utils.common.config import MAX_IMAGE_SIZE, MAX_WIDTH, RunConfig
from polyp_utils.common.exceptions import DataError, RunError
from polyp_utils.common.names import as_code, printable
from polyp_utils.data.catalog import get_info
from polyp_utils.data.labels import get_scheme
from polyp_utils.data.layout import find_pairs
from polyp_utils.data.pixels import read_frame
from polyp_utils.publish.hub import push
from polyp_utils.publish.published import publish
from polyp_utils.publish.run_card import write_run_card
from polyp_utils.runs import archive
from polyp_utils.runs.predictions import of_folder
from polyp_utils.runs.run import Run, find_run

PACKAGE = Path(polyp_utils.__file__).parent
NOTEBOOKS = PACKAGE.parent / "notebooks"
BAD_NAMES = ["a\nb", "a\rb", "a\x1b[2J", "a\x85b", "a\u2028b"]
BAD_NAMES += ["caf\udce9", "=LINK(1)", "+cmd|' C calc'!A0", "-2+SUM(3)", "@SUM(1)"]
SCHEME = get_scheme("trimap")


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8), 255).save(path, "PNG")


def stored_run(folder, **settings):
    """A finished run at 32 px without predictions."""
    files.write_json(folder / "config.json", {"settings": RunConfig(image_size=32).to_dict()})
    record = json.loads((folder / "config.json").read_text())
    record["settings"] |= settings
    files.write_json(folder / "config.json", record)
    files.write_json(folder / "training.json", {})
    return Run(folder)


# Names


@pytest.mark.parametrize("name", BAD_NAMES, ids=ascii)
def test_a_name_that_means_more_than_itself_is_refused(name, tmp_path):
    for folder in ("images", "masks"):
        picture(tmp_path / "set" / folder / f"{name}.png")
        for usual in ("-1", "<b>息肉 (1) & 'c'"):
            picture(tmp_path / "set" / folder / f"{usual}.png")
    found = find_pairs(tmp_path / "set")
    assert list(found.pairs) == ["-1", "<b>息肉 (1) & 'c'"]
    assert re.search(r"has a name .*: rename it, and its mask$", found.problems[0])
    with pytest.raises(DataError, match=r"has a name .*: rename it$"):
        find_inputs([tmp_path / "set/images"], tmp_path / "out")


def test_a_folder_and_a_run_of_such_a_name_are_refused(tmp_path):
    picture(tmp_path / "<b>" / "images" / "1.png")
    with pytest.raises(DataError, match="'<', which notebooks take for HTML: rename the folder"):
        get_info(str(tmp_path / "<b>"))
    with pytest.raises(RunError, match="notebooks take for HTML: rename the folder"):
        find_run(str(stored_run(tmp_path / "<i>").path))
    with pytest.raises(ValueError, match=r"name is '\.\./x'; it must be a plain folder name"):
        RunConfig(name="../x")


def test_results_of_a_file_without_a_name_have_no_place(tmp_path):
    with pytest.raises(DataError, match="has no name: rename it"):
        find_inputs([_touched(tmp_path / "...mp4")], tmp_path / "out")


def _touched(path):
    path.touch()
    return path


def test_a_run_has_the_name_of_its_folder_however_it_is_given(tmp_path, monkeypatch):
    run = stored_run(tmp_path / "mine")
    monkeypatch.chdir(run.path)
    (run.path / "figures").mkdir()
    assert [find_run(name).name for name in (".", "figures/..")] == ["mine", "mine"]


def test_what_is_printed_moves_no_cursor(capsys, tmp_path):
    assert main(["predict", "a\x1b\udce9.png", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "error: a\\x1b\\udce9.png does not exist\n"
    assert printable("Fälle\n息肉 1") == "Fälle\n息肉 1"


def test_a_name_in_a_sentence_of_a_notebook_is_code():
    assert as_code("`<img src=x>` [a](b)\x1b") == "`'<img src=x>' [a](b)\\x1b`"
    text = (NOTEBOOKS / "10_use_the_model.ipynb").read_text(encoding="utf-8")
    assert "{as_code(doubtful.name)}" in text
    assert "{as_code(reason)}" in text


# Links


def test_a_temporary_file_is_no_link_of_others(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / f".x.{os.getpid()}.tmp").symlink_to(victim)
    files.write_text(tmp_path / "x", "new")
    assert (victim.read_text(), (tmp_path / "x").read_text()) == ("mine", "new")


def test_the_longest_names_are_written(tmp_path):
    path = tmp_path / ("息" * 83 + ".csv")  # 253 bytes
    files.write_text(path, "new")
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_links_that_lead_in_circles_end(tmp_path):
    for name, other in ("ab", "ba"):
        (tmp_path / "set" / name).mkdir(parents=True)
        (tmp_path / "set" / name / "on").symlink_to(tmp_path / "set" / other)
    with pytest.raises(DataError, match=r"more than 16 ways to .*: remove the links"):
        find_inputs([tmp_path / "set"], tmp_path / "out")


def test_nothing_is_published_trained_or_drawn_through_a_link(tmp_path):
    (tmp_path / "secret").write_text("{}")
    run = stored_run(tmp_path / "run")
    run.weights.touch()
    (run.path / "notes.json").symlink_to(tmp_path / "secret")
    for leak in (publish, lambda run: push(run, "user/x")):
        with pytest.raises(RunError, match=r"notes\.json is a link to .*secret, and nothing is"):
            leak(run)
    (run.path / "figures").symlink_to(tmp_path)
    with pytest.raises(RunError, match="is a link to"), run.lock():
        pass
    with pytest.raises(RunError, match="is a link to"):
        run.save_figure("secret", None)
    assert (tmp_path / "secret").read_text() == "{}"


def results(folder):
    with Results(folder, {"name": "m"}, {}, "doubt") as opened:
        return opened


def test_results_are_not_written_through_a_link(tmp_path):
    results(tmp_path / "out")
    (tmp_path / "out/masks").symlink_to(tmp_path)
    with pytest.raises(RunError, match="out/masks is a link to"):
        results(tmp_path / "out")


# Records


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "../../x"}, "it must be a plain folder name"),
        ({"width": 10**6}, f"it must be at most {MAX_WIDTH}"),
        ({"image_size": 2**20}, f"it must be at most {MAX_IMAGE_SIZE}"),
        ({"image_size": "64"}, "it must be of type int"),
        ({"seed": 10**400}, "more than 64 bits"),
        ({"recipe": "../../x"}, "unknown recipe"),
        ({"split": "a<img src=x>.csv"}, "notebooks take for HTML"),
        ({"other": 1}, "unknown parameter 'other'"),
    ],
    ids=str,
)
def test_settings_of_a_strangers_run_are_checked(tmp_path, settings, message):
    with pytest.raises(RunError, match=rf"config\.json holds no settings of .*{message}"):
        _ = stored_run(tmp_path, **settings).config


@pytest.mark.parametrize("content", ["[]", "null", "{", "[" * 100_000, "\x00"])
def test_what_is_no_record_is_named(tmp_path, content):
    run = stored_run(tmp_path / "run")
    (run.path / "config.json").write_text(content)
    with pytest.raises(RunError, match=r"config\.json (is damaged|lacks)"):
        _ = run.config
    results(tmp_path / "out")
    (tmp_path / "out/summary.json").write_text(content)
    with pytest.raises(RunError, match=r"summary\.json (is damaged|lacks)"):
        results(tmp_path / "out")


def test_a_strangers_results_name_no_files_elsewhere(tmp_path):
    results(tmp_path / "out")
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    away = str(_touched(tmp_path / "away.csv"))
    listed = [{}, 1, {"name": "x", "csv": away}, {"name": "../../away", "csv": "../away.csv"}]
    for videos in (listed, "x", {"a": 1}):
        files.write_json(tmp_path / "out/summary.json", summary | {"videos": videos})
        assert results(tmp_path / "out").videos == []
    for table in ("x,y\n1,2\n", ",".join([*FRAMES, "doubt"]) + "\n1\n", f'"{"x" * 200_000}\n'):
        (tmp_path / "out/frames.csv").write_text(table)
        with pytest.raises(RunError, match=r"frames\.csv is damaged"):
            results(tmp_path / "out")


def test_the_viewer_shows_no_html_of_a_name():
    pytest.importorskip("ipywidgets")
    viewer = import_module("polyp_utils.apply.viewer")
    place = SimpleNamespace()
    viewer.Viewer._say(place, "<img src=x onerror=alert(1)>.png & so")
    assert place.value == "&lt;img src=x onerror=alert(1)&gt;.png &amp; so"


def test_a_card_shows_no_html_of_a_record(run):
    record = json.loads((run.path / "config.json").read_text())
    record |= {"note": "<img src=x> {{ 7 * 7 }}"}
    record["fingerprints"]["init_weights"] = "0"
    files.write_json(run.path / "config.json", record)
    text = write_run_card(run).read_text()
    assert "**&lt;img src=x> {{ 7 * 7 }}**" in text
    assert "<img" not in text


# Memory


def test_a_packed_prediction_is_unpacked_to_its_size_at_most(tmp_path):
    run = stored_run(tmp_path)
    packed = run.archive_path("test")
    packed.parent.mkdir(parents=True)
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.png", bytes(2**20))
    with pytest.raises(RunError, match=r"unpacks a\.png to 1,048,576 bytes, more than 69,632"):
        run.probabilities("test", "a", SCHEME)
    lying = packed.read_bytes().replace(struct.pack("<I", 2**20), struct.pack("<I", 99))
    packed.write_bytes(lying)
    with pytest.raises(RunError, match=r"test\.zip is damaged"):
        run.probabilities("test", "a", SCHEME)
    with pytest.raises(RunError, match="holds no b: "):
        archive.read(packed, "b", 9)


def test_a_prediction_of_another_size_is_not_decoded(tmp_path, monkeypatch):
    run = stored_run(tmp_path)
    path = run.prediction_path("test", "a")
    path.parent.mkdir(parents=True)
    Image.new("LA", (3000, 3000)).save(path)
    monkeypatch.setattr(ImageFile.ImageFile, "load", None)
    with pytest.raises(RunError, match=r"has 3000×3000 px, the run predicts 32×32"):
        run.probabilities("test", "a", SCHEME)


@pytest.mark.parametrize("compression", ["zlib", "lzma"])
def test_a_strip_of_a_tiff_is_unpacked_to_the_size_of_its_page_at_most(tmp_path, compression):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((16, 16)), compression="zlib")  # float64: Pillow has none
    with tifffile.TiffFile(path) as file:
        tags = file.pages.first.tags
        places = {name: tags[name].valueoffset for name in ("StripOffsets", "StripByteCounts")}
        kind = tags["Compression"].valueoffset
    strip, content = zlib.compress(bytes(2**25)), bytearray(path.read_bytes())
    struct.pack_into("<I", content, places["StripOffsets"], len(content))
    struct.pack_into("<I", content, places["StripByteCounts"], len(strip))
    if compression == "lzma":
        struct.pack_into("<H", content, kind, 34925)
    path.write_bytes(content + strip)
    with pytest.raises(DataError, match=r"unpacks to over|compressed by lzma that is not read"):
        read_frame(path)


# Programs and other files


@pytest.mark.parametrize("read", [read_frame, lambda path: of_folder(path.parent).read("a")])
def test_an_image_starts_no_program(tmp_path, monkeypatch, read):
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")  # Pillow gives it EPS
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    eps = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"
    path = tmp_path / "set/a.png"
    path.parent.mkdir()
    path.write_text(eps)
    with pytest.raises(DataError, match=r"a\.png"):
        read(path)
    assert not (tmp_path / "ran").exists()


def write_clip(path):
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width = stream.height = 32
        frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8))
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


def test_a_list_of_other_files_is_no_video(tmp_path, monkeypatch):
    write_clip(tmp_path / "secret.mp4")
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile secret.mp4\n")
    monkeypatch.chdir(tmp_path)
    _touched(Path("concat:secret.mp4|.mp4"))  # what FFmpeg takes for an address
    for name in ("list.mp4", "concat:secret.mp4|.mp4"):
        with (
            pytest.raises(DataError, match="cannot be read as a video"),
            video.open_video(Input(Path(name), "x")),
        ):
            pass


def test_frames_of_a_video_have_a_bound(tmp_path, monkeypatch):
    write_clip(tmp_path / "a.mp4")
    monkeypatch.setattr(video, "MAX_PIXELS", 1000)
    with (
        pytest.raises(DataError, match=r"has frames of 32×32 pixels; at most 1,000 are read"),
        video.open_video(Input(tmp_path / "a.mp4", "a")),
    ):
        pass


def test_the_timeline_of_ages_is_short(tmp_path):
    table = pd.DataFrame({"time": [0, 1e12], "area": 0.1, "doubt": 0.1})
    table.to_csv(tmp_path / "a.csv", index=False)
    assert len(timeline(tmp_path / "a.csv", 1e12, "<b>", "doubt")) < 10_000


# Code


SAFE = {"weights_only", "filter", "shell", "allow_pickle"}


def calls():
    """Every call in the package: module, name as written, keywords."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                keywords = {k.arg: ast.unparse(k.value) for k in node.keywords if k.arg in SAFE}
                yield path.name, ast.unparse(node.func), keywords


def test_the_package_runs_nothing_that_it_reads():
    forbidden = {"eval", "exec", "compile", "os.system", "os.popen", "pickle.load", "pickle.loads"}
    forbidden |= {"yaml.load", "pd.read_pickle", "joblib.load", "marshal.loads", "HTML"}
    needed = {"torch.load": ("weights_only", "True"), ".extractall": ("filter", "'data'")}
    for module, name, keywords in calls():
        assert name not in forbidden, (module, name)
        assert keywords.get("shell", "False") == "False", (module, name)
        assert keywords.get("allow_pickle", "False") == "False", (module, name)
        for end, (key, value) in needed.items():
            assert not name.endswith(end) or keywords.get(key) == value, (module, name)


def test_notebooks_show_no_html_of_their_own():
    for path in NOTEBOOKS.glob("*.ipynb"):
        source = "".join(
            "".join(cell["source"])
            for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]
            if cell["cell_type"] == "code"
        )
        assert not re.search(r"\bHTML\(|escape=False|Javascript\(|\beval\(", source), path


# The page


PAGE = (PACKAGE / "SECURITY.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(test_\w+)::", PAGE))))
def test_the_tests_that_the_page_names_are_there(name):
    text = (Path(__file__).parent / f"{name}.py").read_text(encoding="utf-8")
    named = re.findall(rf"`{name}::(test_\w+)`", PAGE)
    assert [test for test in named if f"def {test}(" not in text] == []


def test_the_functions_that_the_page_names_are_there():
    pytest.importorskip("ipywidgets")  # they include the viewer's
    named = re.findall(r"`([a-z_]+\.[a-z_]+)\.([\w.]+)`", PAGE)
    assert len(named) > 15
    for module, attribute in named:
        value = import_module(f"polyp_utils.{module}")
        for part in attribute.split("."):
            value = getattr(value, part)


def test_every_row_of_the_page_has_a_function_and_a_test():
    rows = [line.split("|") for line in PAGE.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 12
    for _, threat, met, test, _ in rows:
        assert re.search(r"`[a-z_]+\.[a-z_]+\.\w+", met), threat
        assert "::test_" in test, threat
