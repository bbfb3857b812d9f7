"""Which files the verb predict looks at, what their results are called, and what is refused."""

from pathlib import Path

import pytest

from polyp_utils.apply.inputs import find_inputs
from polyp_utils.common.exceptions import DataError


@pytest.fixture
def tree(tmp_path):
    names = ["a/1.jpg", "a/deep er/2.PNG", "b/3.tif", "b/clip.MP4", "b/notes.txt"]
    names += ["b/.hidden.png", "b/__MACOSX/4.png", "b/Thumbs.db"]
    for name in names:
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "in"


def names(paths, out):
    return [each.name for each in find_inputs(paths, out)]


def test_folders_are_searched_and_names_follow_the_files(tree, tmp_path):
    found = find_inputs([tree], tmp_path / "out")
    assert [each.name for each in found] == ["a/1", "a/deep er/2", "b/3", "b/clip"]
    assert [each.is_video for each in found] == [False, False, False, True]
    assert [each.path for each in found][1] == tree / "a/deep er/2.PNG"


def test_names_of_several_folders_begin_with_theirs(tree, tmp_path):
    assert names([tree / "a", tree / "b"], tmp_path / "out") == [
        "a/1",
        "a/deep er/2",
        "b/3",
        "b/clip",
    ]


def test_files_and_patterns(tree, tmp_path, monkeypatch):
    monkeypatch.chdir(tree)
    assert names(["a/1.jpg", "b/*"], Path("../out")) == ["1", "3", "clip"]
    assert names(["**/*.PNG"], Path("../out")) == ["2"]
    assert names(["a/1.jpg", tree / "a/1.jpg"], Path("../out")) == ["1"]  # the same file


def test_a_link_in_a_circle_ends(tree, tmp_path):
    (tree / "a/again").symlink_to(tree, target_is_directory=True)
    assert names([tree / "a"], tmp_path / "out") == ["1", "deep er/2"]


@pytest.mark.parametrize(
    ("paths", "out", "message"),
    [
        ([], "out", "no input: name images, videos, folders or patterns"),
        (["nowhere.png"], "out", "nowhere.png does not exist"),
        (["in/b/*.jpg"], "out", r"the pattern in/b/\*.jpg fits no image"),
        (["in/b/notes.txt"], "out", r"notes.txt is neither an image nor a video \(.jpg"),
        (["empty"], "out", r"empty holds no images or videos \(.jpg"),
        (["in"], "in/out", r"the results \(in/out\) and the input in lie within each other"),
        (["in"], ".", "lie within each other"),
        (["in/a/1.jpg", "twin/1.png"], "out", r"in/a/1.jpg and twin/1.png would have .* name, 1:"),
    ],
)
def test_bad_input_is_refused(tree, tmp_path, monkeypatch, paths, out, message):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("twin").mkdir()
    Path("twin/1.png").touch()
    with pytest.raises(DataError, match=message):
        find_inputs(paths, Path(out))
