"""Near-duplicates among synthetic tissue with known pairs, and in the real data sets."""

import shutil
from dataclasses import replace

import cv2
import numpy as np
import pandas as pd
import pytest
from scipy.cluster.vq import kmeans2
from scipy.ndimage import gaussian_filter

from polyp_utils.analyse.duplicate_recall import known_copies
from polyp_utils.data import duplicates
from polyp_utils.data.catalog import CATALOG, get_info
from polyp_utils.data.duplicates import (
    Features,
    extract,
    find_near_duplicates,
    group,
    match_features,
    mirrored,
    mucosa,
    pairwise_agreement,
    reduce,
)
from polyp_utils.data.known import known_pairs, known_sequences, listed_groups
from polyp_utils.data.pairs import near_duplicates
from polyp_utils.data.sources import open_source
from polyp_utils.data.splits import load_split


def tissue(seed, height=300, width=360):
    """Reddish texture at several scales within a dark round border."""
    rng = np.random.default_rng(seed)
    noise = sum(
        gaussian_filter(rng.standard_normal((height, width)), sigma) * sigma for sigma in (2, 5, 12)
    )
    value = np.clip(0.6 + 0.25 * noise / noise.std(), 0.25, 0.85)
    image = (value[..., None] * (230, 120, 90)).astype(np.uint8)
    y, x = np.mgrid[:height, :width]
    image[np.hypot(y - height / 2, x - width / 2) > 0.55 * height] = 0
    return image


def with_overlay(image):
    """The same text, green box and border, as on every frame of one video processor."""
    image = image.copy()
    for row, text in enumerate(("12/03/2013", "<00:12:54>", "CVP: 3")):
        cv2.putText(image, text, (60, 90 + 14 * row), 0, 0.4, (235, 235, 235), 1)
    image[200:, 60:120] = (20, 160, 130)
    return image


@pytest.fixture(scope="module")
def features():
    return [extract(tissue(seed)) for seed in range(12)]


def test_the_seeds_of_the_vocabulary_are_scipys():
    points = np.random.default_rng(0).standard_normal((300, 4))
    seeds = duplicates._seeds(points, 8, np.random.default_rng(1))
    ours, _ = kmeans2(points, seeds, iter=1, minit="matrix")
    expected, _ = kmeans2(points, 8, iter=1, minit="++", rng=np.random.default_rng(1))
    np.testing.assert_array_equal(ours, expected)


def test_features_lie_only_on_tissue():
    image = with_overlay(tissue(0))
    small, where = reduce(image), mucosa(reduce(image))
    assert where.shape == small.shape[:2] == (320, 384)
    assert 0.3 < where.mean() < 0.7
    scale = 384 / 360
    for x, y in ((10, 10), (62, 88), (90, 250)):  # border, text, green box
        assert not where[round(y * scale), round(x * scale)]
    assert where[160, 300]
    for x, y in extract(image).points:
        assert where[round(y), round(x)]


@pytest.mark.parametrize("shape", [(300, 360, 3), (64, 64, 3), (33, 200, 3)])
def test_a_frame_without_tissue_has_no_features(shape):
    found = extract(np.zeros(shape, np.uint8))
    assert found.points.shape == (0, 2)
    assert found.descriptors.shape == (0, 128)
    assert match_features(found, found) is None


def test_mirrored_features_are_those_of_the_mirror_image():
    image = tissue(3)
    expected, found = extract(image[:, ::-1].copy()), mirrored(extract(image))
    match = match_features(found, expected)
    assert match.inliers > 0.5 * len(expected.points)
    assert match.scale == pytest.approx(1, abs=0.01)
    assert match.rotation == pytest.approx(0, abs=0.5)
    twice = mirrored(found)
    np.testing.assert_allclose(twice.points, extract(image).points, atol=1e-4)
    np.testing.assert_array_equal(twice.descriptors, extract(image).descriptors)


@pytest.mark.parametrize("kind", known_copies(tissue(0), np.random.default_rng(0)))
def test_known_copies_are_found_among_others(kind, features):
    copy = known_copies(tissue(5), np.random.default_rng(1))[kind]
    pairs = find_near_duplicates([*"abcdefghijkl", "z"], [*features, extract(copy)])
    assert pairs[["id_a", "id_b"]].to_numpy().tolist() == [["f", "z"]]
    assert pairs["mirrored"].tolist() == [kind == "mirrored"]


def test_the_transform_is_the_one_applied():
    image = tissue(7)
    turn = cv2.getRotationMatrix2D((180, 150), -20, 0.8)  # OpenCV counts angles upwards
    match = match_features(extract(image), extract(cv2.warpAffine(image, turn, (360, 300))))
    assert match.scale == pytest.approx(0.8, abs=0.03)
    assert match.rotation == pytest.approx(20, abs=2)


def test_shared_overlays_make_no_pair():
    frames = [extract(with_overlay(tissue(seed))) for seed in range(8)]
    assert find_near_duplicates("abcdefgh", frames).empty


def test_collapsed_transforms_do_not_count():
    """If all features of a frame match one spot of another, they agree on a scale of 0."""
    rng = np.random.default_rng(0)
    descriptors = rng.integers(0, 200, (20, 128)).astype(np.uint8)
    spread = Features(rng.uniform(0, 384, (20, 2)).astype(np.float32), descriptors, 384)
    spot = Features(
        np.full((20, 2), 100, np.float32) + rng.random((20, 2), np.float32), *spread[1:]
    )
    assert match_features(spread, spread).inliers == 20
    assert match_features(spread, spot) is None


