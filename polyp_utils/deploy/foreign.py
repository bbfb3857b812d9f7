"""U-Nets that other programs saved, as the `UNet` of this package: whole, or refused.

Under our own names a file is ours, once wrappers and prefixes are taken off. For other names a key
map, a JSON file, says which tensor is which and what shapes cannot tell (`CHOICES`); if it is not
given, the refusal writes it as a template.
"""

import difflib
import hashlib
import json
import math
import pickle
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polyp_utils.common.exceptions import WeightsError
from polyp_utils.data.labels import SCHEMES
from polyp_utils.model.unet import STRIDE, UNet
from polyp_utils.model.weights import read_metadata, read_tensors

PICKLED = (".pt", ".pth", ".bin", ".ckpt")  # by `torch.save`; every other file is safetensors
PREFIXES = ("module.", "_orig_mod.", "model.", "net.")  # of wrappers around a network
_ENDS = ("encoder.0.0.weight", "output.weight")  # their shapes tell width and logits
_COUNTER = "num_batches_tracked"  # evaluation does without
_EXPORT = "safetensors.torch.save_file(model.state_dict(), 'model.safetensors')"


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


class Checkpoint(NamedTuple):
    """A network as it was found in a file.

    Attributes:
        network: with its weights.
        metadata: what training wrote, see `read_metadata`; empty if another program did.
        choices: those of the key map (`CHOICES`) and a hash of its names; empty without one.
    """

    network: UNet
    metadata: dict[str, Any]
    choices: dict[str, Any]


