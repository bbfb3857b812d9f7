"""U-Nets that other programs saved, as the `UNet` of this package: whole, or refused.

Under our own names a file is ours, once wrappers and prefixes are taken off. For other names a key
map says which tensor is which and what shapes cannot tell (`key_map`); if it is not given, the
refusal writes it as a template.
"""

from collections import Counter, deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from polyp_utils.common.config import MAX_WIDTH
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
from polyp_utils.model.pickled import EXPORT, read_pickle
from polyp_utils.model.sound import check_numbers, format_of
from polyp_utils.model.unet import UNet
from polyp_utils.model.weights import ENDS, read_metadata, read_tensors

PREFIXES = ("module.", "_orig_mod.", "model.", "net.")  # of wrappers around a foreign network
_COUNTERS = (COUNTER, "n_averaged")  # of batch norm, and of PyTorch's `AveragedModel`


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
    elif state.keys() >= {*ENDS}:
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
    if format_of(path) == "pickle":
        found = dict(_state_dicts(read_pickle(path)))
        if len(found) != 1:
            raise WeightsError(
                f"{path} holds {len(found)} sets of tensors ({', '.join(found) or 'none'}), where "
                f"one network's state_dict is expected: save that alone, {EXPORT}"
            )
        ((where, state),) = found.items()
        check_numbers(path, state)
        said += [f"taken from {where!r}"] if where else []
    else:
        state, metadata = read_tensors(path), read_metadata(path)
        state = {name: state[name] for name in sorted(state, key=natural)}  # the order is lost
    state = {name: t for name, t in state.items() if not name.endswith(_COUNTERS)}
    ours = [name.removesuffix(ENDS[0]) for name in state if name.endswith(ENDS[0])]
    stripped = ""
    while prefix := next(
        (p for p in (*ours, *PREFIXES) if p and all(n.startswith(p) for n in state or [""])), ""
    ):
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
        stripped += prefix
    said += [f"prefix {stripped!r} stripped"] if stripped else []
    if said:
        print(f"{path.name}: {', '.join(said)}", flush=True)
    return state, metadata


def _state_dicts(value: Any) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Dicts of tensors, kernels among them, by the way to them: ``model.state_dict``."""
    todo, seen = deque([("", value)]), set[int]()  # no recursion: a dict may hold itself
    while todo:
        where, value = todo.popleft()
        if not isinstance(value, dict) or id(value) in seen:
            continue
        seen.add(id(value))
        if not all(isinstance(key, str) for key in value):
            continue
        if all(isinstance(tensor, Tensor) for tensor in value.values()):
            if any(tensor.ndim > 1 for tensor in value.values()):
                yield where, {name: tensor.detach() for name, tensor in value.items()}
            continue
        todo.extend((f"{where}.{key}" if where else key, v) for key, v in value.items())


def _fill(path: Path, tensors: dict[str, Tensor], left: list[str]) -> UNet:
    """A network with these tensors; all must fit.

    Args:
        path: for messages.
        tensors: by our names, with or without biases where a batch norm follows.
        left: names in the file that nothing asks for.

    Raises:
        WeightsError: with all that is wrong.
    """
    ends = [tensors[name] for name in ENDS if name in tensors]
    known = len(ends) == 2 and all(k.ndim == 4 and 0 < len(k) <= MAX_WIDTH for k in ends)
    size = (len(ends[1]), max(2, len(ends[0]))) if known else (1, 2)
    with torch.device("meta"):  # a file that lacks most tensors may promise any size
        network = UNet(3, *size)
    wanted, folds = shapes_of(network), folds_of(network)
    tensors = {name: widened(name, tensor.float()) for name, tensor in tensors.items()}
    shapes = wanted | {bias: wanted[mean] for bias, mean in folds.items()}
    wrong = {
        "missing": [name for name in wanted if name not in tensors],
        "left over": left + [name for name in tensors if name not in shapes],
        "of another shape": [
            f"{name} {[*tensor.shape]} for {shapes[name]}"
            for name, tensor in tensors.items()
            if name in shapes and [*tensor.shape] != shapes[name] and (known or name in ENDS)
        ],
    }
    if any(wrong.values()):
        text = "; ".join(f"{what}: {few(names)}" for what, names in wrong.items() if names)
        raise WeightsError(f"{path} does not hold the U-Net of this package, whole: {text}")
    for bias, mean in folds.items():
        if bias in tensors:
            tensors[mean] = tensors[mean] - tensors.pop(bias)
    check_numbers(path, tensors)  # under our names a variance is known
    network = UNet(3, *size)
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
