import hashlib
import shutil
import sys
import threading
import zipfile
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from polyp_utils.common.exceptions import DataError
from polyp_utils.data import catalog
from polyp_utils.data.catalog import CATALOG, Archive, fetch, get_info, locate
from polyp_utils.data.dataset import PolypDataset

MEMBERS = {"Kvasir-SEG/images/a.jpg": b"image", "Kvasir-SEG/masks/a.jpg": b"mask"}


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def serve(tmp_path, monkeypatch):
    """Serves a zip of the given members from this machine; returns its `Archive`."""
    pytest.importorskip("pooch")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    folder = tmp_path / "server"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=folder))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()

    def make(members):
        path = folder / "set.zip"
        with zipfile.ZipFile(path, "w") as handle:
            for name, content in members.items():
                handle.writestr(name, content)
        content = path.read_bytes()
        url = f"http://127.0.0.1:{server.server_port}/set.zip"
        return Archive(url, hashlib.sha256(content).hexdigest())

    yield make
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def root(tmp_path, monkeypatch):
    """An empty data root."""
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("POLYP_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def tree(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def with_archive(monkeypatch, archive):
    info = replace(get_info("kvasir-seg"), archive=archive)
    monkeypatch.setitem(CATALOG, "kvasir-seg", info)
    return info


def test_a_missing_set_is_fetched_once(root, serve, monkeypatch):
    info = with_archive(monkeypatch, serve(MEMBERS))
    assert locate(info) == root / "Kvasir-SEG"
    assert tree(root) == MEMBERS
    assert [path.name for path in root.iterdir()] == ["Kvasir-SEG"]  # no temporary folder is left
    monkeypatch.setattr(catalog, "fetch", None)  # calling it again would fail
    assert locate(info) == root / "Kvasir-SEG"


def test_a_set_that_combines_others_is_shown_only_if_they_are():
    joined = [info for info in CATALOG.values() if info.joins]
    assert joined
    for info in joined:
        assert info.shown == all(CATALOG[name].shown for name in info.joins)


def test_an_archive_other_than_the_published_one_is_rejected(root, serve):
    served = serve(MEMBERS)
    expected = replace(served, sha256="0" * 64)
    with pytest.raises(ValueError, match=r"Nothing was unpacked\.") as caught:
        fetch(get_info("kvasir-seg"), expected, root)
    message = str(caught.value)
    assert f"expected {expected.sha256} but got {served.sha256}" in message
    assert f"unpack it to {root / 'Kvasir-SEG'}" in message
    assert list(root.iterdir()) == []


@pytest.mark.parametrize(
    "member",
    ["../x", "{0}/x", "C:\\x", "..\\x", "Kvasir-SEG/../../x", "Kvasir-SEG/images/../../../x"],
)
def test_no_member_is_unpacked_outside_the_folder(member, root, serve, tmp_path):
    archive = serve(MEMBERS | {member.format(tmp_path): b"evil"})
    before = tree(tmp_path)
    fetch(get_info("kvasir-seg"), archive, root)
    added = tree(tmp_path).items() - before.items()
    assert {"data/" + path for path in MEMBERS} <= {path for path, _ in added}
    assert all(path.startswith("data/Kvasir-SEG/") for path, _ in added)


def test_harmless_members_are_unpacked(root, serve):
    fetch(get_info("kvasir-seg"), serve({"./": b""} | MEMBERS), root)
    assert tree(root) == MEMBERS


def test_missing_data_and_no_network(root, monkeypatch):
    pytest.importorskip("pooch")
    url = "http://127.0.0.1:9/set.zip"  # nothing listens there
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with_archive(monkeypatch, Archive(url, ""))
    with pytest.raises(FileNotFoundError) as caught:
        PolypDataset("kvasir-seg", 64)
    message = str(caught.value)
    for part in (
        f"Kvasir-SEG is not at {root / 'Kvasir-SEG'}",
        f"the download from {url} failed",
        "Get it from https://datasets.simula.no/kvasir-seg/ (terms: free for research",
        "put its images and masks (1000 pairs) there",
        "set POLYP_DATA",
        "dataset 'phantom' with split 'phantom-240'",
    ):
        assert part in message
    assert list(root.iterdir()) == []


def test_missing_data_and_no_pooch(root, monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(FileNotFoundError, match=r"pooch, which would fetch it, is not installed\."):
        locate(get_info("kvasir-seg"))
    assert not any(root.iterdir())


def test_missing_data_without_archive(root, monkeypatch):
    info = with_archive(monkeypatch, None)
    with pytest.raises(FileNotFoundError, match=r"its terms allow no automatic download\. Get"):
        locate(info)
    assert not any(root.iterdir())


def test_a_data_root_that_does_not_exist_is_not_made(root):
    root.rmdir()
    with pytest.raises(FileNotFoundError, match=r"POLYP_DATA is not an existing folder\. Get"):
        locate(get_info("kvasir-seg"))


def test_unknown_dataset():
    with pytest.raises(ValueError, match=r"unknown dataset 'kvasir': did you mean 'kvasir-seg'\?"):
        get_info("kvasir")


@pytest.mark.parametrize("name", CATALOG)
def test_entries_are_complete(name):
    info = CATALOG[name]
    assert info.name == name
    assert info.title
    assert info.licence
    assert info.citation
    assert info.count > 0
    if name != "phantom":
        assert info.folders
        assert info.homepage.startswith("https://")


def test_a_folder_is_a_data_set(drawn_folder, monkeypatch):
    monkeypatch.chdir(drawn_folder.parent)
    for name in (str(drawn_folder), "Kvasir-SEG"):
        info = get_info(name)
        assert locate(info) == drawn_folder
        assert (info.name, info.archive, info.count) == ("Kvasir-SEG", None, 0)
    with pytest.raises(FileNotFoundError, match="dataset my/frames is not a folder"):
        get_info("my/frames")


@pytest.mark.parametrize("name", [n for n, info in CATALOG.items() if info.folders])
def test_sets_are_found_under_each_of_their_names(name, root):
    for folder in CATALOG[name].folders[::-1]:
        (root / folder).mkdir(parents=True, exist_ok=True)
        assert locate(CATALOG[name]) == root / folder  # the first named wins


@pytest.mark.parametrize("name", ["Kvasir-SEG (1)", "kvasir-seg", "Kvasir_SEG-master"])
def test_a_renamed_folder_is_found(name, root):
    (root / name).mkdir(parents=True)
    assert locate(CATALOG["kvasir-seg"]) == root / name
    (root / "Kvasir SEG").mkdir()
    with pytest.raises(FileNotFoundError, match=r"Kvasir SEG, .* could all be it; rename"):
        locate(CATALOG["kvasir-seg"])
    (root / "Kvasir-SEG").mkdir()
    assert locate(CATALOG["kvasir-seg"]) == root / "Kvasir-SEG"


def test_two_patterns_are_a_data_set(drawn_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(drawn_folder.parent)
    monkeypatch.setenv("POLYP_DATA", str(tmp_path / "nothing"))
    by_folder = PolypDataset(str(drawn_folder), 32)
    by_patterns = PolypDataset("Kvasir-SEG/images/*.jpg::Kvasir-SEG/masks/*", 32)
    assert by_patterns.info.title == "Kvasir-SEG"
    assert by_patterns.ids == by_folder.ids
    assert by_patterns.fingerprint == by_folder.fingerprint
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"\*\.jpg matches no image files .*: correct the pattern"):
        PolypDataset("Kvasir-SEG/images/*.jpg::Kvasir-SEG/masks/*", 32)
    for name in ("::masks/*", "images/*::"):
        with pytest.raises(ValueError, match="give two patterns, IMAGES::MASKS"):
            get_info(name)


def test_what_is_left_aside_is_said_when_a_set_is_opened(drawn_folder, tmp_path):
    folder = shutil.copytree(drawn_folder, tmp_path / "Kvasir-SEG")
    shutil.copytree(folder / "masks", folder / "edge")
    with pytest.warns(UserWarning, match=r"Kvasir-SEG: 8 files are left aside \(.*\): edge"):
        PolypDataset(str(folder), 32)


def test_only_kvasir_seg_is_fetched_without_asking():
    assert [name for name, info in CATALOG.items() if info.archive] == ["kvasir-seg"]


def test_kvasir_archive_is_the_official_one():
    archive = get_info("kvasir-seg").archive
    assert archive.url.startswith("https://datasets.simula.no/")
    assert archive.sha256 == "03b30e21d584e04facf49397a2576738fd626815771afbbf788f74a7153478f7"
