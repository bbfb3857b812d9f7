"""Pairs of a probability map and a mask, made with numpy, scipy and Pillow alone.

The script beside it and the tests make the same pairs, each in its own environment.
"""

import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

RUNS = ("seed-trimap-w32-s0", "seed-unused-third-w32-s0")


def random_pairs(count: int = 200) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Maps float64 (H, W), in 255 steps, and masks bool: blobs, some of them empty or full."""
    for seed in range(count):
        rng = np.random.default_rng(seed)
        shape = rng.integers(40, 120, 2)
        truth, noise = (gaussian_filter(rng.standard_normal(shape), 6) for _ in range(2))
        mask = truth > np.quantile(truth, rng.uniform(0.6, 0.95))
        logits = (truth - np.quantile(truth, rng.uniform(0.6, 0.95)) + noise * rng.uniform()) * 60
        levels = np.round(255 / (1 + np.exp(-logits)))
        if seed % 20 == 0:
            mask[:] = False
        if seed % 20 in (1, 10):
            mask[:] = seed % 20 == 1
        if seed % 10 == 2 or seed % 40 == 0:
            levels[:] = 0
        yield levels / 255, mask


def real_pairs(repository: Path, kvasir: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Stored test predictions of two published runs, and Kvasir-SEG's masks at their size."""
    for run in RUNS:
        stored = zipfile.ZipFile(repository / "results/published" / run / "predictions/test.zip")
        for name in stored.namelist():
            levels = np.array(Image.open(stored.open(name))).astype(int)
            # LA: P(polyp) and P(third class); the third is polyp in the trimap
            polyp = levels[..., 0] + (levels[..., 1] if "trimap" in run else 0)
            mask = Image.open(kvasir / "masks" / f"{Path(name).stem}.jpg").convert("L")
            mask = np.array(mask.resize(polyp.shape[::-1], Image.Resampling.NEAREST)) > 127
            yield np.minimum(polyp, 255) / 255, mask
