"""U-Nets that other programs saved, as the `UNet` of this package: whole, or refused.

Under our own names a file is ours, once wrappers and prefixes are taken off. For other names a key
map says which tensor is which and what shapes cannot tell (`key_map`); if it is not given, the
refusal writes it as a template.
"""

import pickle
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from polyp_utils.common.exceptions import WeightsError, few
from polyp_utils.deploy.key_map import (
    COUNTER,
    folds_of,
    natural,
    read_key_map,
    refusal,
    shapes_of,
    widened,
)
from polyp_utils.model.unet import UNet
from polyp_utils.model.weights import read_metadata, read_tensors

PICKLED = (".pt", ".pth", ".bin", ".ckpt")  # by `torch.save`; every other file is safetensors
PREFIXES = ("module.", "_orig_mod.", "model.", "net.")  # of wrappers around a network
_ENDS = ("encoder.0.0.weight", "output.weight")  # their shapes tell width and logits
_EXPORT = "safetensors.torch.save_file(model.state_dict(), 'model.safetensors')"


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
        names, choices = read_key_map(Path(keys))
        if unknown := [theirs for theirs in names.values() if theirs and theirs not in state]:
            raise WeightsError(f"{keys} names what {path} does not hold: {few(unknown)}")
        if twice := [name for name, uses in Counter(names.values()).items() if uses > 1 and name]:
            raise WeightsError(f"{keys} names more than once: {few(twice)}")
        tensors = {ours: state[theirs] for ours, theirs in names.items() if theirs}
        left = [name for name in state if name not in names.values()]
    elif state.keys() >= {*_ENDS}:
        tensors = state
    else:
        raise WeightsError(refusal(path, state))
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
        state = {name: state[name] for name in sorted(state, key=natural)}  # the order is lost
    stripped = ""
    while prefix := next((p for p in PREFIXES if all(n.startswith(p) for n in state or [""])), ""):
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
        stripped += prefix
    said += [f"prefix {stripped!r} stripped"] if stripped else []
    if said:
        print(f"{path.name}: {', '.join(said)}", flush=True)
    state = {name: t for name, t in state.items() if not name.endswith(COUNTER)}
    if integers := [name for name, tensor in state.items() if not tensor.is_floating_point()]:
        raise WeightsError(f"{path} holds other than floating-point numbers: {few(integers)}")
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
    wanted, folds = shapes_of(network), folds_of(network)
    tensors = {name: widened(name, tensor.float()) for name, tensor in tensors.items()}
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
        text = "; ".join(f"{what}: {few(names)}" for what, names in wrong.items() if names)
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
