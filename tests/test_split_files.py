import codecs
import itertools
import json
import re

import numpy as np
import pytest
from PIL import Image

from polyp_utils.common.config import RunConfig
from polyp_utils.common.exceptions import DataError, RunError
from polyp_utils.data import grouping
from polyp_utils.data.split import PARTS, Split
from polyp_utils.data.splits import load_split
from polyp_utils.runs.run import Run
from polyp_utils.score.evaluation import evaluate_run
from polyp_utils.train.fit import fit

PART = {f"{i:03}": part for i, part in enumerate(["train"] * 6 + ["val"] * 2 + ["test"] * 2)}
WHOLE = Split("", *(tuple(i for i in PART if PART[i] == part) for part in PARTS))


def frames(folder, ids):
    """A data set of empty files, which is enough to know its ids."""
    for frame_id in ids:
        place, _, name = frame_id.rpartition("/")
        for kind in ("images", "masks"):
            (folder / place / kind).mkdir(parents=True, exist_ok=True)
            (folder / place / kind / f"{name}.png").touch()
    return str(folder)


@pytest.fixture
def dataset(tmp_path):
    return frames(tmp_path / "own", PART)


def table(form="{},{}", header="id,part", end="\n"):
    return end.join([header, *(form.format(*row) for row in PART.items())]) + end


def lists(part, form="{}"):
    return "\n".join(form.format(i) for i in WHOLE.part(part))


def without_val(text):
    return "".join(line for line in text.splitlines(keepends=True) if "val" not in line)


@pytest.mark.parametrize(
    "content",
    [
        table().encode(),
        codecs.BOM_UTF8 + table(end="\r\n").encode(),
        table("{};{}", "id;part").encode(),
        b"sep=;\r\n" + table("{};{}", "id;part").encode(),
        table("{}\t{}", "Image ID\tSplit").encode("utf-16"),
        table("{}\t{}", "file name\tset", end="\r").encode("utf-16-le"),
        table('"{}", "{}"', '"filename", "subset"').encode(),
        table("x,{1},{0},", "note,part,image,").encode(),
        table("{},x,{}", "id,image,part").encode(),
        table(end="\n\n").replace("val", "Validation").replace("test", "TS").encode(),
        table("{}.JPG,{}").encode(),
        table("C:\\data\\images\\{}.jpg,{}").encode(),
        table("./images/{}.png,{}").encode(),
        re.sub(r"^0+(?=\d)", "", table(), flags=re.MULTILINE).encode(),  # Excel
        "\n".join([",train,val,test", *(f"{n},{','.join(row)}" for n, row in enumerate(
            itertools.zip_longest(WHOLE.train, WHOLE.val, WHOLE.test, fillvalue=""))
        )]).encode(),
    ],
)  # fmt: skip
def test_tables_as_people_have_them(tmp_path, dataset, content):
    path = tmp_path / "mine.csv"
    path.write_bytes(content)
    found = load_split(str(path), dataset)
    assert (found.train, found.val, found.test) == (WHOLE.train, WHOLE.val, WHOLE.test)
    as_they_stand = not any(word in content for word in (b".jpg", b".JPG", b".png", b"\n1,train"))
    assert (not found.remark) == as_they_stand


