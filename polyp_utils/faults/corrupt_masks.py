"""Masks with other levels, sizes, depths and transparency."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from polyp_utils.faults.corruption import (
    CLEAN,
    DATA,
    OTHER,
    PIXELS,
    REFUSED,
    Expected,
    on,
    some,
    some_file,
)
from polyp_utils.faults.world import World, pixels_of, save_mask


def _mask(world: World, rng: np.random.Generator) -> tuple[Path, np.ndarray]:
    path = some_file(world, rng, "data/masks")
    return path, world.masks[path.stem]


@on(PIXELS)
def _class_labels(world: World, rng: np.random.Generator) -> Expected:
    path, mask = _mask(world, rng)
    labels = mask.astype(np.uint8) * int(rng.integers(1, 3))
    if rng.random() < 0.5:
        grown = np.pad(mask, 1)
        rim = (grown[2:, 1:-1] | grown[:-2, 1:-1] | grown[1:-1, 2:] | grown[1:-1, :-2]) & ~mask
        labels[rim] = 255
    Image.fromarray(labels).save(path)
    return Expected(REFUSED, names=path.name)


@on(PIXELS)
def _grey_polyp(world: World, rng: np.random.Generator) -> Expected:
    path, mask = _mask(world, rng)
    level = int(rng.integers(1, 170))
    Image.fromarray(mask.astype(np.uint8) * np.uint8(level)).save(path)
    return Expected(REFUSED, names=path.name)


@on(PIXELS)
def _noise_of_jpeg(world: World, rng: np.random.Generator) -> Expected:
    path, mask = _mask(world, rng)
    noise = rng.integers(0, 9, mask.shape).astype(np.uint8)
    Image.fromarray(np.where(mask, 255 - noise, noise)).save(path)
    return Expected(CLEAN)


@on(PIXELS)
def _undecided_pixels(world: World, rng: np.random.Generator) -> Expected:
    path, mask = _mask(world, rng)
    most = mask.size // 100
    few = rng.random() < 0.5
    count = int(rng.integers(1, most)) if few else int(rng.integers(most + 1, 4 * most))
    spots = rng.choice(np.arange(1, mask.size), count, replace=False)
    levels = mask.astype(np.uint8).ravel() * np.uint8(255)
    levels[spots] = rng.integers(86, 170, count)
    Image.fromarray(levels.reshape(mask.shape)).save(path)
    seen = levels.reshape(mask.shape) > 127
    if few:
        return Expected(OTHER, pixels_of(world, **{path.stem: seen}))
    return Expected(REFUSED, names=path.name)


@on(PIXELS)
def _inverted_masks(world: World, rng: np.random.Generator) -> Expected:
    names = rng.permutation([*world.masks])[: int(rng.integers(1, len(world.masks)))]
    for name in names:
        save_mask(world.data / f"masks/{name}.png", ~world.masks[name])
    return Expected(OTHER, pixels_of(world, **{str(n): ~world.masks[str(n)] for n in names}))


@on(PIXELS)
def _full_masks(world: World, rng: np.random.Generator) -> Expected:
    for path in (world.data / "masks").iterdir():
        save_mask(path, np.ones_like(world.masks[path.stem]))
    return Expected(REFUSED, names="full mask")


@on(PIXELS)
def _other_size(world: World, rng: np.random.Generator) -> Expected:
    path = some_file(world, rng, *DATA)
    with Image.open(path) as image:
        width, height = image.size
        sizes = (
            (height, width),
            (width + 1, height),
            (width, height - 1),
            (width // 2, height // 2),
        )
        changed = image.resize(some(rng, sizes), Image.Resampling.NEAREST)
    changed.save(path)
    return Expected(REFUSED, names=path.stem)


@on(PIXELS)
def _turned_by_exif(world: World, rng: np.random.Generator) -> Expected:
    path = some_file(world, rng, *DATA)
    orientation, exif = int(rng.integers(2, 9)), Image.Exif()
    exif[0x0112] = orientation
    with Image.open(path) as image:
        pixels = np.asarray(image)
    swapped = pixels.swapaxes(0, 1)
    stored = {5: swapped, 6: np.rot90(pixels), 7: swapped[::-1, ::-1], 8: np.rot90(pixels, -1)}
    Image.fromarray(np.ascontiguousarray(stored.get(orientation, pixels))).save(path, exif=exif)
    if orientation < 5:
        return Expected(REFUSED, names="EXIF orientation")
    return Expected(CLEAN)


@on(PIXELS)
def _alpha(world: World, rng: np.random.Generator) -> Expected:
    path, mask = _mask(world, rng)
    grey, full = mask.astype(np.uint8) * np.uint8(255), np.full(mask.shape, 255, np.uint8)
    way = some(rng, ("opaque", "white", "black", "both"))
    colours, alpha = {
        "opaque": (grey, full),
        "white": (full, grey),
        "black": (full * 0, grey),
        "both": (grey, grey),
    }[way]
    Image.fromarray(np.dstack([colours] * 3 + [alpha])).save(path)
    return Expected(REFUSED, names=path.name) if way == "black" else Expected(CLEAN)


@on(PIXELS)
def _other_depth(world: World, rng: np.random.Generator) -> Expected:
    path, mask = _mask(world, rng)
    way = some(rng, ("16", "12", "255", "float", "1", "palette", "white", "lzw", "pages", "nan"))
    image, tif = Image.fromarray(mask.astype(np.uint8) * np.uint8(255)), path.with_suffix(".tif")
    if way in ("16", "12", "255"):
        white = {"16": 65535, "12": 4095, "255": 255}[way]
        Image.fromarray((mask * white).astype(np.uint16)).save(path)
    elif way == "1":
        image.convert("1").save(path)
    elif way == "palette":
        image = Image.fromarray(mask.astype(np.uint8), "P")
        image.putpalette([0, 0, 0, 255, 255, 255])
        image.save(path)
    else:
        path.unlink()
        floats = mask.astype(np.float32)
        if way == "nan":
            floats[0, 0] = np.nan
        if way in ("float", "nan"):
            tifffile.imwrite(tif, floats, photometric="minisblack")
        elif way == "white":
            tifffile.imwrite(tif, ~np.asarray(image), photometric="miniswhite")
        elif way == "lzw":
            image.save(tif, compression="tiff_lzw")
        else:
            image.save(tif, save_all=True, append_images=[image])
    if way in ("12", "pages", "nan"):
        return Expected(REFUSED, names=path.stem)
    return Expected(CLEAN)


@on(PIXELS)
def _image_with_alpha(world: World, rng: np.random.Generator) -> Expected:
    path = some_file(world, rng, "data/images")
    pixels = world.images[path.stem]
    alpha = rng.integers(1, 256, pixels.shape[:2]).astype(np.uint8)
    Image.fromarray(np.dstack([pixels, alpha])).save(path)
    return Expected(CLEAN)
