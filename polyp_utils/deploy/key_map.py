"""The key map of foreign weights: which tensor is which, and what shapes cannot tell.

It is a JSON file: ``names``, our names (a shape may follow) to theirs, and ``choices``, a value for
each of `CHOICES`.
"""

import difflib
import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polyp_utils.common.config import MAX_WIDTH
from polyp_utils.common.exceptions import WeightsError, few
from polyp_utils.data.labels import SCHEMES
from polyp_utils.model.unet import STRIDE, UNet

COUNTER = "num_batches_tracked"  # of batch norm; evaluation does without


def _three(value: Any, above: float = -math.inf) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(_number(v, above) for v in value)


def _number(value: Any, above: float) -> bool:
    return type(value) in (int, float) and above < value < math.inf


# What shapes cannot tell: what it means, and whether a value is one.
CHOICES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "skip": (
        "first or last: place of the encoder's maps when they are concatenated with the "
        "upsampled ones",
        lambda value: value in ("first", "last"),
    ),
    "channels": ("RGB or BGR: order of the input", lambda value: value in ("RGB", "BGR")),
    "range": ("1 or 255: white, before mean and std are applied", lambda value: value in (1, 255)),
    "mean": ("three numbers, subtracted from the channels; none: [0, 0, 0]", _three),
    "std": (
        "three numbers, by which the channels are then divided; none: [1, 1, 1]",
        lambda value: _three(value, above=0),
    ),
    "eps": ("of batch norm; PyTorch's default is 1e-5", lambda value: _number(value, above=0)),
    "scheme": (
        f"what the classes are: {', '.join(SCHEMES)}",
        lambda value: isinstance(value, str) and value in SCHEMES,
    ),
    "image_size": (
        f"side of the input in pixels, a multiple of {STRIDE}",
        lambda value: type(value) is int and value > 0 and value % STRIDE == 0,
    ),
}


def read_key_map(path: Path) -> tuple[dict[str, str | None], dict[str, Any]]:
    """Our names -> theirs, and the choices with a hash of the names.

    Raises:
        FileNotFoundError: no such file.
        WeightsError: not a key map, or one whose choices are open or invalid.
    """
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
        choices = dict(there["choices"])
        names = {ours.split()[0]: theirs for ours, theirs in there["names"].items()}
        if wrong := [theirs for theirs in names.values() if not isinstance(theirs, str | None)]:
            raise TypeError(f"{wrong[0]!r} is not a name")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsError(
            f"{path} is no key map: a JSON file with 'choices' and 'names', like the template that "
            f"loading without it writes ({type(error).__name__}: {error})"
        ) from error
    if still_open := [name for name in CHOICES if choices.get(name) is None]:
        text = "; ".join(f"{name} ({CHOICES[name][0]})" for name in still_open)
        raise WeightsError(f"{path} leaves open what shapes cannot tell: {text}")
    for name, value in choices.items():
        if name not in CHOICES:
            raise WeightsError(f"{path} has an unknown choice {name!r}: {', '.join(CHOICES)}")
        meaning, valid = CHOICES[name]
        if not valid(value):
            raise WeightsError(f"{path} chooses {name} {value!r}; it is {meaning}")
    digest = hashlib.sha256(json.dumps(names, sort_keys=True).encode()).hexdigest()[:16]
    return names, choices | {"names": digest}


def shapes_of(network: UNet) -> dict[str, list[int]]:
    """Of the tensors that a network cannot do without, by our names."""
    state = network.state_dict().items()
    return {name: [*tensor.shape] for name, tensor in state if not name.endswith(COUNTER)}


def folds_of(network: UNet) -> dict[str, str]:
    """Biases that our convolutions lack -> the running mean that each is subtracted from."""
    convolutions = [
        name.rpartition(".")
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d) and module.bias is None
    ]
    return {f"{b}.{i}.bias": f"{b}.{int(i) + 1}.running_mean" for b, _, i in convolutions}


def widened(name: str, tensor: Tensor) -> Tensor:
    """A 1×1 reduction as the 3×3 one that it equals: the card does not say which it is."""
    pointwise = name == "head.0.weight" and tensor.shape[2:] == (1, 1)
    return F.pad(tensor, (1, 1, 1, 1)) if pointwise else tensor


