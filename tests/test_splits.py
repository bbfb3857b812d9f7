import itertools
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyp_utils.data import known
from polyp_utils.data.known import known_pairs, known_sequences, leaks, sessile_ids
from polyp_utils.data.split import PARTS, Split, grouped_parts, parse_split
from polyp_utils.data.splits import leak_warning, load_split, split_names

# data set, name: sizes of train, val, test; fingerprint. Published splits never change: a new list
# gets a new name, and these lines stay.
GOLDEN = {
    ("kvasir-seg", "grouped"): ((800, 100, 100), "89703d5b99edce99"),
    ("kvasir-seg", "grouped-fold1"): ((600, 200, 200), "04958432dd0f5feb"),
    ("kvasir-seg", "grouped-fold2"): ((600, 200, 200), "987e11d7e11237a5"),
    ("kvasir-seg", "grouped-fold3"): ((600, 200, 200), "9885d48466cdbec7"),
    ("kvasir-seg", "grouped-fold4"): ((600, 200, 200), "4ee95108d0cec79d"),
    ("kvasir-seg", "grouped-fold5"): ((600, 200, 200), "dfdd6dc97fcc227d"),
    ("kvasir-seg", "official-880"): ((792, 88, 120), "e323825beffe65a5"),
    ("kvasir-seg", "pranet-kvasir"): ((810, 90, 100), "8300fe56e669abf8"),
    ("kvasir-seg", "random-800-s42"): ((800, 100, 100), "5b1be0a5f5e3a220"),
    ("kvasir-seg", "sklearn-42"): ((800, 100, 100), "388d7f753610f316"),
    ("cvc-clinicdb", "grouped"): ((493, 57, 62), "5b3c0c7cc6d78561"),
    ("cvc-clinicdb", "grouped-fold1"): ((365, 125, 122), "9d4c4c5e56df786a"),
    ("cvc-clinicdb", "grouped-fold2"): ((372, 115, 125), "8204095e203e9066"),
    ("cvc-clinicdb", "grouped-fold3"): ((377, 120, 115), "7c2cc29ea384e554"),
    ("cvc-clinicdb", "grouped-fold4"): ((362, 130, 120), "9be46d8ff0d67873"),
    ("cvc-clinicdb", "grouped-fold5"): ((360, 122, 130), "1759f467712e8210"),
    ("cvc-clinicdb", "pranet-clinicdb"): ((485, 65, 62), "be65177eaae99747"),
    ("neopolyp", "grouped"): ((800, 100, 100), "8d0dc539ad40e2ca"),
    ("neopolyp", "grouped-fold1"): ((600, 200, 200), "7ec2a9b193d454aa"),
    ("neopolyp", "grouped-fold2"): ((600, 200, 200), "86e090e41022b2d5"),
    ("neopolyp", "grouped-fold3"): ((600, 200, 200), "d25310a9a5ed95e3"),
    ("neopolyp", "grouped-fold4"): ((600, 200, 200), "12324f22dea43025"),
    ("neopolyp", "grouped-fold5"): ((600, 200, 200), "b33e362a781f402a"),
    ("phantom", "phantom-240"): ((240, 60, 60), "67fbac65caabf0e0"),
}
CSV = "id,part\na,train\nb,train\nc,val\nd,test\n"


def test_every_split_has_a_golden_line():
    for dataset in ("kvasir-seg", "cvc-clinicdb", "neopolyp", "phantom"):
        assert split_names(dataset) == sorted(name for of, name in GOLDEN if of == dataset)
    assert split_names() == sorted({name for _, name in GOLDEN})


@pytest.mark.parametrize(("dataset", "name"), GOLDEN)
def test_published_splits_are_immutable(dataset, name):
    split = load_split(name, dataset)
    parts = [split.part(part) for part in PARTS]
    assert (tuple(map(len, parts)), split.fingerprint) == GOLDEN[dataset, name]
    assert len(set().union(*parts)) == sum(map(len, parts)), "parts overlap"


def test_random_split_follows_from_its_recipe():
    split = load_split("random-800-s42")
    ids = sorted(split.train + split.val + split.test)
    order = [ids[i] for i in np.random.default_rng(42).permutation(1000)]
    expected = order[:800], order[800:900], order[900:]
    assert (split.train, split.val, split.test) == tuple(tuple(sorted(p)) for p in expected)


