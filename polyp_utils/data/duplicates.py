"""Near-duplicate frames: re-crops, shifts, mirror images, other views of the same place.

A hash of the whole frame mostly sees the vignette and overlays that all frames share. Here only
mucosa counts: SIFT features (Lowe 2004, as RootSIFT, Arandjelović and Zisserman 2012) away from
border, overlays, text and highlights. VLAD (Jégou et al. 2010) proposes a few candidates for each
frame, mirrored ones too; a pair is flagged when enough features agree on one similarity transform
(RANSAC), which hardly happens by chance: see `MIN_INLIERS`.

Shapes: n features in a frame, N frames.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
from scipy.cluster.vq import kmeans2
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import cdist

SIDE = 384  # longer side that frames are reduced to, in pixels
NEIGHBOURS = 40  # candidates per frame: other views of a lesion are not always the nearest
MIRROR_NEIGHBOURS = 5  # mirrored candidates: only copies occur mirrored, and they are near
# Mirrored pairs hardly exist, so they show the chance level: one with 9 inliers in 2,612 frames.
MIN_INLIERS = 9
SCALES = (0.4, 2.5)  # anything outside is a collapsed transform
_TOLERANCE_PX = 10.0  # for inliers: another view fits a similarity transform only roughly
_RATIO = 0.9  # Lowe's, of the distances to the nearest and the second-nearest feature
_WORDS = 64
_DARK, _BRIGHT, _STROKE = 35, 200, 55  # grey levels: border; highlights; text against mucosa


class Features(NamedTuple):
    """SIFT features: points float32 (n, 2) as x, y; descriptors uint8 (n, 128); width in pixels."""

    points: np.ndarray
    descriptors: np.ndarray
    width: int


class Match(NamedTuple):
    """How one frame maps onto another: agreeing features, scale, rotation in degrees."""

    inliers: int
    scale: float
    rotation: float


def reduce(image: np.ndarray, side: int = SIDE) -> np.ndarray:
    """An image uint8 (H, W, 3) resized by area to ``side`` px on its longer side."""
    height, width = image.shape[:2]
    factor = side / max(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def mucosa(image: np.ndarray) -> np.ndarray:
    """Where a reduced RGB frame (H, W, 3) shows tissue, bool (H, W).

    Excluded are the black border and areas that it cuts off, a green box, text and highlights
    (brighter in the darkest channel than their surroundings), and a margin around each.
    """
    lit = cv2.morphologyEx((image.max(axis=-1) >= _DARK).astype(np.uint8), cv2.MORPH_OPEN, _box(7))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(lit)
    if count < 2:
        return np.zeros(lit.shape, dtype=bool)
    largest = labels == 1 + stats[1:, cv2.CC_STAT_AREA].argmax()
    inside = largest & (cv2.dilate(green_box(image), _box(5)) == 0)
    inside = cv2.erode(np.pad(inside, 1).astype(np.uint8), _box(13))[1:-1, 1:-1] > 0
    darkest = image.min(axis=-1)
    strokes = cv2.morphologyEx(darkest, cv2.MORPH_TOPHAT, _box(13)) > _STROKE
    bright = cv2.dilate((strokes | (darkest > _BRIGHT)).astype(np.uint8), _box(7)) > 0
    return np.asarray(inside & ~bright)


def green_box(image: np.ndarray) -> np.ndarray:
    """Pixels of an RGB image that are greener than any tissue, uint8 (H, W), 0 or 1."""
    red, green, blue = (image[..., channel].astype(np.int16) for channel in range(3))
    return ((green > red + 15) & (green > blue + 15) & (green > 40)).astype(np.uint8)


def extract(image: np.ndarray) -> Features:
    """Features of an RGB frame uint8 (H, W, 3) of any size."""
    small = reduce(image)
    grey = cv2.createCLAHE(3.0, (8, 8)).apply(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY))
    sift = cv2.SIFT.create(nfeatures=700, contrastThreshold=0.01)
    where = mucosa(small).astype(np.uint8)
    keypoints, descriptors = sift.detectAndCompute(grey, where)
    points = np.array([keypoint.pt for keypoint in keypoints], np.float32).reshape(-1, 2)
    if descriptors is None:
        descriptors = np.zeros((0, 128), np.float32)
    return Features(points, descriptors.astype(np.uint8), small.shape[1])


def extract_all(read: Callable[[str], np.ndarray], ids: Sequence[str]) -> list[Features]:
    """Features of many frames, each read by its id, in parallel."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(lambda frame_id: extract(read(frame_id)), ids))