def test_nothing_to_compare():
    assert find_near_duplicates([], []).empty
    assert find_near_duplicates(["a"], [extract(tissue(0))]).empty
    columns = ["id_a", "id_b", "mirrored", "inliers", "scale", "rotation"]
    assert list(find_near_duplicates([], []).columns) == columns


def test_groups_are_linked_by_pairs():
    pairs = pd.DataFrame({"id_a": ["a", "b", "x", "d"], "id_b": ["b", "c", "a", "e"]})
    found = group(["a", "b", "c", "d", "e", "f"], pairs)  # x is not among the ids
    assert found["a"] == found["b"] == found["c"]
    assert found["d"] == found["e"]
    assert len(set(found.values())) == 3


def test_order_and_threads_do_not_matter(features, monkeypatch):
    ids = [*"abcdefghijkl", "z"]
    all_features = [*features, extract(tissue(5)[10:, 20:])]
    expected = find_near_duplicates(ids, all_features)
    assert len(expected) == 1
    monkeypatch.setattr(duplicates.os, "cpu_count", lambda: 1)
    pd.testing.assert_frame_equal(find_near_duplicates(ids, all_features), expected)
    turned = find_near_duplicates(ids[::-1], all_features[::-1])
    assert turned[["id_a", "id_b"]].equals(expected[["id_a", "id_b"]])


@pytest.mark.data
@pytest.mark.parametrize("name", ["kvasir-seg", "cvc-clinicdb"])
def test_strongest_real_pairs_are_found_again(name, kvasir_root):
    """The package's lists come from this code: the ends of 12 pairs among 40 frames."""
    source, pairs = open_source(get_info(name)), known_pairs(name)
    wanted = pairs[pairs["inliers"] > 60].sample(12, random_state=0)
    ids = sorted({*wanted["id_a"], *wanted["id_b"], *source.ids[:: len(source.ids) // 20]})
    found = find_near_duplicates(ids, duplicates.extract_all(source.read_image, ids))
    flagged = set(zip(found["id_a"], found["id_b"], strict=True))
    assert flagged >= set(zip(wanted["id_a"], wanted["id_b"], strict=True))
    # another vocabulary proposes other candidates, but hardly any false pairs
    sequence, known = known_sequences(name), set(zip(pairs["id_a"], pairs["id_b"], strict=True))
    new = [pair for pair in flagged - known if len({sequence.get(i, i) for i in pair}) == 2]
    assert len(new) <= 1


def test_flagged_pairs_of_clinicdb_lie_within_sequences():
    """The package's list: precise, and what it links recovers most of the sequences."""
    pairs, sequences = known_pairs("cvc-clinicdb"), known_sequences("cvc-clinicdb")
    same = pairs["id_a"].map(sequences) == pairs["id_b"].map(sequences)
    across = pairs.loc[~same, ["id_a", "id_b"]].map(sequences.get)
    assert {tuple(row) for row in across.to_numpy()} == {("3", "4")}  # one stretch of bowel
    assert same.mean() > 0.98
    precision, recall = pairwise_agreement(group(list(sequences), pairs), sequences)
    assert precision > 0.9
    assert recall > 0.7


def test_pairwise_agreement_by_hand():
    truth = dict(zip("abcdef", [1, 1, 1, 2, 2, 3], strict=True))  # ab ac bc, de
    found = dict(zip("abcdef", [1, 1, 2, 2, 2, 3], strict=True))  # ab, cd ce de
    assert pairwise_agreement(found, truth) == (2 / 4, 2 / 4)
    assert pairwise_agreement(truth, truth) == (1, 1)
    precision, recall = pairwise_agreement({"a": 1, "b": 2}, {"a": 1, "b": 2})
    assert np.isnan(precision)
    assert np.isnan(recall)


def test_listed_groups_use_pairs_and_sequences_and_only_the_given_ids():
    test = load_split("random-800-s42", "kvasir-seg").test
    pairs = known_pairs("kvasir-seg")
    inside = pairs["id_a"].isin(test) & pairs["id_b"].isin(test)
    groups = listed_groups("kvasir-seg", test)
    assert list(groups) == list(test)
    assert len(set(groups.values())) == 100 - inside.sum() < 100
    sequences = known_sequences("cvc-clinicdb")
    few = [i for i, s in sequences.items() if s in ("1", "2", "9")]
    found = listed_groups("cvc-clinicdb", few)
    assert pairwise_agreement(found, {i: sequences[i] for i in few}) == (1, 1)


def test_a_damaged_or_unwritable_cache_of_pairs_costs_time_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("POLYP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(CATALOG, "phantom", replace(CATALOG["phantom"], count=2))
    source = open_source(get_info("phantom"))
    found = near_duplicates(source, "phantom")
    (path,) = (tmp_path / "cache").iterdir()
    for damaged in ("", path.read_text()[:-1], "id,part\n"):
        path.write_text(damaged)
        with pytest.warns(UserWarning, match=rf"cache {path} is damaged"):
            pd.testing.assert_frame_equal(near_duplicates(source, "phantom"), found)
    assert list(near_duplicates(source, "phantom")) == list(found)
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "cache").touch()
    with pytest.warns(UserWarning, match=rf"cache {path} not written"):
        pd.testing.assert_frame_equal(near_duplicates(source, "phantom"), found)
