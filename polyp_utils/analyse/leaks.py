"""What a random split leaks, and what a leak is worth to a system that only remembers."""

import numpy as np
import pandas as pd
import torch

from polyp_utils.analyse.gallery import Frame
from polyp_utils.data.dataset import PolypDataset
from polyp_utils.data.labels import is_polyp
from polyp_utils.data.split import Split

_DRAWS, _PAIRS = 1000, 200


def leaked_share(pairs: pd.DataFrame, split: Split, seed: int = 0) -> float:
    """Test frames with a near-duplicate in training when the frames are dealt out at random.

    Args:
        pairs: near-duplicates, with ``id_a`` and ``id_b``.
        split: its frames are dealt out anew, into parts of the same sizes.
        seed: of the `_DRAWS` random splits.

    Returns:
        Their share of the test frames, mean of the random splits.
    """
    ids = pd.Index([*split.train, *split.val, *split.test])
    one, other = (ids.get_indexer(pd.Index(pairs[side])) for side in ("id_a", "id_b"))
    inside = (one >= 0) & (other >= 0)
    sides = np.stack([one, other])[:, inside]
    rng, leaked = np.random.default_rng(seed), 0
    for _ in range(_DRAWS):
        place = rng.permutation(len(ids))
        train, test = place < len(split.train), place >= len(ids) - len(split.test)
        a, b = sides
        leaked += len({*a[test[a] & train[b]], *b[test[b] & train[a]]})
    return leaked / _DRAWS / len(split.test)


def copied_masks(dataset: PolypDataset, pairs: pd.DataFrame) -> pd.DataFrame:
    """Dice of the mask of a near-duplicate, taken as it is, and of masks of other frames.

    Args:
        dataset: its masks are compared at network size.
        pairs: near-duplicates, strongest first; of those that are not mirrored, the first
            `_PAIRS` are looked at. One whose second mask is empty is left out.

    Returns:
        A row per pair, best copy first: ``id_a``, ``id_b``, ``copied`` (Dice of the first mask
        against the second) and ``others`` (mean Dice of some 100 masks, evenly spaced in the set,
        against the second).
    """
    kept = pairs[~pairs["mirrored"].astype(bool)].head(_PAIRS)
    every = torch.arange(0, len(dataset), max(1, len(dataset) // 100))
    rows = (dataset.rows(kept["id_a"]), dataset.rows(kept["id_b"]), every)
    one, other, some = (is_polyp(dataset.masks[r]).flatten(1).float() for r in rows)
    copied = 2 * (one * other).sum(1) / (one.sum(1) + other.sum(1))
    others = (2 * other @ some.T / (other.sum(1, keepdim=True) + some.sum(1))).mean(1)
    found = kept[["id_a", "id_b"]].assign(copied=copied.numpy(), others=others.numpy())
    there = (other.sum(1) > 0).numpy()
    return found[there].sort_values("copied", ascending=False, ignore_index=True)


def copied_frames(dataset: PolypDataset, table: pd.DataFrame) -> list[Frame]:
    """Both frames of each pair of `copied_masks`, at network size; the first's mask on the second.

    For `plots.sheet` with an even number of columns.
    """
    frames = []
    for row in table.to_dict("records"):
        shown = [dataset[int(i)] for i in dataset.rows([row["id_a"], row["id_b"]])]
        (image_a, mask_a), (image_b, mask_b) = (
            (image.permute(1, 2, 0).numpy(), is_polyp(mask).numpy()) for image, mask in shown
        )
        name, title = dataset.info.name, f"… and in test this: Dice {row['copied']:.2f}"
        frames.append(Frame("if this is in training …", image_a, mask_a, dataset=name))
        frames.append(Frame(title, image_b, mask_b, mask_a, dataset=name))
    return frames