@pytest.mark.parametrize("name", ["official-880", "pranet-kvasir"])
def test_validation_part_is_a_seeded_tenth_of_the_published_train_list(name):
    split = load_split(name)
    train = sorted(split.train + split.val)
    order = np.random.default_rng(42).permutation(len(train))
    assert split.val == tuple(sorted(train[i] for i in order[: len(train) // 10]))


def test_sklearn_split_is_what_train_test_split_gives():
    """It shuffles with numpy's old generator; the test part comes first in the permutation."""
    ids = np.array(sorted(sum((load_split("sklearn-42").part(part) for part in PARTS), ())))
    expected = {}
    for part in ("test", "val"):
        order = np.random.RandomState(42).permutation(len(ids))
        expected[part], ids = ids[order[:100]], ids[order[100:]]
    expected["train"] = ids
    for part in PARTS:
        assert load_split("sklearn-42").part(part) == tuple(sorted(expected[part]))


def test_splits_of_a_set_hold_the_same_frames():
    for dataset, count in (("kvasir-seg", 1000), ("cvc-clinicdb", 612), ("neopolyp", 1000)):
        ids = [
            {i for part in PARTS for i in load_split(name, dataset).part(part)}
            for name in split_names(dataset)
        ]
        assert all(found == ids[0] for found in ids)
        assert len(ids[0]) == count
    ids = {i for part in PARTS for i in load_split("sklearn-42").part(part)}
    assert len(sessile_ids()) == 196
    assert sessile_ids() < ids


def published(root, name):
    path = root / "splits" / f"{name}.txt"
    if not path.is_file():
        pytest.skip(f"no {path}")
    return set(path.read_text().split())


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "train", "test"),
    [
        ("official-880", "kvasir_official_train_880", "kvasir_official_test_120"),
        ("pranet-kvasir", "pranet_train_kvasir", "pranet_test_kvasir"),
        ("pranet-clinicdb", "pranet_train_clinicdb", "pranet_test_clinicdb"),
    ],
)
def test_splits_equal_the_published_lists(name, train, test, kvasir_root):
    split = load_split(name)
    assert set(split.train + split.val) == published(kvasir_root, train)
    assert set(split.test) == published(kvasir_root, test)


@pytest.mark.data
def test_sessile_ids_equal_the_published_list(kvasir_root):
    assert sessile_ids() == published(kvasir_root, "kvasir_sessile_ids")


@pytest.mark.data
def test_kvasir_splits_name_the_files_on_disk(kvasir_root):
    split = load_split("random-800-s42")
    on_disk = {path.stem for path in (kvasir_root / "Kvasir-SEG" / "images").iterdir()}
    assert set(split.train + split.val + split.test) == on_disk


@pytest.mark.data
def test_clinicdb_validation_holds_whole_sequences(kvasir_root):
    readme = kvasir_root / "CVC-ClinicDB" / "README.txt"
    if not readme.is_file():
        pytest.skip(f"no {readme}")
    rows = re.findall(r"(\d+) +to +(\d+) +\|\s*(\d+)", readme.read_text(errors="replace"))
    sequence = {i: s for first, last, s in rows for i in range(int(first), int(last) + 1)}
    assert (len(rows), len(sequence)) == (29, 612)
    split = load_split("pranet-clinicdb")
    train, val = ({sequence[int(i)] for i in part} for part in (split.train, split.val))
    assert not train & val


def test_fingerprint_changes_with_part_and_order():
    texts = [CSV, CSV.replace("b,train", "b,val"), "id,part\nb,train\na,train\nc,val\nd,test\n"]
    assert len({parse_split("mine", text).fingerprint for text in texts}) == 3
    assert parse_split("mine", CSV).fingerprint == parse_split("other", CSV).fingerprint


def test_limited_takes_the_first_of_each_part():
    split = parse_split("mine", CSV)
    limited = split.limited(1)
    assert (limited.train, limited.val, limited.test) == (("a",), ("c",), ("d",))
    assert split.limited(0) == split == split.limited(9)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (CSV + "a,test\n", "split mine: id a occurs twice"),
        (CSV + "e,valid\n", "unknown part of id e in split mine 'valid': did you mean 'val'?"),
        (CSV.replace("c,val\n", ""), "split mine: part 'val' is empty"),
        ("id,part\n", "split mine: part 'train' is empty"),
    ],
)
def test_bad_split_files(text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_split("mine", text)


def test_unknown_split():
    with pytest.raises(ValueError, match=r"unknown split 'random-800': did you mean 'random-800-s"):
        load_split("random-800")


def test_unknown_part():
    with pytest.raises(ValueError, match=r"unknown part 'vall': did you mean 'val'\?"):
        load_split("phantom-240").part("vall")


# Groups


@pytest.mark.parametrize("dataset", ["kvasir-seg", "cvc-clinicdb", "neopolyp"])
def test_grouped_splits_leak_nothing(dataset):
    for name in split_names(dataset):
        if name.startswith("grouped"):
            found = leaks(load_split(name, dataset), dataset)
            assert found
            assert all(crossing == 0 < known for crossing, known in found.values())


@pytest.mark.parametrize("dataset", ["kvasir-seg", "cvc-clinicdb", "neopolyp"])
def test_each_frame_is_test_once_and_validation_once(dataset):
    folds = [load_split(f"grouped-fold{k}", dataset) for k in range(1, 6)]
    everything = sorted(load_split("grouped", dataset).train + load_split("grouped", dataset).val)
    everything = sorted([*everything, *load_split("grouped", dataset).test])
    for part in ("val", "test"):
        assert sorted(i for fold in folds for i in fold.part(part)) == everything
    for fold, after in itertools.pairwise(folds):
        assert fold.val == after.test


def test_leaks_by_hand(monkeypatch):
    pairs = pd.DataFrame({"id_a": ["a", "a", "b", "x"], "id_b": ["b", "c", "d", "a"]})
    monkeypatch.setattr(known, "known_pairs", lambda dataset: pairs)
    sequences = {"a": "1", "b": "1", "c": "2", "d": "2", "x": "1"}
    monkeypatch.setattr(known, "known_sequences", lambda dataset: sequences)
    found = leaks(parse_split("mine", CSV), "mine")  # x is in no part
    assert found == {"near-duplicate pairs": (2, 3), "video sequences": (1, 2)}


def test_crossing_by_hand():
    split = Split("mine", ("a", "b", "c"), ("d", "e"), ("f",))
    groups = {"a": 1, "b": 2, "c": 3, "d": 1, "e": 4, "f": 1, "unknown": 3}
    assert split.crossing(groups) == {"train and val and test": 1}
    assert split.crossing(groups | {"f": 2}) == {"train and val": 1, "train and test": 1}


def test_a_leaking_split_is_described():
    assert re.fullmatch(
        r"split pranet-clinicdb leaks: \d+ of 2091 near-duplicate pairs and 26 of 29 video "
        r"sequences of CVC-ClinicDB cross it; split grouped has none",
        leak_warning(load_split("pranet-clinicdb"), "cvc-clinicdb"),
    )
    assert leak_warning(load_split("grouped", "cvc-clinicdb"), "cvc-clinicdb") == ""


def test_known_pairs_and_sequences():
    pairs = known_pairs("kvasir-seg")
    assert (pairs["id_a"] < pairs["id_b"]).all()
    assert not pairs.duplicated(["id_a", "id_b"]).any()
    assert (pairs["inliers"] >= 9).all()
    assert len(known_sequences("cvc-clinicdb")) == 612
    assert known_pairs("phantom").empty
    assert known_pairs("etis") is None  # not on disk, so not searched
    assert len(known_pairs("pranet-train")) == len(pairs) + len(known_pairs("cvc-clinicdb"))
    assert len(known_sequences("pranet-train")) == 612
    assert known_sequences("kvasir-seg") == {}


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=30),
    singles=st.integers(60, 200),
    strata=st.integers(1, 5),
    seed=st.integers(0, 3),
)
def test_grouped_parts_keep_groups_and_sizes_and_strata(sizes, singles, strata, seed):
    groups = {}
    for number, size in enumerate([*sizes, *[1] * singles]):
        groups |= {f"{number}-{i}": number for i in range(size)}
    rng = np.random.default_rng(seed)
    stratum = {i: int(rng.integers(strata)) for i in groups}
    parts = grouped_parts(groups, stratum, (0.8, 0.1, 0.1), 42)
    assert sorted(sum(parts, ())) == sorted(groups)
    homes = [{groups[i] for i in part} for part in parts]
    assert not homes[0] & homes[1]
    assert not homes[0] & homes[2]
    assert not homes[1] & homes[2]
    tenth = round(len(groups) / 10)
    assert list(map(len, parts)) == [len(groups) - 2 * tenth, tenth, tenth]
    assert parts == grouped_parts(dict(reversed(groups.items())), stratum, (0.8, 0.1, 0.1), 42)


