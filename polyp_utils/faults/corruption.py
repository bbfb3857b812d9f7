"""Corrupted inputs: each names what must come of it before it is tried.

A corruption changes one thing of a `World` at random and says what the package must make of it: the
clean result, another that is worked out here from the changed arrays, or a refusal that names the
file. Of what a format cannot notice (a flipped bit in a JPEG) only tracebacks and losses count.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from polyp_utils.faults.world import World

REFUSED, CLEAN, OTHER, ANY = "refused", "clean", "other", "any"
PIXELS, SCORES, SPLIT = "pixels", "scores", "split"  # what is asked for, see `Corrupted`
WEIGHTS, EVALUATION, TABLE = "weights", "evaluation", "table"


class Expected(NamedTuple):
    """What must come of a corruption: `REFUSED`, `CLEAN`, `OTHER` (``value``) or `ANY`."""

    outcome: str
    value: Any = None
    names: str = ""  # what the message of a refusal must hold


Corrupt = Callable[[World, np.random.Generator], Expected]
CORRUPTIONS: dict[str, tuple[str, Corrupt]] = {}  # name -> what is then asked for, and the change


def on(task: str) -> Callable[[Corrupt], Corrupt]:
    """Adds a corruption to `CORRUPTIONS`, under its function's name."""

    def register(corrupt: Corrupt) -> Corrupt:
        CORRUPTIONS[corrupt.__name__.removeprefix("_")] = (task, corrupt)
        return corrupt

    return register


def some(rng: np.random.Generator, things: Any) -> Any:
    """One of some things, at random."""
    things = list(things)
    return things[int(rng.integers(len(things)))]


def some_file(world: World, rng: np.random.Generator, *folders: str) -> Path:
    """One of the PNGs in some folders of a world, at random."""
    return some(rng, sorted((world.path / some(rng, folders)).glob("*.png")))


DATA = ("data/images", "data/masks")
_GARBAGE = {
    "nothing": b"",
    "a web page": b"<!DOCTYPE html><html><title>404</title></html>",
    "a pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 124\n",
    "a ZIP": b"PK\x03\x04" + bytes(40),
    "text": b"hello\n" * 9,
    "noise": bytes(np.random.default_rng(0).integers(0, 256, 500, dtype=np.uint8)),
}


def cut(path: Path, rng: np.random.Generator, keep: int = 13) -> None:
    """Cuts a file off at a random place, at least ``keep`` bytes before its end (of a PNG: 12)."""
    data = path.read_bytes()
    path.write_bytes(data[: int(rng.integers(0, len(data) - keep))])


def flip(path: Path, rng: np.random.Generator, first: int, last: int) -> None:
    """Flips a random bit, but for the first and last bytes."""
    data = bytearray(path.read_bytes())
    data[int(rng.integers(first, len(data) - last))] ^= 1 << int(rng.integers(8))
    path.write_bytes(data)


def replace_content(path: Path, rng: np.random.Generator) -> None:
    """Writes something else into a file: nothing, a web page, a git-lfs pointer, noise, …."""
    path.write_bytes(some(rng, _GARBAGE.values()))


def damage(path: Path, rng: np.random.Generator, keep: int) -> None:
    """Cuts a file off, see `cut`, or replaces its content."""
    if rng.random() < 0.5:
        cut(path, rng, keep)
    else:
        replace_content(path, rng)
