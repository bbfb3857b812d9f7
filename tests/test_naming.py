"""Names of data sets in records: where they are on this machine, and without it."""

import glob

import pytest

from polyp_utils.data.catalog import get_info
from polyp_utils.data.naming import full_name, name_without_place, title_of


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder of somebody's with a set in it."""
    home = tmp_path / "home [old]/ann"
    for path in ("sets/mine/images/1.jpg", "sets/mine/masks/1.png"):
        (home / path).parent.mkdir(parents=True, exist_ok=True)
        (home / path).touch()
    monkeypatch.chdir(home)
    monkeypatch.setenv("POLYP_DATA", str(tmp_path / "data"))
    return home


def test_full_names_hold_in_any_working_folder(home, tmp_path, monkeypatch):
    names = ["kvasir-seg", "sets/mine", "sets/mine/images/*::sets/mine/masks/*.png"]
    known, folder, patterns = (full_name(name) for name in names)
    assert (known, folder) == ("kvasir-seg", str(home / "sets/mine"))
    monkeypatch.chdir(tmp_path)
    for name in (known, folder, patterns):
        assert full_name(name) == name
    assert [len(glob.glob(pattern)) for pattern in get_info(patterns).patterns] == [1, 1]
    assert title_of(patterns) == title_of(folder) == "mine"
    assert title_of("kvasir-seg") == "Kvasir-SEG"


def test_names_without_place_are_found_below_the_data_root(home, tmp_path, monkeypatch):
    names = ["sets/mine", "sets/mine/images/*::sets/mine/masks/*.png"]
    full = [full_name(name) for name in names]
    short = [name_without_place(name) for name in full]
    assert short == ["mine", "mine/images/*::mine/masks/*.png"]
    assert [name_without_place(name) for name in short] == short
    (tmp_path / "data").mkdir()
    (home / "sets/mine").rename(tmp_path / "data/mine")
    monkeypatch.chdir(tmp_path)
    assert [full_name(name) for name in short] == [
        str(tmp_path / "data/mine"),
        f"{glob.escape(str(tmp_path))}/data/mine/images/*::{glob.escape(str(tmp_path))}/data/mine/masks/*.png",
    ]
    (tmp_path / "data/more").mkdir()
    (tmp_path / "data/mine").rename(tmp_path / "data/more/mine")
    assert name_without_place(full_name("data/more/mine")) == "more/mine"


def test_a_folder_never_takes_a_name_of_the_catalogue(home):
    (home / "sets/etis").mkdir()
    name = name_without_place(full_name("sets/etis"))
    assert name == "./etis"