def test_grouped_parts_are_stratified():
    groups = {f"{i:03d}": i for i in range(500)}
    strata = {i: int(i) % 5 for i in groups}
    for part in grouped_parts(groups, strata, (0.8, 0.1, 0.1), 42):
        counts = np.bincount([strata[i] for i in part])
        assert counts.max() - counts.min() <= 1


# Which split for which data set


def test_a_users_split_file(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text(CSV)
    assert load_split(str(path)) == Split(str(path), ("a", "b"), ("c",), ("d",))
    with pytest.raises(FileNotFoundError, match="is not a file or folder: give a CSV with the"):
        load_split(str(tmp_path / "none.csv"))
    with pytest.raises(ValueError, match=r"has columns \['a', 'b'\]; it needs id and part"):
        parse_split("mine", "a,b\n1,2\n")


def test_a_split_survives_its_csv():
    split = Split("mine", ("NA", "a,b", '"', " x", "\u2028"), ("1e5",), ("ü", "001"))
    assert parse_split("mine", split.to_csv()) == split


def test_a_file_never_hides_a_split_of_the_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("grouped", "sklearn-42"):
        (tmp_path / name).mkdir()
        assert load_split(name, "kvasir-seg").fingerprint == GOLDEN["kvasir-seg", name][1]


@pytest.mark.parametrize(
    ("name", "dataset", "message"),
    [
        ("grouped", "", "split grouped exists for every data set: name the data set"),
        (
            "random-800-s42",
            "neopolyp",
            "split random-800-s42 belongs to kvasir-seg, not to neopolyp",
        ),
        ("grouped-fold6", "kvasir-seg", "unknown split 'grouped-fold6': did you mean"),
        ("groupd", "neopolyp", "unknown split 'groupd': did you mean 'grouped'?"),
        ("sklearn", "", "unknown split 'sklearn': did you mean 'sklearn-42'?"),
    ],
)
def test_splits_that_do_not_fit(name, dataset, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        load_split(name, dataset)
