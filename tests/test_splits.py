import re

import numpy as np
import pytest

from polyp_utils.data.splits import PARTS, load_split, parse_split, sessile_ids, split_names

# name: sizes of train, val, test; fingerprint. Published splits never change: a new list gets a
# new name, and these lines stay.
GOLDEN = {
    "random-800-s42": ((800, 100, 100), "5b1be0a5f5e3a220"),
    "official-880": ((792, 88, 120), "e323825beffe65a5"),
    "pranet-kvasir": ((810, 90, 100), "8300fe56e669abf8"),
    "pranet-clinicdb": ((485, 65, 62), "be65177eaae99747"),
    "phantom-240": ((240, 60, 60), "67fbac65caabf0e0"),
}
CSV = "id,part\na,train\nb,train\nc,val\nd,test\n"


def test_every_split_has_a_golden_line():
    assert split_names() == sorted(GOLDEN)


@pytest.mark.parametrize("name", GOLDEN)
def test_published_splits_are_immutable(name):
    split = load_split(name)
    parts = [split.part(part) for part in PARTS]
    assert (tuple(map(len, parts)), split.fingerprint) == GOLDEN[name]
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


def test_kvasir_splits_are_of_the_same_1000_frames():
    names = ("random-800-s42", "official-880", "pranet-kvasir")
    ids = [{i for part in PARTS for i in load_split(name).part(part)} for name in names]
    assert ids[0] == ids[1] == ids[2]
    assert len(sessile_ids()) == 196
    assert sessile_ids() < ids[0]


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
        (CSV + "a,test\n", "split mine: id a stands in it twice"),
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
