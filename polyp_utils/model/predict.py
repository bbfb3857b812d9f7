"""From weights and frames to probabilities and class maps, at network and at original size."""

import copy
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from polyp_utils.common.device import Compute, keep_freed_memory
from polyp_utils.common.exceptions import WeightsError
from polyp_utils.common.files import atomic
from polyp_utils.common.processes import spread
from polyp_utils.data.cache import Rows
from polyp_utils.data.labels import Scheme
from polyp_utils.data.transforms import to_input
from polyp_utils.model.unet import UNet

MIRRORS: tuple[tuple[int, ...], ...] = ((), (-1,), (-2,), (-2, -1))  # dimensions that are turned


def to_probabilities(logits: Tensor) -> Tensor:
    """Logits (B, C, H, W) -> float32 class probabilities; one logit gives (B, 2, H, W)."""
    logits = logits.float()
    if logits.shape[1] > 1:
        return logits.softmax(dim=1)
    polyp = logits.sigmoid()
    return torch.cat([1 - polyp, polyp], dim=1)


def fold_batch_norm(model: UNet) -> UNet:
    """A copy in evaluation mode with every batch norm folded into the convolution before it.

    Same outputs but for rounding, one pass over memory less per convolution. The copy can be
    neither trained nor saved as weights of a `UNet`: its convolutions have biases.
    """
    folded = copy.deepcopy(model).eval()
    for block in folded.modules():
        if isinstance(block, nn.Sequential):
            for i, (conv, norm) in enumerate(itertools.pairwise(block)):
                if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    block[i], block[i + 1] = fuse_conv_bn_eval(conv, norm), nn.Identity()
    return folded


def freeze(model: UNet, compute: Compute) -> UNet:
    """The model as `predict` is fastest with: folded, cast and laid out once, on the device.

    With bf16 it takes float32 images under ``compute.autocast()`` only, as in `predict`. Memory
    that it frees stays with the process, see `keep_freed_memory`.
    """
    keep_freed_memory()
    folded = fold_batch_norm(model).to(memory_format=torch.channels_last)
    return folded.to(compute.device, compute.dtype)


def predict(
    model: nn.Module,
    images: Tensor | Rows,
    compute: Compute,
    batch_size: int = 8,
    mirrored: bool = False,
) -> Iterator[Tensor]:
    """Class probabilities of uint8 images (N, 3, S, S), one float32 (C, S, S) after the other.

    ``mirrored``: the mean over the frame and its mirror images (test-time augmentation), at four
    times the cost. Several processes share the work, batch by batch; each yields all.
    """
    turns = MIRRORS if mirrored else MIRRORS[:1]
    for copies in predict_copies(model, images, compute, batch_size, turns):
        yield copies.mean(dim=0)


@torch.inference_mode()
def predict_copies(
    model: nn.Module,
    images: Tensor | Rows,
    compute: Compute,
    batch_size: int = 8,
    turns: Sequence[tuple[int, ...]] = MIRRORS,
) -> Iterator[Tensor]:
    """As `predict`, each copy for itself, turned back: float32 (K, C, S, S).

    Args:
        model: a U-Net.
        images: as in `predict`.
        compute: device and precision.
        batch_size: frames at a time.
        turns: the dimensions along which each copy is mirrored.
    """
    model.eval()

    def one(rows: Tensor) -> Tensor:
        x = to_input(images[rows], compute.device)
        return torch.stack([turned(x, turn) for turn in turns], dim=1).cpu()

    def turned(x: Tensor, turn: tuple[int, ...]) -> Tensor:
        with compute.autocast():
            logits = model(x.flip(turn) if turn else x)
        probabilities = to_probabilities(logits)
        return probabilities.flip(turn) if turn else probabilities

    for copies in spread(one, torch.arange(len(images)).split(batch_size)):
        yield from copies


def to_original(probabilities: Tensor, size: tuple[int, int]) -> Tensor:
    """Probabilities (C, S, S) brought to ``size`` = (H, W) bilinearly: (C, H, W)."""
    return F.interpolate(probabilities[None], size, mode="bilinear", align_corners=False)[0]


def polyp_and_classes(probabilities: Tensor, scheme: Scheme) -> tuple[Tensor, Tensor]:
    """Probabilities (C, H, W) -> polyp mask bool (H, W), class map int64 (H, W)."""
    polyp = scheme.polyp_probability(probabilities[None])[0] > 0.5
    return polyp, probabilities.argmax(dim=0)


def to_polyp_mask(probabilities: Tensor, scheme: Scheme, size: tuple[int, int]) -> Tensor:
    """Where P(any polyp class) > 0.5 at ``size`` = (H, W), bool (H, W), of (C, S, S).

    Classes are summed first, so that one channel is enlarged: it is the same but for rounding.
    """
    return to_original(scheme.polyp_probability(probabilities[None]), size)[0] > 0.5


def read_metadata(path: Path) -> dict[str, Any]:
    """What training wrote into the weights' header: settings, classes, epoch, score.

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
    """Writes safetensors with one JSON string of metadata in the header, key ``polyp_utils``."""
    tensors = {key: value.contiguous().cpu() for key, value in model.state_dict().items()}
    with atomic(path) as temporary:
        save_file(tensors, temporary, {"format": "pt", "polyp_utils": json.dumps(metadata)})


def halve_weights(source: Path, target: Path) -> None:
    """Writes a weights file anew with its kernels in float16: half the size, the same header.

    What has one value per channel stays as it is. It loads into the same `UNet`.
    """
    tensors = {name: t.half() if t.ndim > 1 else t for name, t in read_tensors(source).items()}
    header = {"format": "pt", "polyp_utils": json.dumps(read_metadata(source))}
    with atomic(target) as temporary:
        save_file(tensors, temporary, header)


def is_halved(path: Path) -> bool:
    """Whether the kernels of a weights file are float16, see `halve_weights`."""
    return any(t.dtype == torch.float16 for t in read_tensors(path).values())


def load_weights(model: UNet, path: Path) -> UNet:
    """Loads a safetensors file into the model, strictly.

    Raises:
        FileNotFoundError: no such file.
        WeightsError: not safetensors, of another width or class count, or not complete.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: train the run, or fetch its weights")
    tensors = read_tensors(path)
    shape, wanted = _shape(tensors), _shape(model.state_dict())
    if shape != wanted:
        raise WeightsError(f"{path} holds {shape}, the model is {wanted}: build UNet(…) like it")
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


def shape_of(path: Path) -> tuple[int, int]:
    """Width and number of logits of a U-Net's weights, read from the file's header.

    Raises:
        WeightsError: not a U-Net of this package.
    """
    ends = ("encoder.0.0.weight", "output.weight")
    with safe_open(path, "pt") as file:
        names = set(file.keys())
        if not names.issuperset(ends):
            raise WeightsError(f"{path} holds no U-Net of this package ({len(names)} tensors)")
        width, logits = (file.get_slice(name).get_shape()[0] for name in ends)
    return width, logits


def _shape(tensors: dict[str, Tensor]) -> str:
    try:
        first, last = tensors["encoder.0.0.weight"], tensors["output.weight"]
    except KeyError:
        return f"no U-Net of this package ({len(tensors)} tensors)"
    return f"in_channels={first.shape[1]}, num_classes={last.shape[0]}, width={first.shape[0]}"