@pytest.mark.parametrize(
    ("given", "files"),
    [
        ("", {f"{part}.txt": lists(part) for part in PARTS}),
        ("", {"TR.LST": lists("train"), "dev.lst": lists("val"), "ts.lst": lists("test")}),
        ("val.txt", {f"{part}.txt": lists(part, "images/{0}.png masks/{0}.jpg") for part in PARTS}),
        ("", {f"{part}.csv": lists(part, "{0}.jpg,{0}_mask.png") for part in PARTS}),
        ("", {f"{part}.csv": "image;mask\n" + lists(part, "{0}.jpg;{0}.png") for part in PARTS}),
        ("", {f"own_{part}_{len(WHOLE.part(part))}.txt": lists(part) for part in PARTS}),
        (
            "a-test.txt",
            {f"a-{part}.txt": lists(part) for part in PARTS}
            | {f"b-{part}.txt": "nothing" for part in PARTS}
            | {f"a-{part}.csv": "nothing" for part in PARTS},
        ),
        ("", {f"{part}.json": json.dumps(WHOLE.part(part)) for part in PARTS}),
        ("s.json", {"s.json": json.dumps({part: WHOLE.part(part) for part in PARTS})}),
        (
            "s.json",
            {
                "s.json": json.dumps(
                    {"name": "x", "numTest": 2, "labels": {"0": "no"}}
                    | {
                        long: [{"image": f"imagesTr/{i}.png", "label": "x"} for i in WHOLE.part(p)]
                        for p, long in zip(PARTS, ("training", "validation", "test"), strict=True)
                    }
                )
            },
        ),
    ],
)  # fmt: skip
def test_lists_and_json_as_people_have_them(tmp_path, dataset, given, files):
    (tmp_path / "lists").mkdir()
    for name, text in files.items():
        (tmp_path / "lists" / name).write_text(text)
    found = load_split(str(tmp_path / "lists" / given), dataset)
    assert (found.train, found.val, found.test) == (WHOLE.train, WHOLE.val, WHOLE.test)


@pytest.fixture
def no_drawing(monkeypatch):
    """The last frame of train becomes validation, without a look at the frames."""
    drawn = lambda split, _: Split(split.name, split.train[:-1], split.train[-1:], split.test)  # noqa: E731
    monkeypatch.setattr(grouping, "with_validation", drawn)


def test_a_fold_is_tested_on(tmp_path, dataset, no_drawing):
    rows = "\n".join(["image_id,fold", *(f"{i},{int(i) % 5}" for i in PART)])
    folds = [{"train": [*PART][2:], "val": [*PART][:2]}, {"train": [*PART][:8], "val": [*PART][8:]}]
    for name, text in (("f.csv", rows), ("splits_final.json", json.dumps(folds))):
        (tmp_path / name).write_text(text)
    found = load_split(f"{tmp_path}/f.csv#3", dataset)
    assert (found.test, len(found.train), len(found.val)) == (("003", "008"), 7, 1)
    found = load_split(f"{tmp_path}/splits_final.json#1", dataset)
    assert (found.test, found.train) == (("008", "009"), tuple(PART)[:7])
    assert "its test part is the val list of fold 1; it has no validation part" in found.remark
    for name, seen in (
        ("f.csv", r"has folds \(0, 1, 2, 3, 4\): name the one to test on, such as .*f.csv#0"),
        ("f.csv#7", r"has no fold 7 \(0, 1"),
        ("splits_final.json", r"has folds \(0, 1\)"),
        ("splits_final.json#2", r"has no fold 2 \(0, 1\)"),
    ):
        with pytest.raises(DataError, match=seen):
            load_split(f"{tmp_path}/{name}", dataset)
    name = RunConfig.from_recipe("card", split="some/splits_final.json#2").run_name
    assert name == "card-splits_final-fold2-trimap-w64-s0"