def mirrored(features: Features) -> Features:
    """The features of the mirror image (left and right exchanged), without extracting them again.

    A descriptor is 4 rows × 4 columns × 8 directions relative to the feature's own axis: mirroring
    reverses the rows and the sign of the directions.
    """
    points = features.points * (-1, 1) + (features.width - 1, 0)
    cells = features.descriptors.reshape(-1, 4, 4, 8)[:, ::-1]
    turned = cells[..., (-np.arange(8)) % 8].reshape(-1, 128)
    return Features(points.astype(np.float32), turned, features.width)


def match_features(one: Features, other: Features) -> Match | None:
    """The similarity transform that most features of two frames agree on.

    Returns:
        None if fewer than `MIN_INLIERS` agree, or the transform collapses.
    """
    pairs = _mutual(_root(one), _root(other))
    if len(pairs) < MIN_INLIERS:
        return None
    transform, inliers = cv2.estimateAffinePartial2D(
        one.points[pairs[:, 0]],
        other.points[pairs[:, 1]],
        method=cv2.RANSAC,
        ransacReprojThreshold=_TOLERANCE_PX,
        maxIters=2000,
        confidence=0.995,
    )
    if transform is None or inliers.sum() < MIN_INLIERS:
        return None
    scale = float(np.hypot(transform[0, 0], transform[1, 0]))
    if not SCALES[0] <= scale <= SCALES[1]:
        return None
    rotation = float(np.degrees(np.arctan2(transform[1, 0], transform[0, 0])))
    return Match(int(inliers.sum()), scale, rotation)


def _root(features: Features) -> np.ndarray:
    """RootSIFT: float32 (n, 128) of unit length."""
    values = features.descriptors.astype(np.float32)
    return np.sqrt(values / np.maximum(values.sum(axis=1, keepdims=True), 1))


