"""From network and frames to probabilities and class maps, at network size and original size."""

import copy
import itertools
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from polyp_utils.common.device import Compute, keep_freed_memory
from polyp_utils.common.exceptions import WeightsError
from polyp_utils.common.processes import once, spread
from polyp_utils.data.cache import Rows
from polyp_utils.data.labels import Scheme
from polyp_utils.data.transforms import to_input
from polyp_utils.model.unet import STRIDE, UNet

MIRRORS: tuple[tuple[int, ...], ...] = ((), (-1,), (-2,), (-2, -1))  # flipped dimensions


def to_probabilities(logits: Tensor) -> Tensor:
    """Logits (B, C, H, W) -> float32 class probabilities; one logit gives (B, 2, H, W)."""
    logits = logits.float()
    if logits.shape[1] > 1:
        return logits.softmax(dim=1)
    polyp = logits.sigmoid()
    return torch.cat([1 - polyp, polyp], dim=1)


def fold_batch_norm(model: UNet) -> UNet:
    """A copy in evaluation mode with every batch norm folded into the convolution before it.

    The outputs are the same up to rounding, with one pass over memory less per convolution. The
    copy can be neither trained nor saved as weights of a `UNet`: its convolutions have biases.
    """
    folded = copy.deepcopy(model).eval()
    for block in folded.modules():
        if isinstance(block, nn.Sequential):
            for i, (conv, norm) in enumerate(itertools.pairwise(block)):
                if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    block[i], block[i + 1] = fuse_conv_bn_eval(conv, norm), nn.Identity()
    return folded


def cannot_overflow(folded: nn.Module) -> bool:
    """Whether no frame can take a network with folded batch norms beyond float32.

    By absolute values: no pixel of any layer is larger than that of a constant bright frame under
    the absolute weights. Pixels may reach 1,000, as those of frames that are normalised do not.
    """
    bound = copy.deepcopy(folded).cpu().float()
    for module in bound.modules():
        if isinstance(module, nn.Conv2d):
            module.padding_mode = "replicate"  # a constant stays constant up to the border
    with torch.no_grad():
        for parameter in bound.parameters():
            parameter.abs_()
        return bool(bound(torch.full((1, 3, STRIDE, STRIDE), 1e3)).isfinite().all())


def freeze(model: UNet, compute: Compute) -> UNet:
    """The model prepared for fast prediction: folded, cast, channels last, on the device.

    With bf16 it accepts float32 images only under ``compute.autocast()``, as in `predict`. From
    then on the process keeps freed memory, see `keep_freed_memory`.
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
    names: Sequence[str] = (),
) -> Iterator[Tensor]:
    """Yields the class probabilities of uint8 images (N, 3, S, S), float32 (C, S, S) for each.

    With ``mirrored``, they are the mean over the frame and its mirror images (test-time
    augmentation), at four times the cost. Several processes share the work batch by batch; each
    yields all results.

    Raises:
        WeightsError: see `predict_copies`.
    """
    turns = MIRRORS if mirrored else MIRRORS[:1]
    for copies in predict_copies(model, images, compute, batch_size, turns, names):
        yield copies.mean(dim=0)


@torch.inference_mode()
def predict_copies(
    model: nn.Module,
    images: Tensor | Rows,
    compute: Compute,
    batch_size: int = 8,
    turns: Sequence[tuple[int, ...]] = MIRRORS,
    names: Sequence[str] = (),
) -> Iterator[Tensor]:
    """As `predict`, but each mirrored copy separately, flipped back: float32 (K, C, S, S).

    Args:
        model: a U-Net.
        images: as in `predict`.
        compute: device and precision.
        batch_size: frames per batch.
        turns: the dimensions along which each of the K copies is flipped.
        names: what an error calls each image, and whose weights they are.

    Raises:
        WeightsError: a logit of an image is not finite.
    """
    model.eval()

    def one(rows: Tensor) -> tuple[Tensor, Tensor]:
        x = to_input(images[rows], compute.device)
        found, finite = zip(*(turned(x, turn) for turn in turns), strict=True)
        return torch.stack(found, dim=1).cpu(), torch.stack(finite).all(dim=0).cpu()

    def turned(x: Tensor, turn: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        with compute.autocast():
            logits = model(x.flip(turn) if turn else x)
        probabilities = to_probabilities(logits)
        finite = logits.sum(dim=(1, 2, 3)).isfinite()  # quicker than to ask for each
        return (probabilities.flip(turn) if turn else probabilities), finite

    named = itertools.chain(names, (f"image {i + 1}" for i in range(len(names), len(images))))
    for copies, finite in spread(one, torch.arange(len(images)).split(batch_size)):
        for each, fine in zip(copies, finite.tolist(), strict=True):
            name = next(named)
            if not fine:
                fp32 = compute.dtype == torch.float32
                cure = "these weights cannot be used" if fp32 else "try precision fp32"
                raise once(WeightsError(f"the network's output for {name} is not finite: {cure}"))
            yield each


def to_original(probabilities: Tensor, size: tuple[int, int]) -> Tensor:
    """Probabilities (C, S, S) resized bilinearly to ``size`` = (H, W): (C, H, W)."""
    return F.interpolate(probabilities[None], size, mode="bilinear", align_corners=False)[0]


def polyp_and_classes(probabilities: Tensor, scheme: Scheme) -> tuple[Tensor, Tensor]:
    """Probabilities (C, H, W) -> polyp mask bool (H, W), class map int64 (H, W)."""
    polyp = scheme.polyp_probability(probabilities[None])[0] > 0.5
    return polyp, probabilities.argmax(dim=0)


def to_polyp_mask(probabilities: Tensor, scheme: Scheme, size: tuple[int, int]) -> Tensor:
    """Where P(any polyp class) > 0.5 at ``size`` = (H, W), bool (H, W), from (C, S, S).

    Classes are summed first, so that only one channel is resized; equal up to rounding.
    """
    return to_original(scheme.polyp_probability(probabilities[None]), size)[0] > 0.5