WRONG = {
    "": "s.csv is empty: give a CSV file with the columns id and part, or train.txt and test.txt",
    "id,part\n": "s.csv names no frames",
    "000,train\n": "s.csv begins with '000,train', which is no split: give a CSV file with",
    "PK\x03\x04": "s.csv is a workbook or an archive: save the sheet as CSV",
    "\x89PNG\0\0": "s.csv is not text",
    table().replace("003,train", "003,tset"): "s.csv, line 5: unknown part of 003 'tset': did you "
    "mean 'test'? known are dev",
    table() + "000,test\n": "names 1 of its frames twice: 000 in train and test (s.csv, line 2; "
    "s.csv, line 12). Keep one line",
    table() + "0,train\n": "names 1 of its frames twice: 000 in train (s.csv, line 2; s.csv, line",
    table() + "x,test\n\ny,val\n": "2 of 12 ids are not in own: 'x' (s.csv, line 12), 'y' (s.csv, "
    "line 14). Its 10 frames run from 000 to 009: use",
    table("z{},{}"): "10 of 10 ids are not in own: 'z000' (s.csv, line 2), 'z001' (s.csv, line 3), "
    "'z002' (s.csv, line 4) and 7 more",
    table() + "009\n": "s.csv, line 12: '009' has 1 cells, the header 2",
    table() + "a,b,test\n": "s.csv, line 12: 'a,b,test' has 3 cells, the header 2",
    table().replace("001,", '"001,'): "s.csv, line 3: unexpected end of data: correct the quotes",
    table("{},{},x", "image,set,subset"): "columns 'set' and 'subset' may both be the part: call",
    table("{0},{0},{1}", "image,path,part"): "columns 'image' and 'path' may both be the id: call",
    table().replace("test", "val"): "has no test part (train 6, val 4, test 0): scores are of "
    "frames that neither training nor the choice of its settings has seen. If nothing is chosen on "
    "val, name it test",
    "id,fold\n000,1\n001,test\n": "s.csv, line 2: unknown part of 000 '1'",
    "id,fold\n000,1\n001,\n": "s.csv, line 3: the fold of 001 is empty: fill it in",
    table().replace("002,train", "002,"): "s.csv, line 4: the part of 002 is empty: fill it in",
    table().replace("train", "test"): "has no train part (train 0, val 2, test 8): name",
}  # fmt: skip


@pytest.mark.parametrize(("text", "message"), WRONG.items())
def test_what_is_wrong_with_a_table_is_said(tmp_path, dataset, text, message):
    path = tmp_path / "s.csv"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=re.escape(message)):
        load_split(str(path), dataset)


@pytest.mark.parametrize(
    ("given", "files", "message"),
    [
        ("", {}, "needs a list per part, train.txt and test.txt"),
        ("train.txt", {"train.txt": "000", "a.txt": "001"}, "has a.txt, train.txt"),
        (
            "",
            {f"{set_}_{part}.txt": "000" for set_ in "ab" for part in PARTS},
            "holds several sets of lists (a_test.txt, a_train.txt, a_val.txt, b_test.txt",
        ),
        (
            "",
            {"train.txt": "0", "train.csv": "1", "test.txt": "2"},
            "(test.txt, train.csv, train.txt): name",
        ),
        ("", {"train.txt": "000\n001 7 8\n", "test.txt": "2"}, "'001 7 8' (train.txt, line 2) may"),
        ("", {"train.txt": "000 -1\n", "test.txt": "2"}, "'000 -1' (train.txt, line 1)"),
        ("s.json", {"s.json": '{"train": ["000"], "train": []}'}, "'train' occurs twice in one"),
        ("s.json", {"s.json": '{"train": ["000"],}'}, "s.json is not valid JSON"),
        ("s.json", {"s.json": "[" * 100_000}, "s.json is not valid JSON"),
        ("s.json", {"s.json": '[{"id": "0", "part": "test"}]'}, "s.json holds no lists named"),
        ("s.json", {"s.json": '["000"]'}, "s.json holds no lists named train and test"),
        ("s.json", {"s.json": '{"trian": ["000"]}'}, "unknown part 'trian': did you mean 'train'?"),
        ("", {"train.txt": "099.jpg 1\n0\n", "test.txt": "2"}, "'099.jpg 1' (train.txt, line 1)"),
        ("s.json", {"s.json": '{"train": ["0"], "val": {"a": ["1"]}}'}, "no list of ids as val"),
        ("s.json", {"s.json": '{"train": ["0", true]}'}, "s.json, train entry 2 is True: give"),
        ("s.csv#1", {"s.csv": table()}, "s.csv has no folds: leave out #1"),
    ],
)
def test_what_is_wrong_with_lists_is_said(tmp_path, dataset, given, files, message):
    (tmp_path / "lists").mkdir()
    for name, text in files.items():
        (tmp_path / "lists" / name).write_text(text)
    with pytest.raises(DataError, match=re.escape(message)):
        load_split(str(tmp_path / "lists" / given), dataset)


