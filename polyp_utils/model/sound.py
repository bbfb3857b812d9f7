"""Whether a file can be weights at all, and its numbers those of a network: every door asks here.

A refusal says what was found instead, and what to do. No more memory is taken than the file has
bytes, whatever it claims.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from polyp_utils.common.exceptions import WeightsError, few

MAX_BYTES = 4 * 2**30  # of a file; the card's U-Net has 124 MB
_MAX_HEADER = 10**7  # bytes of names and shapes; ours has 15,000
AGAIN = "copy or download it again"
_MAGIC = {  # how other files begin
    b"\x89HDF": "an HDF5 file, as Keras writes it",
    b"\x1f\x8b": "compressed by gzip: unpack it",
    b"\x93NUMPY": "a NumPy array",
    b"\x89PNG": "an image",
    b"\xff\xd8\xff": "an image",
}


def format_of(path: Path) -> Literal["safetensors", "pickle"]:
    """Tells the format of a weights file by its content; ``pickle`` is that of `torch.save`.

    A safetensors file is as long as its header says. Only its beginning is read.

    Raises:
        FileNotFoundError: no such file.
        WeightsError: a folder, an empty or truncated file, a git-lfs pointer, a web page, an ONNX
            file, a pickle that calls itself safetensors, or something else.
    """
    try:
        with path.open("rb") as file:
            start = file.read(200)
    except FileNotFoundError:
        raise
    except OSError as error:
        what = "is a folder" if path.is_dir() else f"cannot be read ({error.strerror})"
        raise WeightsError(f"{path} {what}: give a file of weights") from error
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise WeightsError(
            f"{path} has {size:,} bytes, and at most {MAX_BYTES:,} are read: save the network's "
            "state_dict alone"
        )
    if start[8:9] == b"{" and 0 in start[:8]:  # the length of the header; text has no 0
        _check_header(path, size)
        return "safetensors"
    if start.startswith((b"PK\x03\x04", b"\x80")):
        if path.suffix == ".safetensors":
            raise WeightsError(
                f"{path} is not a safetensors file but a pickle of torch.save: name it .pth, which "
                "load_model and predict read without running code in it"
            )
        return "pickle"
    raise WeightsError(f"{path} is not a file of weights: it is {_what_else(start)}")


def _what_else(start: bytes) -> str:
    if not start:
        return f"empty (0 bytes); {AGAIN}"
    if start.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer to them; run `git lfs pull` in its repository"
    if start[:1] == b"\x08" and start[2:3] == b"\x12":  # protobuf: version, then producer
        return "an ONNX file, for programs without PyTorch; give the weights that it was made from"
    for magic, what in _MAGIC.items():
        if start.startswith(magic):
            return what
    text = " ".join(start.decode("utf-8", errors="replace").lstrip("\ufeff").split())
    if text.startswith("<"):
        return (
            "a web page, which the download gave instead; log in, or use the link of the file "
            "itself (on the Hub with /resolve/, not /blob/)"
        )
    if text.isprintable() and "\ufffd" not in text[:60]:
        return f"text that begins with {text[:60]!r}; if a server sent it, it says why"
    return "neither safetensors nor of torch.save, or damaged"


def _check_header(path: Path, size: int) -> None:
    """That a safetensors file is as long as its header says."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(_MAX_HEADER, size - 8):
            raise WeightsError(
                f"{path} has {size:,} bytes, but its header alone would have {length:,}: it is "
                f"truncated or damaged; {AGAIN}"
            )
        header = file.read(length)
    try:
        ends = [v["data_offsets"][1] for k, v in json.loads(header).items() if k != "__metadata__"]
        wanted = 8 + length + max(ends, default=0)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise WeightsError(f"{path} has a header that is no safetensors: {AGAIN}") from error
    if size != wanted:
        raise WeightsError(
            f"{path} has {size:,} bytes where its header tells of {wanted:,}: it is truncated or "
            f"damaged; {AGAIN}"
        )


def check_numbers(where: str | Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuses tensors whose numbers cannot be a network's.

    Args:
        where: what holds them, for the message.
        tensors: by name; those of a variance end in ``running_var``.

    Raises:
        WeightsError: NaN or infinity (in float32), a negative variance, whole numbers but for
            single counters, or a tensor without memory of its own size.
    """
    if odd := [name for name, tensor in tensors.items() if not _is_plain(tensor)]:
        raise WeightsError(
            f"{where} holds other than floating-point numbers, each in its place: {few(odd)}; save "
            "the state_dict of the network as it was trained"
        )
    wrong, halves = [], False
    for name, tensor in tensors.items():
        values = tensor.detach().float()
        if name.endswith("running_var") and bool((values < 0).any()):
            wrong.append(f"{name} ({int((values < 0).sum())} of {values.numel()} negative)")
        if values.sum(dtype=torch.float64).isfinite():  # quicker than to ask for each
            continue
        infinite, nan = int(values.isinf().sum()), int(values.isnan().sum())
        wrong.append(f"{name} ({nan} NaN and {infinite} infinite of {values.numel()})")
        halves |= bool(infinite) and tensor.dtype == torch.float16
    if wrong:
        cure = "use those from before the training diverged, or an undamaged copy"
        cure = "float16 ends at 65,504, so save them as float32" if halves else cure
        raise WeightsError(
            f"{where} holds numbers that no network can use, in {few(wrong, 3)}: {cure}"
        )


def _is_plain(tensor: Tensor) -> bool:
    """Numbers on the CPU or a GPU, each in its place; whole ones only as a counter."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type == "meta":
        return False
    held = tensor.untyped_storage().nbytes() // tensor.element_size()
    return tensor.numel() <= held and (tensor.is_floating_point() or not tensor.ndim)
