"""What `torch.save` wrote, as data: no code in it is run, and no promise of memory is believed."""

import io
import pickletools
import re
import zipfile
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO

import torch

from polyp_utils.common.exceptions import WeightsError, few

EXPORT = "safetensors.torch.save_file(model.state_dict(), 'model.safetensors')"
_MAX_PROGRAM = 10**7  # bytes of a pickle, its tensors apart
_PICKLES = 5  # in a file of PyTorch before 1.6, before its tensors
# Of what PyTorch admits, what tensors and plain values need: `bytearray`, for one, may take any
# memory by a few bytes in a file.
_NEEDED = re.compile(
    r"collections\.OrderedDict|(__builtin__|builtins)\.set|_codecs\.encode"
    r"|torch\._utils\._rebuild_(tensor_v2|parameter)"
    r"|torch\.(storage\.)?\w+Storage|torch\.(Size|device|b?float\d*|u?int\d+|double|half|long|bool)"
)


def read_pickle(path: Path) -> Any:
    """The value in a file of `torch.save`, on the CPU: tensors and plain values in containers.

    Raises:
        WeightsError: it needs code of any kind, or is damaged.
    """
    try:
        with path.open("rb") as file:
            needs = sorted({name for name in _globals_of(file) if not _NEEDED.fullmatch(name)})
        value = None if needs else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of a damaged file: a dozen kinds
        said = f"{type(error).__name__}: {error}".partition("\n")[0][:120]
        raise WeightsError(
            f"{path} is not a state_dict by torch.save, or damaged ({said}). Where it was made, "
            f"export it: {EXPORT}"
        ) from error
    if needs:
        raise WeightsError(
            f"{path} holds more than tensors: it needs {few(needs)}; as code in it could do "
            f"anything, it is not run. Where it was made, export its state_dict: {EXPORT}"
        )
    return value


def _globals_of(file: BinaryIO) -> Iterator[str]:
    """What the pickles in a file of `torch.save` name: ``module.name``; none of it is imported."""
    size = file.seek(0, io.SEEK_END)
    if not zipfile.is_zipfile(file):  # of PyTorch before 1.6
        file.seek(0)
        for _ in range(_PICKLES):
            yield from _named_in(file) if file.tell() < size else ()
        return
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        inside = sum(entry.file_size for entry in entries)
        if inside > size:  # `torch.save` does not compress
            raise ValueError(f"it would unpack from {size:,} to {inside:,} bytes")
        programs = [entry for entry in entries if entry.filename.endswith("/data.pkl")]
        if not programs or any(e.filename.endswith("/constants.pkl") for e in entries):
            raise ValueError("it is an archive of TorchScript or of another program")
        for entry in programs:
            if entry.file_size > _MAX_PROGRAM:
                raise ValueError(f"{entry.filename} has {entry.file_size:,} bytes")
            yield from _named_in(io.BytesIO(archive.read(entry)))


def _named_in(file: IO[bytes]) -> Iterator[str]:
    texts = deque[str](maxlen=2)
    for operation, value, _ in pickletools.genops(file):
        if operation.name in ("GLOBAL", "INST"):
            yield str(value).replace(" ", ".")
        elif operation.name == "STACK_GLOBAL":
            yield ".".join(texts)
        elif isinstance(value, str):
            texts.append(value)
