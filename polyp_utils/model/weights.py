"""Weights files: safetensors with the training's metadata in the header."""

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from polyp_utils.common.config import MAX_WIDTH
from polyp_utils.common.exceptions import WeightsError
from polyp_utils.common.files import atomic
from polyp_utils.model.pickled import EXPORT
from polyp_utils.model.sound import AGAIN, check_numbers, format_of
from polyp_utils.model.unet import UNet

ENDS = ("encoder.0.0.weight", "output.weight")  # their first dimensions are width and logits


def read_metadata(path: Path) -> dict[str, Any]:
    """The training's metadata in the header: settings, classes, epoch, score; may be empty.

    Raises:
        FileNotFoundError: no such file.
        WeightsError: not a safetensors file, see `format_of`, or metadata that are none of ours.
    """
    with _opened(path) as file:
        text = (file.metadata() or {}).get("polyp_utils", "{}")
    try:
        found = json.loads(text)
        settings, classes = found.get("settings", {}), found.get("classes", [])
        if not isinstance(settings, dict) or not all(isinstance(name, str) for name in classes):
            raise TypeError("settings or classes")
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsError(
            f"{path} has metadata (polyp_utils) that this package did not write: {text[:60]!r}; "
            "save its tensors without them"
        ) from error
    return found


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    if format_of(path) != "safetensors":
        raise WeightsError(
            f"{path} is not a safetensors file but a pickle of torch.save, which is not loaded "
            f"here. Where it was made, export its state_dict: {EXPORT}"
        )
    try:
        with safe_open(path, "pt") as file:
            yield file
    except SafetensorError as error:
        raise WeightsError(f"{path} is a damaged safetensors file ({error}): {AGAIN}") from error


def save_weights(path: Path, model: nn.Module, metadata: dict[str, Any]) -> None:
    """Writes a safetensors file, the metadata in its header as JSON under ``polyp_utils``."""
    tensors = {key: value.contiguous().cpu() for key, value in model.state_dict().items()}
    with atomic(path) as temporary:
        header = {"format": "pt", "polyp_utils": json.dumps(metadata)}
        temporary.write_bytes(save(tensors, header))  # `save_file` has temporary files of its own


def halve_weights(
    source: Path, target: Path, change: Callable[[dict[str, Any]], dict[str, Any]] = dict
) -> None:
    """Copies a weights file with its kernels in float16: half the size.

    Tensors with one value per channel stay as they are, and so do kernels with numbers beyond
    float16. The copy loads into the same `UNet`.

    Args:
        source: the file.
        target: the copy.
        change: gives the copy's metadata, see `read_metadata`, from those of the file.
    """
    tensors = {name: _halved(tensor) for name, tensor in read_tensors(source).items()}
    header = {"format": "pt", "polyp_utils": json.dumps(change(read_metadata(source)))}
    with atomic(target) as temporary:
        temporary.write_bytes(save(tensors, header))


def with_metadata(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> bytes:
    """A weights file's content with changed metadata; as on disk if they stay the same."""
    before = read_metadata(path)
    after = change(before)
    if before == after:
        return path.read_bytes()
    return save(read_tensors(path), {"format": "pt", "polyp_utils": json.dumps(after)})


def _halved(tensor: Tensor) -> Tensor:
    half = tensor.half()
    return half if tensor.ndim > 1 and bool(half.isfinite().all()) else tensor


def is_halved(path: Path) -> bool:
    """Whether the kernels of a weights file are float16, see `halve_weights`."""
    return any(t.dtype == torch.float16 for t in read_tensors(path).values())


def load_weights(model: UNet, path: Path) -> UNet:
    """Loads a safetensors file into the model, strictly.

    Raises:
        FileNotFoundError: no such file.
        WeightsError: not safetensors, another width or class count, missing tensors, or numbers
            that are not finite.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: train the run, or fetch its weights")
    tensors = read_tensors(path)
    shape, wanted = _shape(tensors), _shape(model.state_dict())
    if shape != wanted:
        raise WeightsError(f"{path} holds {shape}, the model is {wanted}: build a UNet(…) to match")
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise WeightsError(f"{path} does not fit the model: {error}") from error
    return model


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, by name.

    Raises:
        FileNotFoundError: no such file.
        WeightsError: not a safetensors file, see `format_of`, or numbers that no network can use,
            see `check_numbers`.
    """
    with _opened(path) as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    check_numbers(path, tensors)
    return tensors


@dataclass(frozen=True)
class Header:
    """The header of a U-Net's weights file.

    Attributes:
        width: channels of the first stage.
        logits: channels of the output.
        metadata: see `read_metadata`.
    """

    width: int
    logits: int
    metadata: dict[str, Any]

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of the run that trained the weights."""
        return self.metadata.get("settings", {})

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return tuple(self.metadata.get("classes", ()))


def read_header(path: Path) -> Header:
    """The header of a weights file; no tensor is read.

    Raises:
        FileNotFoundError: no such file.
        WeightsError: not a safetensors file, or not weights of this package's U-Net.
    """
    metadata = read_metadata(path)
    with _opened(path) as file:
        names = set(file.keys())
        shapes = [file.get_slice(name).get_shape() for name in ENDS if name in names]
    if len(shapes) != 2 or not all(len(s) == 4 and 0 < s[0] <= MAX_WIDTH for s in shapes):
        raise WeightsError(f"{path} holds no U-Net of this package ({len(names)} tensors)")
    return Header(shapes[0][0], shapes[1][0], metadata)


def _shape(tensors: dict[str, Tensor]) -> str:
    try:
        first, last = (tensors[name] for name in ENDS)
    except KeyError:
        return f"no U-Net of this package ({len(tensors)} tensors)"
    return f"in_channels={first.shape[1]}, num_classes={last.shape[0]}, width={first.shape[0]}"
