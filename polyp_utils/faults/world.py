"""A small clean world to be corrupted: a data set, predictions, a split, a finished run."""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from polyp_utils.common.config import RunConfig
from polyp_utils.data import phantom

FRAMES = 8
HEIGHT, WIDTH, SIDE = 60, 72, 32  # of the frames, and of the network's input


@dataclass(frozen=True)
class World:
    """The folders ``data``, ``predictions``, ``results`` and the file ``split.csv``.

    Attributes:
        path: the folder that holds all.
        images: id -> RGB uint8 (H, W, 3).
        masks: id -> bool (H, W).
        predicted: id -> bool (H, W), another system's masks.
        run: name of the finished run in ``results``.
    """

    path: Path
    images: dict[str, np.ndarray]
    masks: dict[str, np.ndarray]
    predicted: dict[str, np.ndarray]
    run: str

    @property
    def data(self) -> Path:
        """The data set's folder."""
        return self.path / "data"

    @property
    def run_path(self) -> Path:
        """The run's folder."""
        return self.path / "results" / self.run

    def copy(self, path: Path) -> World:
        """The same world in another folder; the run still names that of the data."""
        shutil.copytree(self.path, path)
        return World(path, self.images, self.masks, self.predicted, self.run)

    def state(self) -> dict[str, str]:
        """Relative path -> hash of its bytes, for every file."""
        return {
            path.relative_to(self.path).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(self.path.rglob("*"))
            if path.is_file()
        }


def make_world(path: Path) -> World:
    """Draws and trains it: phantoms, a network of width 2, one epoch. Sets ``POLYP_RESULTS``."""
    from polyp_utils.score.evaluation import evaluate_run
    from polyp_utils.train.fit import fit

    images, masks, predicted = {}, {}, {}
    for folder in ("data/images", "data/masks", "predictions"):
        (path / folder).mkdir(parents=True)
    drawn = (phantom.draw_phantom(index) for index in range(2 * FRAMES))
    with_polyp = (pair for pair in drawn if pair[1].any())
    for number, (image, mask) in zip(range(FRAMES), with_polyp, strict=False):
        name = f"{number:02}"
        images[name] = cv2.resize(image, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
        masks[name] = cv2.resize(mask, (WIDTH, HEIGHT), interpolation=cv2.INTER_NEAREST) > 127
        predicted[name] = np.roll(masks[name], 2 + number % 3, axis=1)
        Image.fromarray(images[name]).save(path / f"data/images/{name}.png")
        save_mask(path / f"data/masks/{name}.png", masks[name])
        save_mask(path / f"predictions/{name}.png", predicted[name])
    parts = ["train"] * (FRAMES - 4) + ["val"] * 2 + ["test"] * 2
    rows = [f"{name},{part}" for name, part in zip(images, parts, strict=True)]
    (path / "split.csv").write_text("\n".join(["id,part", *rows]) + "\n")
    os.environ["POLYP_RESULTS"] = str(path / "results")
    small: dict[str, Any] = {"image_size": SIDE, "width": 2, "epochs": 1, "batch_size": 2}
    small |= {"dataset": str(path / "data"), "split": str(path / "split.csv"), "device": "cpu"}
    run = fit(RunConfig.from_recipe("quick", name="small", **small))
    evaluate_run(run).save(run)
    return World(path, images, masks, predicted, run.name)


def pixels_of(world: World, **masks: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Id -> image and mask of the clean world, but for the masks that are given by id."""
    return {name: (world.images[name], masks.get(name, world.masks[name])) for name in world.images}


def save_mask(path: Path, mask: np.ndarray) -> None:
    """Writes a mask, bool (H, W), as 0 and 255 in the format of the path's suffix."""
    Image.fromarray(mask.astype(np.uint8) * np.uint8(255)).save(path)


def dice_of(one: np.ndarray, other: np.ndarray) -> float:
    """Dice of two masks, bool (H, W), written out."""
    together = np.logical_and(one, other).sum()
    return float(2 * together / (one.sum() + other.sum()))
