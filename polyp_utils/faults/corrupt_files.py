"""Corrupted files of a data set: their bytes, names and places."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from PIL import Image

from polyp_utils.faults.corruption import (
    ANY,
    CLEAN,
    DATA,
    OTHER,
    PIXELS,
    REFUSED,
    Expected,
    cut,
    flip,
    on,
    replace_content,
    some,
    some_file,
)
from polyp_utils.faults.world import World, pixels_of, save_mask


@on(PIXELS)
def _cut_file(world: World, rng: np.random.Generator) -> Expected:
    path = some_file(world, rng, *DATA)
    cut(path, rng)
    return Expected(REFUSED, names=path.name)


@on(PIXELS)
def _bit_of_a_png(world: World, rng: np.random.Generator) -> Expected:
    path = some_file(world, rng, *DATA)
    flip(path, rng, 16, 12)
    return Expected(REFUSED, names=path.name)


@on(PIXELS)
def _bit_of_a_jpeg(world: World, rng: np.random.Generator) -> Expected:
    path = some_file(world, rng, "data/images")
    Image.open(path).save(path.with_suffix(".jpg"))
    path.unlink()
    flip(path.with_suffix(".jpg"), rng, 2, 2)
    return Expected(ANY)


@on(PIXELS)
def _bit_of_a_bmp(world: World, rng: np.random.Generator) -> Expected:
    path = some_file(world, rng, "data/masks")
    mask = world.masks[path.stem].copy()
    save_mask(path.with_suffix(".bmp"), mask)
    path.unlink()
    row, column = int(rng.integers(1, mask.shape[0])), int(rng.integers(1, mask.shape[1]))
    data = bytearray(path.with_suffix(".bmp").read_bytes())
    start, bottom_up = struct.unpack_from("<I", data, 10)[0], mask.shape[0] - 1 - row
    data[start + bottom_up * (-(-mask.shape[1] // 4) * 4) + column] ^= 128
    path.with_suffix(".bmp").write_bytes(data)
    mask[row, column] ^= True
    return Expected(OTHER, pixels_of(world, **{path.stem: mask}))


@on(PIXELS)
def _other_content(world: World, rng: np.random.Generator) -> Expected:
    path = some_file(world, rng, *DATA)
    replace_content(path, rng)
    return Expected(REFUSED, names=path.name)


@on(PIXELS)
def _bytes_after_the_end(world: World, rng: np.random.Generator) -> Expected:
    path = some_file(world, rng, *DATA)
    path.write_bytes(path.read_bytes() + bytes(int(rng.integers(1, 99))))
    return Expected(CLEAN)


@on(PIXELS)
def _size_in_the_header(world: World, rng: np.random.Generator) -> Expected:
    path = some_file(world, rng, *DATA)
    data = bytearray(path.read_bytes())
    side = some(rng, (16, 20))
    (old,) = struct.unpack_from(">I", data, side)
    struct.pack_into(">I", data, side, int(some(rng, (0, old - 1, old + 1, 50_000, 2**31 - 1))))
    struct.pack_into(">I", data, 29, zlib.crc32(data[12:29]))
    path.write_bytes(data)
    return Expected(REFUSED, names=path.stem)


# Names and places.


@on(PIXELS)
def _exchanged_masks(world: World, rng: np.random.Generator) -> Expected:
    one, other = (world.data / f"masks/{name}.png" for name in rng.permutation([*world.masks])[:2])
    swap = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(swap)
    changed = {one.stem: world.masks[other.stem], other.stem: world.masks[one.stem]}
    return Expected(OTHER, pixels_of(world, **changed))


@on(PIXELS)
def _missing_file(world: World, rng: np.random.Generator) -> Expected:
    path = some_file(world, rng, *DATA)
    path.unlink()
    return Expected(REFUSED, names=path.stem)


@on(PIXELS)
def _broken_link(world: World, rng: np.random.Generator) -> Expected:
    path = some_file(world, rng, *DATA)
    path.unlink()
    path.symlink_to(world.path / "gone.png")
    return Expected(REFUSED, names=path.name)


@on(PIXELS)
def _link(world: World, rng: np.random.Generator) -> Expected:
    path = some_file(world, rng, *DATA)
    elsewhere = path.rename(world.path / f"elsewhere-{path.name}")
    path.symlink_to(elsewhere)
    return Expected(CLEAN)


@on(PIXELS)
def _odd_name(world: World, rng: np.random.Generator) -> Expected:
    old = some(rng, world.images)
    odd = ("NA", "1e5", "nan", "x y", "ä", "<b>", "a,b", "'", "None", "-1", "=1+1", "x.y")
    new = some(rng, odd)
    for folder in DATA:
        (world.path / folder / f"{old}.png").rename(world.path / folder / f"{new}.png")
    renamed = {new if key == old else key: value for key, value in pixels_of(world).items()}
    return Expected(OTHER, renamed)


@on(PIXELS)
def _clutter(world: World, rng: np.random.Generator) -> Expected:
    folder = world.path / some(rng, DATA)
    name = some(rng, ("._00.png", "Thumbs.db", ".DS_Store", "desktop.ini", "@eaDir", "__MACOSX"))
    if "." in name:
        (folder / name).write_bytes(b"\0" * 99)
    else:
        (folder / name).mkdir()
        (folder / name / "00.png").write_bytes(b"\0" * 99)
    return Expected(CLEAN)


@on(PIXELS)
def _other_folder_names(world: World, rng: np.random.Generator) -> Expected:
    images, masks = (
        ("Images", "Masks"), ("image", "label"), ("original", "Ground Truth"), ("img", "gt"),
    )[int(rng.integers(4))]  # fmt: skip
    (world.data / "images").rename(world.data / "x").rename(world.data / images)
    (world.data / "masks").rename(world.data / "y").rename(world.data / masks)
    return Expected(CLEAN)


@on(PIXELS)
def _nested(world: World, rng: np.random.Generator) -> Expected:
    inner = world.data / some(rng, ("Kvasir-SEG", "data", "Kvasir-SEG (1)", "x/y"))
    inner.mkdir(parents=True)
    for kind in ("images", "masks"):
        (world.data / kind).rename(inner / kind)
    return Expected(CLEAN)
