"""Weights files: safetensors with the training's metadata in the header."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from polyp_utils.common.exceptions import WeightsError
from polyp_utils.common.files import atomic
from polyp_utils.model.unet import UNet


def read_metadata(path: Path) -> dict[str, Any]:
    """The training's metadata in the header: settings, classes, epoch, score; may be empty.

    Raises:
        WeightsError: not a safetensors file.
    """
    try:
        with safe_open(path, "pt") as file:
            return json.loads((file.metadata() or {}).get("polyp_utils", "{}"))
    except SafetensorError as error:
        raise WeightsError(
            f"{path} is not a safetensors file ({error}): only safetensors weights are loaded"
        ) from error


def save_weights(path: Path, model: nn.Module, metadata: dict[str, Any]) -> None:
    """Writes a safetensors file, the metadata in its header as JSON under ``polyp_utils``."""
    tensors = {key: value.contiguous().cpu() for key, value in model.state_dict().items()}
    with atomic(path) as temporary:
        header = {"format": "pt", "polyp_utils": json.dumps(metadata)}
        temporary.write_bytes(save(tensors, header))  # `save_file` has temporary files of its own


def halve_weights(source: Path, target: Path) -> None:
    """Copies a weights file with its kernels in float16: half the size, the same header.

    Tensors with one value per channel stay as they are. The copy loads into the same `UNet`.
    """
    tensors = {name: t.half() if t.ndim > 1 else t for name, t in read_tensors(source).items()}
    header = {"format": "pt", "polyp_utils": json.dumps(read_metadata(source))}
    with atomic(target) as temporary:
        temporary.write_bytes(save(tensors, header))


def is_halved(path: Path) -> bool:
    """Whether the kernels of a weights file are float16, see `halve_weights`."""
    return any(t.dtype == torch.float16 for t in read_tensors(path).values())


def load_weights(model: UNet, path: Path) -> UNet:
    """Loads a safetensors file into the model, strictly.

    Raises:
        FileNotFoundError: no such file.
        WeightsError: not safetensors, another width or class count, or missing tensors.
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
        WeightsError: not a safetensors file.
    """
    read_metadata(path)
    with safe_open(path, "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


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
        WeightsError: not a safetensors file, or not weights of this package's U-Net.
    """
    metadata = read_metadata(path)
    ends = ("encoder.0.0.weight", "output.weight")
    with safe_open(path, "pt") as file:
        names = set(file.keys())
        if not names.issuperset(ends):
            raise WeightsError(f"{path} holds no U-Net of this package ({len(names)} tensors)")
        width, logits = (file.get_slice(name).get_shape()[0] for name in ends)
    return Header(width, logits, metadata)


def _shape(tensors: dict[str, Tensor]) -> str:
    try:
        first, last = tensors["encoder.0.0.weight"], tensors["output.weight"]
    except KeyError:
        return f"no U-Net of this package ({len(tensors)} tensors)"
    return f"in_channels={first.shape[1]}, num_classes={last.shape[0]}, width={first.shape[0]}"
