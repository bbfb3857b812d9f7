"""Recall of the near-duplicate search, measured on copies made for the purpose."""

import cv2
import numpy as np
import pandas as pd
from scipy import stats

from polyp_utils.data import duplicates
from polyp_utils.data.catalog import get_info
from polyp_utils.data.sources import open_source


def known_copies(image: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Copies of a frame uint8 (H, W, 3) as they occur in data sets, by what was done to them."""
    height, width = image.shape[:2]

    def crop(share: float) -> np.ndarray:
        rows, columns = round((1 - share) * height), round((1 - share) * width)
        top, left = rng.integers(height - rows + 1), rng.integers(width - columns + 1)
        return image[top : top + rows, left : left + columns]

    def scaled(factor: float) -> np.ndarray:
        middle = cv2.getRotationMatrix2D((width / 2, height / 2), 0, factor)
        return cv2.warpAffine(image, middle, (width, height))

    angle = rng.uniform(0, 2 * np.pi)
    x, y = 0.1 * width * np.cos(angle), 0.1 * height * np.sin(angle)
    shift = np.array([[1, 0, x], [0, 1, y]])
    encoded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 30])[1]
    return {
        "5 % cropped from each side's length": crop(0.05),
        "15 % cropped": crop(0.15),
        "25 % cropped": crop(0.25),
        "shifted by 10 %": cv2.warpAffine(image, shift, (width, height)),
        "darker by 30 %": (0.7 * image).astype(np.uint8),
        "brighter by 30 %": np.clip(1.3 * image, 0, 255).astype(np.uint8),
        "JPEG at quality 30": np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR))[..., ::-1],
        "mirrored": np.ascontiguousarray(image[:, ::-1]),
        "zoomed to 130 %": scaled(1.3),
        "zoomed to 80 %": scaled(0.8),
    }


def recall_of_copies(name: str, count: int = 200, seed: int = 0) -> pd.DataFrame:
    """Share of known copies that the search flags when they are added to a data set's frames.

    Args:
        name: a name in the catalogue, a folder, or ``IMAGES::MASKS``, see `get_info`.
        count: number of frames to copy; copies of one kind at a time are added.
        seed: for the choice of frames, the crops and the shifts.

    Returns:
        Columns ``copy``, ``n``, ``found``, ``recall``, ``low``, ``high`` (95 %, Wilson).
    """
    source = open_source(get_info(name))
    features = duplicates.extract_all(source.read_image, source.ids)
    rng = np.random.default_rng(seed)
    chosen = sorted(rng.permutation(len(source.ids))[:count].tolist())
    copies = [
        {kind: duplicates.extract(copy) for kind, copy in known_copies(image, rng).items()}
        for image in (source.read_image(source.ids[i]) for i in chosen)
    ]
    rows = []
    for kind in copies[0]:
        names = [*source.ids, *(f"copy of {source.ids[i]}" for i in chosen)]
        pairs = duplicates.find_near_duplicates(names, features + [copy[kind] for copy in copies])
        flagged = set(zip(pairs["id_a"], pairs["id_b"], strict=True))
        hidden = (sorted((source.ids[i], f"copy of {source.ids[i]}")) for i in chosen)
        found = sum(tuple(pair) in flagged for pair in hidden)
        low, high = stats.binomtest(found, len(chosen)).proportion_ci(method="wilson")
        row = {"copy": kind, "n": len(chosen), "found": found, "recall": found / len(chosen)}
        rows.append(row | {"low": float(low), "high": float(high)})
    return pd.DataFrame(rows)
