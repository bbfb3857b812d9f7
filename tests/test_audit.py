"""The audit reports every defect planted in a folder, and nothing else."""

import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageDraw

from polyp_utils.analyse.audit import CHECKS, audit, robust_z
from polyp_utils.analyse.frames import has_text
from polyp_utils.data import phantom
from polyp_utils.data.catalog import get_info
from polyp_utils.data.dataset import PolypDataset
from polyp_utils.data.grouping import grouped, groups, known_groups
from polyp_utils.data.pairs import near_duplicates
from polyp_utils.data.sources import open_source
from polyp_utils.data.splits import leak_warning, load_split


@pytest.fixture
def folder(tmp_path):
    """Twelve different synthetic frames with clean masks, as PNG."""
    root = tmp_path / "frames"
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    index = 0
    while len(list((root / "masks").iterdir())) < 12:
        image, mask = phantom.draw_phantom(index)
        if mask.any():
            Image.fromarray(image).save(root / f"images/{index:02d}.png")
            Image.fromarray(mask).save(root / f"masks/{index:02d}.png")
        index += 1
    return root


def stems(folder):
    return sorted(path.stem for path in (folder / "images").iterdir())


def a_square(height, width):
    """A mask with polyp in the middle."""
    mask = np.zeros((height, width), np.uint8)
    mask[height // 4 : height // 2, width // 4 : width // 2] = 255
    return Image.fromarray(mask)


def mask_of(folder, stem):
    return np.array(Image.open(folder / f"masks/{stem}.png"))


def checks(found):
    """check -> ids with findings."""
    return found.findings.groupby("check")["id"].apply(list).to_dict()


EXPECTED = ("resolution outlier", "brightness outlier", "black block", "green box", "text")


def test_broken_links_and_what_is_left_aside_do_not_stop_it(folder):
    for name in ("images/x.png", "masks/x.png"):
        (folder / name).symlink_to(folder / "gone.png")
    (folder / "edge").mkdir()
    Image.new("L", (4, 4)).save(folder / "edge/00.png")
    found = audit(str(folder))
    assert len(found.frames) == 12
    assert list(found.errors["check"]) == ["pairing", "pairing"]
    (note,) = found.findings.query("check == 'left aside'")["detail"]
    assert note.startswith("1 file is left aside")


def test_a_clean_folder_has_no_findings_except_about_appearance(folder):
    found = audit(str(folder))
    assert len(found.frames) == 12
    assert set(checks(found)) <= {*EXPECTED}
    assert found.pairs.empty
    assert (found.summary["check"] == list(CHECKS)).all()
    assert found.seconds > 0


def test_every_defect_is_found_at_once(folder):
    a, b, c, d, e, f, g, h, *_ = stems(folder)
    (folder / f"masks/{a}.png").unlink()
    (folder / f"images/{b}.png").write_bytes(b"")
    Image.fromarray(mask_of(folder, c)[1:]).save(folder / f"masks/{c}.png")
    labels = mask_of(folder, d) // 255 * 128
    Image.fromarray(labels.astype(np.uint8)).save(folder / f"masks/{d}.png")
    soft = mask_of(folder, e)
    soft[9, 7], soft[0, 0] = 100, 255
    Image.fromarray(soft).save(folder / f"masks/{e}.png")
    Image.fromarray(np.zeros_like(mask_of(folder, f))).save(folder / f"masks/{f}.png")
    for name in ("images", "masks"):
        shutil.copy(folder / f"{name}/{g}.png", folder / f"{name}/twin.png")
    image = Image.open(folder / f"images/{h}.png")
    image.save(folder / "images/other.bmp")  # other bytes, the same pixels
    shutil.copy(folder / f"masks/{h}.png", folder / "masks/other.png")
    (folder / "images/strange.webp").touch()

    found = audit(str(folder))
    seen = checks(found)
    assert seen["unreadable"] == [b]
    assert seen["size mismatch"] == [c]
    assert d in seen["values outside the scheme"]
    assert e in seen["undecided mask pixels"]
    assert seen["stray specks"] == [e]
    assert seen["empty mask"] == [f]
    assert seen["same bytes"] == ["twin"]
    assert seen["same pixels"] == ["other", "twin"]
    pairing = found.findings.loc[found.findings["check"] == "pairing", "detail"]
    assert any(f"{a}.png has no mask" in text for text in pairing)
    assert any("strange.webp is in an unsupported format" in text for text in pairing)
    details = {(row.check, row.id): row.detail for row in found.findings.itertuples()}
    assert "first 100 at row 9, column 7" in details["undecided mask pixels", e]
    assert "1 speck, 1 px in all, the smallest at row 0, column 0" in details["stray specks", e]
    assert a not in set(found.frames["id"])
    errors = found.findings[found.findings["severity"] == "error"]
    assert set(errors["check"]) == {
        "pairing",
        "unreadable",
        "size mismatch",
        "values outside the scheme",
    }


def test_saved_tables_can_be_read(folder, tmp_path):
    found = audit(str(folder))
    found.save(tmp_path / "out")
    for name in ("frames", "findings", "pairs"):
        table = pd.read_csv(tmp_path / f"out/{name}.csv", dtype={"id": str})
        assert len(table) == len(getattr(found, name))
    assert len(list((tmp_path / "out").iterdir())) == 3


def test_robust_z_by_hand():
    values = pd.Series([1.0, 2, 3, 4, 100])
    assert robust_z(values).tolist() == pytest.approx([v / 1.4826 for v in (-2, -1, 0, 1, 97)])
    same = pd.Series([5.0, 5, 5, 5, 6])
    assert robust_z(same).iloc[-1] == pytest.approx(1 / (1.2533 * 0.2))
    assert robust_z(pd.Series([5.0, 5])).tolist() == [0, 0]


def test_text_is_seen_and_highlights_are_not():
    plain = np.full((480, 600, 3), (180, 90, 70), np.uint8)
    assert not has_text(plain)
    picture = Image.fromarray(plain)
    draw = ImageDraw.Draw(picture)
    for row, text in enumerate(("12/03/2013", "00:12:54", "CVP: 3")):
        draw.text((20, 180 + 16 * row), text, fill=(240, 240, 240))
    assert has_text(np.array(picture))
    spots = Image.fromarray(plain)
    draw = ImageDraw.Draw(spots)
    for x, y in ((50, 60), (200, 90), (310, 300), (420, 210)):
        draw.ellipse((x, y, x + 18, y + 9), fill=(250, 250, 250))
    assert not has_text(np.array(spots))


def test_a_folder_gets_a_grouped_split_that_holds(folder, tmp_path, monkeypatch):
    """Copies and re-crops stay together; the split is the same each time."""
    monkeypatch.setenv("POLYP_CACHE", str(tmp_path / "cache"))
    texture = np.random.default_rng(0).integers(90, 255, (60, 80, 3))
    detailed = Image.fromarray((texture * (1, 0.5, 0.4)).astype(np.uint8)).resize((640, 480))
    detailed.save(folder / "images/x.png")
    detailed.crop((60, 40, 620, 470)).save(folder / "images/y.png")
    a_square(480, 640).save(folder / "masks/x.png")
    a_square(430, 560).save(folder / "masks/y.png")
    data = PolypDataset(str(folder), 256)
    assert near_duplicates(data.source, data.info.name)[["id_a", "id_b"]].to_numpy().tolist() == [
        ["x", "y"]
    ]
    number = groups(data)
    assert number["x"] == number["y"]
    assert len(set(number.values())) == 13
    split = load_split("grouped", str(folder))
    assert split == grouped(str(folder)) == load_split("grouped", str(folder))
    assert (len(split.train), len(split.val), len(split.test)) == (12, 1, 1)
    assert {"x", "y"} <= set(split.train)
    fold = load_split("grouped-fold2", str(folder))
    assert len(fold.train + fold.val + fold.test) == 14
    with pytest.raises(ValueError, match="unknown split 'grouped-fold9'"):
        load_split("grouped-fold9", str(folder))


def bare(folder, count):
    """Pairs of featureless frames, the first two of them equal."""
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for index in range(count):
        grey = np.full((40, 50, 3), 90 + 9 * max(1, index), np.uint8)
        Image.fromarray(grey).save(folder / f"images/{index}.png")
        a_square(40, 50).save(folder / f"masks/{index}.png")
    return str(folder)


def test_equal_frames_stay_together_even_without_features(tmp_path, monkeypatch):
    monkeypatch.setenv("POLYP_CACHE", str(tmp_path / "cache"))
    number = groups(PolypDataset(bare(tmp_path / "bare", 4), 32))
    assert number["0"] == number["1"]
    assert len(set(number.values())) == 3


def test_groups_of_some_frames_need_neither_a_search_nor_other_frames(tmp_path, monkeypatch):
    monkeypatch.setenv("POLYP_CACHE", str(tmp_path / "cache"))
    data = PolypDataset(bare(tmp_path / "bare", 4), 32)
    number = known_groups(data, ("3", "1", "0"))
    assert list(number) == ["3", "1", "0"]
    assert number["0"] == number["1"] != number["3"]
    pairs = pd.DataFrame({"id_a": ["1", "2"], "id_b": ["2", "3"]})
    monkeypatch.setattr("polyp_utils.data.grouping.known_pairs", lambda name: pairs)
    linked = known_groups(data, ("1", "3"))  # via frame 2
    assert linked["1"] == linked["3"]


def test_three_groups_make_a_split_and_two_do_not(tmp_path, monkeypatch):
    monkeypatch.setenv("POLYP_CACHE", str(tmp_path / "cache"))
    split = load_split("grouped", bare(tmp_path / "four", 4))
    assert sorted(map(len, (split.train, split.val, split.test))) == [1, 1, 2]
    two = bare(tmp_path / "three", 3)
    for name in ("grouped", "grouped-fold1"):
        with pytest.raises(ValueError, match=r"is empty; .* needs ids\. Too few groups of frames"):
            load_split(name, two)


def test_cached_pairs_are_used_only_for_the_same_ids(tmp_path, monkeypatch):
    """The files are the same, but a renamed subfolder changes the ids."""
    monkeypatch.setenv("POLYP_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "sets"
    for name in ("A", "B"):
        bare(folder / name, 3)
    before = open_source(get_info(str(folder)))
    fingerprint = before.fingerprint()
    near_duplicates(before, "sets")
    (folder / "A").rename(folder / "A2")
    after = open_source(get_info(str(folder)))
    assert after.fingerprint() == fingerprint
    near_duplicates(after, "sets")
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_a_near_duplicate_pair_counts_both_frames(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("POLYP_CACHE", str(tmp_path / "cache"))
    texture = np.random.default_rng(0).integers(90, 255, (60, 80, 3))
    detailed = Image.fromarray((texture * (1, 0.5, 0.4)).astype(np.uint8)).resize((640, 480))
    for name in ("x", "y"):
        detailed.save(folder / f"images/{name}.png")
        a_square(480, 640).save(folder / f"masks/{name}.png")
    row = audit(str(folder)).summary.set_index("check").loc["near-duplicate"]
    assert (row["findings"], row["frames"]) == (1, 2)


def test_leakage_in_own_frames_is_reported(tmp_path, monkeypatch):
    monkeypatch.setenv("POLYP_CACHE", str(tmp_path / "cache"))
    name = bare(tmp_path / "own", 4)
    path = tmp_path / "mine.csv"
    path.write_text("id,part\n0,train\n1,test\n2,val\n3,train\n")
    assert (
        f"is not checked for near-duplicates: `python -m polyp_utils audit --dataset {name}`"
        in leak_warning(load_split(str(path), name), name)
    )
    found = pd.DataFrame({"id_a": ["0"], "id_b": ["1"], "mirrored": [False], "inliers": [9]})
    monkeypatch.setattr("polyp_utils.data.duplicates.find_near_duplicates", lambda *_: found)
    near_duplicates(open_source(get_info(name)), "own")
    path.write_text("id,part\n0,train\n1,test\n3,val\n2,train\n")
    said = leak_warning(load_split(str(path), name), name)
    assert "leaks: 1 of 1 near-duplicate pairs of own cross it" in said