def refusal(path: Path, state: dict[str, Tensor]) -> str:
    """Why foreign names are not loaded; writes the template of their key map, if one can help."""
    network = _by_shape(state)
    if network is None:
        return (
            f"{path} holds no U-Net of this package ({len(state)} tensors): {few(state) or 'none'}"
        )
    shapes, names = shapes_of(network), _guess(network, state)
    left = [name for name in state if name not in names.values()]
    lacking = [name for name, theirs in names.items() if theirs is None]
    kernels = [name for name in lacking if len(shapes[name]) > 1]
    if kernels or len(lacking) > len(left):
        first = few(f"{name} {shapes[name]}" for name in kernels or lacking)
        return f"{path} holds no U-Net of this package: nothing there can be {first}"
    if kernels := [f"{name} {[*state[name].shape]}" for name in left if state[name].ndim > 1]:
        return f"{path} holds no U-Net of this package, but also {few(kernels)}"
    template = Path(f"{path.stem}.keys.json")
    shapes |= {bias: shapes[mean] for bias, mean in folds_of(network).items()}
    content = {
        "choices": dict.fromkeys(CHOICES),
        "meaning": {name: meaning for name, (meaning, _) in CHOICES.items()},
        "names": {f"{ours} {shapes[ours]}": theirs for ours, theirs in names.items()},
        "left": [f"{name} {[*state[name].shape]}" for name in left],
    }
    said = f"{path} names its tensors otherwise than this package ({few(state, 3)}). "
    try:
        with template.open("x", encoding="utf-8") as file:
            json.dump(content, file, indent=2, ensure_ascii=False)
    except FileExistsError:
        return f"{said}{template} is there already: fill it in and give it as --keys, or move it"
    except OSError as error:
        return f"{said}The template of a key map cannot be written here: {error}"
    return (
        f"{said}Check the names in {template}, written just now, fill in its choices, and give it "
        "as --keys (in Python keys=)"
    )


def _by_shape(state: Mapping[str, Tensor]) -> UNet | None:
    """A network of the same width and logits, without numbers."""
    shapes = [tuple(tensor.shape) for tensor in state.values()]
    widths = [s[0] for s in shapes if s[1:] == (3, 3, 3) and s[0] <= MAX_WIDTH]
    logits = [s[0] for s in shapes if len(widths) == 1 and s[1:] == (widths[0] // 2, 1, 1)]
    if len(logits) != 1:
        return None
    with torch.device("meta"):
        return UNet(3, logits[0], widths[0])


def _guess(network: UNet, state: Mapping[str, Tensor]) -> dict[str, str | None]:
    """Our names -> theirs: of the same shape, most alike in name, next in order; else None."""
    names, shapes, folds = dict[str, str | None](), shapes_of(network), folds_of(network)
    order = {name: index for index, name in enumerate(state)}

    def nearest(ours: str, near: str) -> str | None:
        fitting = [
            name
            for name, tensor in state.items()
            if [*widened(ours, tensor).shape] == shapes[ours]
            and (tensor.ndim > 1 or name.endswith(".running_mean"))
            and name not in names.values()
        ]
        steps = {name: (order[name] - order[near]) % len(order) for name in fitting}
        return min(fitting, key=lambda name: (-_likeness(name, near), steps[name]), default=None)

    near = next(iter(state))
    for module_name, module in network.named_modules():
        if not isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            continue
        weight, bias = f"{module_name}.weight", f"{module_name}.bias"
        names[weight] = nearest(weight, near)
        near = names[weight] or near
        theirs = f"{_stem(near)}.bias"
        if bias in shapes or theirs in state:
            names[bias] = theirs if theirs in state else None
        if mean := folds.get(bias):
            norm = _stem(nearest(mean, near) or "")
            for leaf in ("weight", "bias", "running_mean", "running_var"):
                theirs = f"{norm}.{leaf}"
                names[f"{_stem(mean)}.{leaf}"] = theirs if theirs in state else None
    return names


def _stem(name: str) -> str:
    return name.rpartition(".")[0]


def _likeness(*names: str) -> float:
    """Of two tensors' modules, in [0, 1]; a number counts as one letter."""
    one, other = (re.findall(r"\d+|\D", _stem(name)) for name in names)
    return difflib.SequenceMatcher(None, one, other, autojunk=False).ratio()


def natural(name: str) -> list[str | int]:
    """A key to sort by: layers.9 comes before layers.10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]
