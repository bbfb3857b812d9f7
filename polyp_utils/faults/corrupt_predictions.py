"""Corrupted predictions of another system, and splits."""

from __future__ import annotations

import numpy as np
from PIL import Image

from polyp_utils.faults.corruption import (
    CLEAN,
    OTHER,
    REFUSED,
    SCORES,
    SPLIT,
    Expected,
    cut,
    flip,
    on,
    replace_content,
    some,
    some_file,
)
from polyp_utils.faults.world import World, dice_of, save_mask


def _scores_of(world: World, **masks: np.ndarray) -> dict[str, float]:
    return {
        name: dice_of(masks.get(name, world.predicted[name]), world.masks[name])
        for name in world.masks
    }


@on(SCORES)
def _damaged_prediction(world: World, rng: np.random.Generator) -> Expected:
    path = some_file(world, rng, "predictions")
    way = some(rng, ("cut", "flip", "other"))
    if way == "cut":
        cut(path, rng)
    elif way == "flip":
        flip(path, rng, 16, 12)
    else:
        replace_content(path, rng)
    return Expected(REFUSED, names=path.name)


@on(SCORES)
def _missing_prediction(world: World, rng: np.random.Generator) -> Expected:
    path = some_file(world, rng, "predictions")
    path.unlink()
    return Expected(REFUSED, names=path.stem)


@on(SCORES)
def _prediction_too_many(world: World, rng: np.random.Generator) -> Expected:
    path = some_file(world, rng, "predictions")
    path.with_name("stranger.png").write_bytes(path.read_bytes())
    return Expected(CLEAN)


@on(SCORES)
def _other_predictions(world: World, rng: np.random.Generator) -> Expected:
    name = some(rng, world.predicted)
    mask = world.predicted[name]
    changed = some(rng, (mask & False, ~mask, np.roll(mask, 5, axis=0), mask[::-1]))
    save_mask(world.path / f"predictions/{name}.png", changed)
    return Expected(OTHER, _scores_of(world, **{name: changed}))


@on(SCORES)
def _prediction_on_its_side(world: World, rng: np.random.Generator) -> Expected:
    path = some_file(world, rng, "predictions")
    save_mask(path, world.predicted[path.stem].T)
    return Expected(REFUSED, names=path.stem)


@on(SCORES)
def _predictions_written_otherwise(world: World, rng: np.random.Generator) -> Expected:
    way = some(rng, ("1", "16", "rgb", "alpha", "palette", "soft"))
    for name, mask in world.predicted.items():
        path = world.path / f"predictions/{name}.png"
        grey = mask.astype(np.uint8) * np.uint8(255)
        full = np.full_like(grey, 255)
        palette = Image.fromarray(mask.astype(np.uint8), "P")
        palette.putpalette([0, 0, 0, 255, 255, 255])
        {
            "1": Image.fromarray(grey).convert("1"),
            "16": Image.fromarray(grey.astype(np.uint16) * 257),
            "rgb": Image.fromarray(grey).convert("RGB"),
            "alpha": Image.fromarray(np.dstack([grey] * 3 + [full])),
            "palette": palette,
            "soft": Image.fromarray(np.where(mask, 255 - rng.integers(0, 99, mask.shape),
                                             rng.integers(0, 99, mask.shape)).astype(np.uint8)),
        }[way].save(path)  # fmt: skip
    return Expected(CLEAN)


# Splits.


def _split_text(world: World) -> str:
    return (world.path / "split.csv").read_text("utf-8")


@on(SPLIT)
def _split_written_otherwise(world: World, rng: np.random.Generator) -> Expected:
    path, text = world.path / "split.csv", _split_text(world)
    rows = text.splitlines()[1:]
    shuffled = "\n".join(["id,part", *rng.permutation(rows)]) + "\n"
    ways = (
        text.encode("utf-8-sig"),
        text.encode("utf-16"),
        text.replace("\n", "\r\n").encode(),
        text.replace(",", ";").encode(),
        text.replace(",", "\t").encode(),
        text.replace(",", ".png,").replace("id.png", "id").encode(),
        text.replace("val", "validation").encode(),
        text.replace("\n", "\n\n").encode(),
        "\n".join(f'"{row}"'.replace(",", '","') for row in text.splitlines()).encode(),
        shuffled.encode(),
        text.replace("\n0", "\n").encode(),  # leading zeros that a spreadsheet drops
    )
    path.write_bytes(some(rng, ways))
    return Expected(CLEAN)


@on(SPLIT)
def _wrong_row(world: World, rng: np.random.Generator) -> Expected:
    path, rows = world.path / "split.csv", _split_text(world).splitlines()
    at = int(rng.integers(1, len(rows)))
    frame_id = rows[at].split(",")[0]
    change = some(rng, ("twice", "unknown id", "unknown part", "no part", "other part"))
    rows[at] = {
        "unknown id": "stranger,train",
        "unknown part": f"{frame_id},holdout",
        "no part": frame_id,
    }.get(change, rows[at])
    if change == "twice":
        rows.append(rows[at])
    if change == "other part":
        rows.append(f"{frame_id},{'val' if rows[at].endswith('test') else 'test'}")
    path.write_text("\n".join(rows) + "\n")
    return Expected(REFUSED, names="stranger" if change == "unknown id" else frame_id)


@on(SPLIT)
def _no_test_part(world: World, rng: np.random.Generator) -> Expected:
    text = _split_text(world)
    (world.path / "split.csv").write_text(
        "".join(r for r in text.splitlines(True) if "test" not in r)
    )
    return Expected(REFUSED, names="test")


@on(SPLIT)
def _no_split_at_all(world: World, rng: np.random.Generator) -> Expected:
    replace_content(world.path / "split.csv", rng)
    return Expected(REFUSED, names="split.csv")