class Normalised(nn.Module):
    """A network behind the normalisation of its input: RGB (B, 3, H, W) in [0, 1] to its logits.

    It is not folded into the first convolution, whose padding is 0 after normalisation: results
    would differ along the border.
    """

    scale: Tensor  # per channel, (3, 1, 1)
    shift: Tensor

    def __init__(self, network: nn.Module, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("scale", scale[:, None, None])
        self.register_buffer("shift", shift[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        """Like `UNet.forward`."""
        return self.network(images * self.scale + self.shift)


def normalised(network: nn.Module, choices: Mapping[str, Any], device: torch.device) -> nn.Module:
    """The network with the input that ``choices`` ask for; itself if that is RGB in [0, 1]."""
    if not choices:
        return network
    mean, std = (torch.tensor(choices[name], dtype=torch.float64) for name in ("mean", "std"))
    scale, shift = choices["range"] / std, -mean / std
    if bool((scale == 1).all() and (shift == 0).all()):
        return network
    if choices["channels"] == "BGR":
        scale, shift = scale.flip(0), shift.flip(0)  # `read_checkpoint` made the weights RGB
    return Normalised(network, scale.float(), shift.float()).to(device)


def read_checkpoint(path: Path, keys: str | Path = "") -> Checkpoint:
    """Reads a U-Net from a file; says what was taken off its names.

    Args:
        path: safetensors, or a file of `torch.save` with nothing but tensors and plain values.
        keys: the key map; needed where names are not ours.

    Raises:
        WeightsError: not such a file; tensors that are missing, left over or of another shape;
            foreign names without a key map, of which a template is written then; a key map with
            open or invalid choices.
    """
    state, metadata = _read(path)
    left, choices = list[str](), dict[str, Any]()
    if keys:
        names, choices = _read_keys(Path(keys))
        if unknown := [theirs for theirs in names.values() if theirs and theirs not in state]:
            raise WeightsError(f"{keys} names what {path} does not hold: {_few(unknown)}")
        if twice := [name for name, uses in Counter(names.values()).items() if uses > 1 and name]:
            raise WeightsError(f"{keys} names more than once: {_few(twice)}")
        tensors = {ours: state[theirs] for ours, theirs in names.items() if theirs}
        left = [name for name in state if name not in names.values()]
    elif state.keys() >= {*_ENDS}:
        tensors = state
    else:
        raise WeightsError(_refusal(path, state))
    network = _fill(path, tensors, left)
    if choices:
        _adapt(network, choices)
    return Checkpoint(network, metadata, choices)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors by name, without prefixes and counters, and the metadata."""
    said, metadata = [], dict[str, Any]()
    if path.suffix in PICKLED:
        found = dict(_state_dicts(_unpickle(path)))
        if len(found) != 1:
            raise WeightsError(
                f"{path} holds {len(found)} sets of tensors ({', '.join(found) or 'none'}), where "
                f"one network's state_dict is expected: save that alone, {_EXPORT}"
            )
        ((where, state),) = found.items()
        said += [f"taken from {where!r}"] if where else []
    else:
        state, metadata = read_tensors(path), read_metadata(path)
        state = {name: state[name] for name in sorted(state, key=_natural)}  # the order is lost
    stripped = ""
    while prefix := next((p for p in PREFIXES if all(n.startswith(p) for n in state or [""])), ""):
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
        stripped += prefix
    said += [f"prefix {stripped!r} stripped"] if stripped else []
    if said:
        print(f"{path.name}: {', '.join(said)}", flush=True)
    state = {name: t for name, t in state.items() if not name.endswith(_COUNTER)}
    if integers := [name for name, tensor in state.items() if not tensor.is_floating_point()]:
        raise WeightsError(f"{path} holds other than floating-point numbers: {_few(integers)}")
    return state, metadata


def _unpickle(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError) as error:
        needs = re.search(r"GLOBAL ([\w.]+)", str(error))
        why = f"it needs {needs[1]}" if needs else type(error).__name__
        raise WeightsError(
            f"{path} holds more than tensors, or is damaged ({why}); as code in it could do "
            f"anything, it is not run. Where it was made, export its state_dict: {_EXPORT}"
        ) from error


def _state_dicts(value: Any, where: str = "") -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Dicts of tensors, kernels among them, by the way to them: ``model.state_dict``."""
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        return
    if all(isinstance(tensor, Tensor) for tensor in value.values()):
        if any(tensor.ndim > 1 for tensor in value.values()):
            yield where, {name: tensor.detach() for name, tensor in value.items()}
        return
    for key, inner in value.items():
        yield from _state_dicts(inner, f"{where}.{key}" if where else key)


def _read_keys(path: Path) -> tuple[dict[str, str | None], dict[str, Any]]:
    """Our names -> theirs, and the choices."""
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
        choices = dict(there["choices"])
        names = {ours.split()[0]: theirs for ours, theirs in there["names"].items()}
        if wrong := [theirs for theirs in names.values() if not isinstance(theirs, str | None)]:
            raise TypeError(f"{wrong[0]!r} is not a name")
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
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


def _fill(path: Path, tensors: dict[str, Tensor], left: list[str]) -> UNet:
    """A network with these tensors; all must fit.

    Args:
        path: for messages.
        tensors: by our names, with or without biases where a batch norm follows.
        left: names in the file that nothing asks for.

    Raises:
        WeightsError: with all that is wrong.
    """
    ends = [tensors[name] for name in _ENDS if name in tensors]
    known = len(ends) == 2 and all(kernel.ndim == 4 and len(kernel) for kernel in ends)
    network = UNet(3, len(ends[1]), max(2, len(ends[0]))) if known else UNet(width=2)
    wanted, folds = _shapes(network), _folds(network)
    tensors = {name: _widened(name, tensor.float()) for name, tensor in tensors.items()}
    shapes = wanted | {bias: wanted[mean] for bias, mean in folds.items()}
    wrong = {
        "missing": [name for name in wanted if name not in tensors],
        "left over": left + [name for name in tensors if name not in shapes],
        "of another shape": [
            f"{name} {[*tensor.shape]} for {shapes[name]}"
            for name, tensor in tensors.items()
            if name in shapes and [*tensor.shape] != shapes[name] and (known or name in _ENDS)
        ],
    }
    if any(wrong.values()):
        text = "; ".join(f"{what}: {_few(names)}" for what, names in wrong.items() if names)
        raise WeightsError(f"{path} does not hold the U-Net of this package, whole: {text}")
    for bias, mean in folds.items():
        if bias in tensors:
            tensors[mean] = tensors[mean] - tensors.pop(bias)
    network.load_state_dict(tensors, strict=False)  # all but the counters
    return network


def _adapt(network: UNet, choices: Mapping[str, Any]) -> None:
    """Makes the network ours but for the input's range and normalisation: see `normalised`."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = choices["eps"]
    with torch.no_grad():
        if choices["skip"] == "last":
            for stage in range(4):
                kernel = network.get_parameter(f"decoder.{stage}.0.weight")
                kernel.copy_(kernel.roll(kernel.shape[1] // 2, dims=1))
        if choices["channels"] == "BGR":
            kernel = network.get_parameter("encoder.0.0.weight")
            kernel.copy_(kernel.flip(1))


def _shapes(network: UNet) -> dict[str, list[int]]:
    state = network.state_dict().items()
    return {name: [*tensor.shape] for name, tensor in state if not name.endswith(_COUNTER)}


def _folds(network: UNet) -> dict[str, str]:
    """Biases that our convolutions lack -> the running mean that each is subtracted from."""
    convolutions = [
        name.rpartition(".")
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d) and module.bias is None
    ]
    return {f"{b}.{i}.bias": f"{b}.{int(i) + 1}.running_mean" for b, _, i in convolutions}


def _widened(name: str, tensor: Tensor) -> Tensor:
    """A 1×1 reduction as the 3×3 one that it equals: the card does not say which it is."""
    pointwise = name == "head.0.weight" and tensor.shape[2:] == (1, 1)
    return F.pad(tensor, (1, 1, 1, 1)) if pointwise else tensor


def _refusal(path: Path, state: dict[str, Tensor]) -> str:
    """Why foreign names are not loaded; writes the template of their key map, if one can help."""
    network = _by_shape(state)
    if network is None:
        return f"{path} holds no U-Net of this package ({len(state)} tensors: {_few(state)})"
    shapes, names = _shapes(network), _guess(network, state)
    left = [name for name in state if name not in names.values()]
    lacking = [name for name, theirs in names.items() if theirs is None]
    kernels = [name for name in lacking if len(shapes[name]) > 1]
    if kernels or len(lacking) > len(left):
        few = _few(f"{name} {shapes[name]}" for name in kernels or lacking)
        return f"{path} holds no U-Net of this package: nothing there can be {few}"
    if kernels := [f"{name} {[*state[name].shape]}" for name in left if state[name].ndim > 1]:
        return f"{path} holds no U-Net of this package, but also {_few(kernels)}"
    template = Path(f"{path.stem}.keys.json")
    shapes |= {bias: shapes[mean] for bias, mean in _folds(network).items()}
    content = {
        "choices": dict.fromkeys(CHOICES),
        "meaning": {name: meaning for name, (meaning, _) in CHOICES.items()},
        "names": {f"{ours} {shapes[ours]}": theirs for ours, theirs in names.items()},
        "left": [f"{name} {[*state[name].shape]}" for name in left],
    }
    said = f"{path} names its tensors otherwise than this package ({_few(state, 3)}). "
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
    widths = [shape[0] for shape in shapes if shape[1:] == (3, 3, 3)]
    logits = [s[0] for s in shapes if len(widths) == 1 and s[1:] == (widths[0] // 2, 1, 1)]
    if len(logits) != 1:
        return None
    with torch.device("meta"):
        return UNet(3, logits[0], widths[0])


def _guess(network: UNet, state: Mapping[str, Tensor]) -> dict[str, str | None]:
    """Our names -> theirs: of the same shape, most alike in name, next in order; else None."""
    names, shapes, folds = dict[str, str | None](), _shapes(network), _folds(network)
    order = {name: index for index, name in enumerate(state)}

    def nearest(ours: str, near: str) -> str | None:
        fitting = [
            name
            for name, tensor in state.items()
            if [*_widened(ours, tensor).shape] == shapes[ours]
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


def _natural(name: str) -> list[str | int]:
    """A key to sort by: layers.9 comes before layers.10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def _few(names: Iterable[str], most: int = 6) -> str:
    """The first names, and how many more there are."""
    listed = [*names]
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more