def _mutual(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Indices of mutual nearest neighbours that pass Lowe's ratio test, (m, 2)."""
    if min(len(one), len(other)) < 2:
        return np.zeros((0, 2), dtype=int)
    similarity = one @ other.T
    row = np.arange(len(one))
    nearest = similarity.argmax(axis=1)
    mutual = similarity.argmax(axis=0)[nearest] == row
    best = similarity[row, nearest]
    similarity[row, nearest] = -1
    second = similarity.max(axis=1)
    clear = (1 - best) < _RATIO**2 * (1 - second)  # squared distances of unit vectors, halved
    return np.stack([row, nearest], axis=1)[mutual & clear]


def find_near_duplicates(ids: Sequence[str], features: Sequence[Features]) -> pd.DataFrame:
    """The pairs of frames that show the same place.

    Args:
        ids: frame ids, length N.
        features: the frames' features, in the same order.

    Returns:
        A row per pair, strongest first: ``id_a`` < ``id_b``, ``mirrored``, ``inliers``, ``scale``,
        ``rotation`` (degrees); a pair flagged both plain and mirrored keeps its stronger row.
    """
    mirror = [mirrored(f) for f in features]
    wanted = _candidates(features, mirror)

    def confirm(candidate: tuple[int, int, bool]) -> Match | None:
        i, j, flipped = candidate
        return match_features(features[i], mirror[j] if flipped else features[j])

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        matches = list(pool.map(confirm, wanted))
    rows = [
        (*sorted((ids[i], ids[j])), flipped, *match)
        for (i, j, flipped), match in zip(wanted, matches, strict=True)
        if match
    ]
    table = pd.DataFrame(rows, columns=["id_a", "id_b", "mirrored", *Match._fields])
    table = table.sort_values(["inliers", "id_a", "id_b"], ascending=[False, True, True])
    return table.drop_duplicates(["id_a", "id_b"], ignore_index=True)


def _candidates(
    features: Sequence[Features], mirror: Sequence[Features]
) -> list[tuple[int, int, bool]]:
    """(i, j, whether j is mirrored) of the nearest frames by VLAD, each pair once."""
    words = _vocabulary(features)
    if words is None:
        return []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        plain, flipped = (
            np.stack(list(pool.map(_vlad, side, repeat(words)))) for side in (features, mirror)
        )
    found: dict[tuple[int, int, bool], None] = {}
    for is_mirror, vectors, most in (
        (False, plain, NEIGHBOURS),
        (True, flipped, MIRROR_NEIGHBOURS),
    ):
        for start in range(0, len(plain), 1024):
            similarity = plain[start : start + 1024] @ vectors.T
            rows = np.arange(len(similarity))
            similarity[rows, start + rows] = -2  # not itself
            count = min(most, len(plain) - 1)
            for row, near in enumerate(np.argsort(-similarity, axis=1)[:, :count]):
                for j in near.tolist():
                    found[(min(start + row, j), max(start + row, j), is_mirror)] = None
    return sorted(found)


def _vocabulary(features: Sequence[Features]) -> np.ndarray | None:
    """Cluster centres of the descriptors, float32 (words, 128); None if there are too few."""
    rng = np.random.default_rng(0)
    each = max(1, 40_000 // max(1, len(features)))
    sample = [_root(f)[rng.permutation(len(f.points))[:each]] for f in features]
    pooled = np.concatenate([np.zeros((0, 128), np.float32), *sample])
    if len(features) < 2 or len(pooled) < _WORDS:
        return None
    first = _seeds(pooled.astype(np.float64), _WORDS, rng)
    return kmeans2(pooled, first, iter=20, minit="matrix")[0].astype(np.float32)


def _seeds(points: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Points (count, D) of (n, D) by k-means++ (Arthur and Vassilvitskii 2007).

    The same as SciPy's, which measures the distances to all earlier seeds anew for each.
    """
    chosen, nearest = [int(rng.integers(len(points)))], np.full(len(points), np.inf)
    while len(chosen) < count:
        distances = cdist(points[chosen[-1:]], points, "sqeuclidean")[0]
        nearest = np.minimum(nearest, distances)
        share = (nearest / nearest.sum()).cumsum()
        chosen.append(int(np.searchsorted(share, rng.uniform())))
    return points[chosen]


def _vlad(features: Features, words: np.ndarray) -> np.ndarray:
    """VLAD: residuals summed per nearest word, normalised per word and then as a whole."""
    values = _root(features)
    nearest = (values @ words.T - 0.5 * (words**2).sum(axis=1)).argmax(axis=1)
    vector = np.zeros_like(words)
    np.add.at(vector, nearest, values - words[nearest])
    vector /= np.maximum(np.linalg.norm(vector, axis=1, keepdims=True), 1e-9)
    return vector.ravel() / max(float(np.linalg.norm(vector)), 1e-9)


def group(ids: Sequence[str], pairs: pd.DataFrame) -> dict[str, int]:
    """Id -> number of its group: frames linked by pairs, directly or through others, share one."""
    row = {frame_id: i for i, frame_id in enumerate(ids)}
    known = pairs[pairs["id_a"].isin(row) & pairs["id_b"].isin(row)]
    ends = known["id_a"].map(row).to_numpy(), known["id_b"].map(row).to_numpy()
    shape = (len(row), len(row))
    links = coo_array((np.ones(len(known)), (ends[0].astype(int), ends[1].astype(int))), shape)
    return dict(zip(ids, connected_components(links, directed=False)[1].tolist(), strict=True))


def pairwise_agreement(
    found: Mapping[str, object], truth: Mapping[str, object]
) -> tuple[float, float]:
    """Precision and recall of a grouping over pairs of frames, against a true one.

    Args:
        found: id -> group; a pair is found when both frames are in one group.
        truth: id -> true group, of the same ids.

    Returns:
        Precision, NaN if no pair is found; recall, NaN if there is no pair to find.
    """
    both = pd.DataFrame({"found": pd.Series(found), "truth": pd.Series(truth)})
    right, claimed, true = (
        (sizes * (sizes - 1)).sum()
        for sizes in (
            both.value_counts(),
            both["found"].value_counts(),
            both["truth"].value_counts(),
        )
    )
    return (
        float(right / claimed) if claimed else float("nan"),
        float(right / true) if true else float("nan"),
    )


def _box(side: int) -> np.ndarray:
    return np.ones((side, side), np.uint8)
