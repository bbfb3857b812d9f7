"""Corrupted weights and run folders."""

from __future__ import annotations

import csv
import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from polyp_utils.faults.corruption import (
    ANY,
    EVALUATION,
    REFUSED,
    TABLE,
    WEIGHTS,
    Expected,
    cut,
    damage,
    flip,
    on,
    replace_content,
    some,
    some_file,
)
from polyp_utils.faults.world import World


@on(WEIGHTS)
def _damaged_weights(world: World, rng: np.random.Generator) -> Expected:
    path = world.run_path / "model.safetensors"
    damage(path, rng, 1)
    return Expected(REFUSED, names=path.name)


@on(WEIGHTS)
def _nonsense_in_the_header(world: World, rng: np.random.Generator) -> Expected:
    path = world.run_path / "model.safetensors"
    data = bytearray(path.read_bytes())
    struct.pack_into("<Q", data, 0, int(some(rng, (0, 3, 2**40, 2**63, len(data)))))
    path.write_bytes(data)
    return Expected(REFUSED, names=path.name)


def _tensors(world: World) -> tuple[Path, dict[str, Any], dict[str, str]]:
    from safetensors import safe_open

    path = world.run_path / "model.safetensors"
    with safe_open(path, "np") as file:
        return path, {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


@on(WEIGHTS)
def _weights_that_are_not_finite(world: World, rng: np.random.Generator) -> Expected:
    from safetensors.numpy import save_file

    path, tensors, metadata = _tensors(world)
    floats = [name for name, tensor in tensors.items() if tensor.dtype.kind == "f"]
    name = some(rng, floats)
    tensors[name] = tensors[name].copy()
    tensors[name].flat[int(rng.integers(tensors[name].size))] = some(rng, (np.nan, np.inf, -np.inf))
    save_file(tensors, path, metadata)
    return Expected(REFUSED, names=name)


@on(WEIGHTS)
def _weights_that_do_not_fit(world: World, rng: np.random.Generator) -> Expected:
    from safetensors.numpy import save_file

    path, tensors, metadata = _tensors(world)
    name = some(rng, [name for name, tensor in tensors.items() if tensor.ndim == 4])
    if rng.random() < 0.5:
        del tensors[name]
    else:
        tensors[name] = np.ascontiguousarray(tensors[name][1:])
    save_file(tensors, path, metadata)
    return Expected(REFUSED, names=path.name)


@on(WEIGHTS)
def _bit_of_the_weights(world: World, rng: np.random.Generator) -> Expected:
    flip(world.run_path / "model.safetensors", rng, 0, 0)
    return Expected(ANY)


# Run folders.


@on(EVALUATION)
def _damaged_stored_prediction(world: World, rng: np.random.Generator) -> Expected:
    path = some_file(world, rng, f"results/{world.run}/predictions/test")
    way = some(rng, ("cut", "flip", "other", "gone", "size", "mode"))
    if way == "cut":
        cut(path, rng)
    elif way == "flip":
        flip(path, rng, 16, 12)
    elif way == "other":
        replace_content(path, rng)
    elif way == "gone":
        path.unlink()
    else:
        with Image.open(path) as image:
            changed = image.resize((16, 16)) if way == "size" else image.convert("RGBA")
        changed.save(path)
    return Expected(REFUSED, names=path.stem)


@on(EVALUATION)
def _damaged_record(world: World, rng: np.random.Generator) -> Expected:
    path = world.run_path / "config.json"
    way = some(rng, ("cut", "other", "list", "setting", "type", "print", "size", "scheme"))
    record = json.loads(path.read_text("utf-8"))
    if way == "setting":
        record["settings"]["strength"] = 3
    elif way == "type":
        record["settings"][some(rng, ("width", "image_size", "batch_size"))] = "many"
    elif way == "print":
        record["fingerprints"][some(rng, ("data", "split_ids"))] = "0" * 16
    elif way == "size":
        record["settings"]["image_size"] = 64
    elif way == "scheme":
        record["settings"]["scheme"] = some(rng, ("unused-third", "binary", "polyps"))
    text = json.dumps([] if way == "list" else record)
    path.write_text(text[: int(rng.integers(len(text)))] if way == "cut" else text)
    if way == "other":
        replace_content(path, rng)
    return Expected(REFUSED)


@on(TABLE)
def _damaged_table(world: World, rng: np.random.Generator) -> Expected:
    path = world.run_path / "per_image.csv"
    rows = list(csv.reader(io.StringIO(path.read_text("utf-8"))))
    way = some(rng, ("cut", "other", "column", "word", "twice", "rows"))
    column = rows[0].index("dice")
    if way == "column":
        rows = [row[:column] + row[column + 1 :] for row in rows]
    elif way == "word":
        rows[int(rng.integers(1, len(rows)))][column] = "0,8"
    elif way == "twice":
        rows.append(rows[1])
    elif way == "rows":
        rows = [row for row in rows if row[0] != rows[1][0]]
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(rows)
    path.write_text(file.getvalue())
    if way == "cut":
        cut(path, rng, 2)
    elif way == "other":
        replace_content(path, rng)
    return Expected(REFUSED, names=path.name)


@on(TABLE)
def _damaged_summary(world: World, rng: np.random.Generator) -> Expected:
    path = world.run_path / "summary.json"
    damage(path, rng, 3)
    return Expected(REFUSED, names=path.name)