def test_only_what_is_certain_is_matched(tmp_path, no_drawing):
    dataset = frames(tmp_path / "sets", ["ETIS/0", "ETIS/1", "Kvasir/0", "Kvasir/02"])
    path = tmp_path / "s.csv"

    def meaning(text):
        path.write_text(f"id,part\n{text},test\nKvasir/2,train\nETIS/1,val\n")
        return load_split(str(path), dataset).test

    for text in ("ETIS/0", "ETIS\\0.png", "/data/TestDataset/ETIS/images/0.jpg", "ETIS/000"):
        assert meaning(text) == ("ETIS/0",), text
    with pytest.raises(
        DataError, match=r"fit several frames .*'0' \(s.csv, line 2\) may be ETIS/0"
    ):
        meaning("0")
    for text in ("CVC-300/0.png", "images/0.png", "ETIS/2", "0.txt", "ETIS"):
        with pytest.raises(DataError, match="1 of 3 ids are not in sets"):
            meaning(text)


def test_letters_with_accents(tmp_path):
    dataset = frames(tmp_path / "own", ["u\N{COMBINING DIAERESIS}1", "2", "é3"])
    text = "id,part\nü1,train\n2,val\né3,test\n"
    for encoding in ("utf-8", "cp1252", "utf-16"):
        (tmp_path / "s.csv").write_text(text, encoding=encoding)
        found = load_split(str(tmp_path / "s.csv"), dataset)
        assert (found.train, found.test) == (("u\N{COMBINING DIAERESIS}1",), ("é3",))


def test_a_file_without_validation_needs_its_data_set(tmp_path):
    (tmp_path / "s.csv").write_text("id,part\na,train\nb,test\n")
    with pytest.raises(DataError, match=r"has no val part .*name the data set"):
        load_split(str(tmp_path / "s.csv"))


# From the file to the run

NAMES = ["001", "1e5", "NA", "None", "nan", "true", "Inf", "-", "a,b", "9", "10", "11"]
TEST = ("NA", "1e5", "001", "None", "nan")


def test_a_run_keeps_a_users_split_and_ids_that_look_like_values(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("POLYP_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (tmp_path / "own" / kind).mkdir(parents=True)
    for number, name in enumerate(NAMES):
        image = rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)
        image = np.zeros_like(image) if number >= 8 else image  # four that belong together
        mask = np.zeros((40, 40), np.uint8)
        mask[5 + number : 25, 5:25] = 255
        Image.fromarray(image).save(tmp_path / f"own/images/{name}.png")
        Image.fromarray(mask).save(tmp_path / f"own/masks/{name}.png")
    path = tmp_path / "mine.csv"
    rows = [f'"{i}",{"test" if i in TEST else "train"}' for i in NAMES]
    path.write_text("\n".join(["id,part", *rows]))
    tiny = {"width": 4, "image_size": 32, "epochs": 1, "batch_size": 2, "device": "cpu"}
    tiny |= {"dataset": str(tmp_path / "own"), "split": str(path)}
    run = fit(RunConfig.from_recipe("card-binary", **tiny))
    split = run.split
    assert sorted(split.train + split.val) == sorted({*NAMES} - {*TEST})
    assert len(split.val) == 1
    assert not {*split.val} & {"a,b", "9", "10", "11"}
    said = "it has no validation part, so 1 of 7 training frames are it, drawn with seed 42"
    assert said in run.record["split_remark"]
    assert said in capsys.readouterr().out

    evaluation = evaluate_run(run)
    evaluation.save(run)
    assert {*run.per_image["id"]} == {*TEST}
    assert run.per_image["id"].tolist() == evaluation.per_image["id"].tolist()

    path.unlink()
    assert Run(run.path).split == split
    fit(RunConfig.from_recipe("card-binary", **tiny))
    assert "is finished: nothing to train" in capsys.readouterr().out
    path.write_text("\n".join(["id,part", *rows[::-1]]).replace("-,train", "-,test"))
    with pytest.raises(RunError, match="holds a run with other settings: split_ids is"):
        fit(RunConfig.from_recipe("card-binary", **tiny))
    assert run.split == split
