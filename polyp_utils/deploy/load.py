"""A trained model for frames of any size: from a run folder, a file or the Hub.

Of pickles only tensors are read (`deploy.foreign`). Without Python: see the README.
"""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from polyp_utils.common.config import MAX_IMAGE_SIZE, RELEASED
from polyp_utils.common.device import Compute, explaining, get_compute
from polyp_utils.common.exceptions import HubError, WeightsError, few
from polyp_utils.common.paths import repo_root
from polyp_utils.data.labels import SCHEMES, Scheme, get_scheme
from polyp_utils.data.transforms import resize_image
from polyp_utils.deploy.foreign import normalised, read_checkpoint
from polyp_utils.deploy.openvino import for_frames, threads_for
from polyp_utils.model.enlarge import to_class_map
from polyp_utils.model.predict import predict, to_original, to_polyp_mask
from polyp_utils.model.unet import STRIDE
from polyp_utils.runs.run import list_runs

Frame: TypeAlias = np.ndarray | Image.Image
FILE = "model.safetensors"
_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".tar", ".onnx")  # of files, not ids
_REPO = re.compile(r"([\w-][\w.-]*/[\w-][\w.-]*)(?:@([\w./-]+))?")


@dataclass(frozen=True)
class Model:
    """A trained network and what its output means.

    Attributes:
        network: the network that `predict` runs, from `for_frames`; within a `Normalised` if it
            was trained on other than RGB in [0, 1].
        scheme: what the class indices mean.
        image_size: side S of the square that frames are resized to, in pixels.
        compute: device and precision.
        metadata: what training wrote into the file's header; empty if another program wrote it.
        mirrored: whether predictions are averaged over mirrored copies, see `predict`.
        path: of the weights file.
        choices: what its key map says, see `Checkpoint`; empty without one.
    """

    network: nn.Module
    scheme: Scheme
    image_size: int
    compute: Compute
    metadata: dict[str, Any]
    mirrored: bool = False
    path: Path | None = None
    choices: dict[str, Any] = field(default_factory=dict)

    def at_network_size(self, image: Frame) -> Tensor:
        """Class probabilities, float32 (C, S, S), of a frame of any size (H, W).

        Args:
            image: RGB, uint8 (H, W, 3), or a PIL image, which is turned as its EXIF tag says.

        Raises:
            ValueError: something else, see `as_frame`.
            WeightsError: the network's output is not finite.
        """
        image_CHW = torch.from_numpy(as_frame(image)).permute(2, 0, 1)
        with threads_for(self.network):
            square = resize_image(image_CHW, (self.image_size, self.image_size))[None]
            names = [f"the frame by {self.path}" if self.path else "the frame"]
            turned = self.mirrored
            (found,) = predict(self.network, square, self.compute, mirrored=turned, names=names)
        return found

    def probabilities(self, image: Frame) -> Tensor:
        """Class probabilities at the frame's size, float32 (C, H, W), as `at_network_size`."""
        frame = as_frame(image)
        return to_original(self.at_network_size(frame), _size(frame))

    def class_map(self, image: Frame) -> np.ndarray:
        """The most probable class per pixel, uint8 (H, W), at the frame's size; likewise."""
        frame = as_frame(image)
        return to_class_map(self.at_network_size(frame), _size(frame))

    def polyp_mask(self, image: Frame) -> np.ndarray:
        """Where P(any polyp class) > 0.5, bool (H, W), at the frame's size; likewise."""
        frame = as_frame(image)
        with threads_for(self.network):
            return to_polyp_mask(self.at_network_size(frame), self.scheme, _size(frame)).numpy()


def _size(frame: np.ndarray) -> tuple[int, int]:
    return frame.shape[0], frame.shape[1]


def as_frame(image: Frame) -> np.ndarray:
    """A frame as `Model` sees it: RGB, uint8 (H, W, 3), in memory of its own order.

    Args:
        image: such an array, or a PIL image; that is turned as its EXIF tag says, and converted
            from grey, palette, CMYK or with alpha, as `read_frame` does with files.

    Raises:
        ValueError: another kind, type or shape; or no pixels.
    """
    if isinstance(image, Image.Image):
        if image.mode.startswith(("I", "F")):
            raise ValueError(
                f"the image has mode {image.mode}, so which level is white is not certain: scale "
                'it to 8 bits, then convert("RGB")'
            )
        image.load()  # Pillow turns a TIFF here by itself, which must not be done twice
        image = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    wanted = "give one frame, RGB uint8 (H, W, 3), or a PIL image"
    if not isinstance(image, np.ndarray):
        seen = f" {[*image.shape]}" if isinstance(image, Tensor) else ""
        hint = "; of a tensor (3, H, W) .permute(1, 2, 0).numpy()" if seen else ""
        raise ValueError(f"the image is a {type(image).__name__}{seen}: {wanted}{hint}")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        hint = ""
        if image.ndim == 4:
            hint = "; frames of a batch one by one"
        elif image.ndim == 2:
            hint = "; of a grey one np.stack([image] * 3, axis=-1)"
        elif image.shape[-1] == 4:
            hint = "; without alpha image[..., :3]"
        elif image.ndim == 3 and image.shape[0] == 3 and image.shape[2] != 3:
            hint = "; of (3, H, W) image.transpose(1, 2, 0)"
        elif np.issubdtype(image.dtype, np.floating):
            hint = "; of 0 to 1 (image * 255).round().astype(np.uint8)"
        raise ValueError(f"the image is {image.dtype} {image.shape}: {wanted}{hint}")
    if not image.size:
        raise ValueError(f"the image has no pixels, {image.shape}: {wanted}")
    return image.copy() if min(image.strides) < 0 or not image.flags.writeable else image


@explaining()
def load_model(
    source: str | Path = "",
    scheme: str | None = None,
    image_size: int | None = None,
    device: str = "auto",
    mirrored: bool = False,
    precision: str = "auto",
    runtime: str = "auto",
    keys: str | Path = "",
) -> Model:
    """Loads a model from a run folder, a file of weights or the Hub.

    Args:
        source: name or folder of a run, a file, or a repository id of the Hub, ``user/name`` or
            ``user/name@revision``; empty: the released weights of this repository, `RELEASED`.
        scheme: name of the label scheme; needed only for weights without that metadata.
        image_size: side of the network's input in pixels; likewise, or to try another size.
        device: ``auto``, ``cuda``, ``mps`` or ``cpu``.
        mirrored: average over mirrored copies, at four times the cost (test-time augmentation).
        precision: ``auto``, ``bf16`` or ``fp32``; ``auto`` is bf16 where that is faster.
        runtime: ``auto``, ``openvino`` or ``torch``; ``auto`` is OpenVINO (extra ``fast``) on an
            x86 CPU if it is installed. An OpenVINO model can be neither copied nor pickled, and
            while it predicts PyTorch uses one thread, see `threads_for`.
        keys: key map, a JSON file, for weights that another program named and trained otherwise;
            the refusal without it writes a template.

    Raises:
        FileNotFoundError: no such folder or file, and not a repository id.
        HubError: the file could not be downloaded from the Hub.
        ExtraError: the runtime is not installed.
        DeviceError: the GPU has too little memory, is in use, or is not supported.
        WeightsError: not our U-Net, whole, or a file that cannot be read, see `read_checkpoint`; or
            a scheme that is unknown or does not fit.
    """
    path = _find(source)
    unet, metadata, choices = read_checkpoint(path, keys)
    settings = choices or metadata.get("settings", {})
    logits, stored = unet.output.out_channels, settings.get("scheme", "")
    size = image_size or settings.get("image_size")
    fitting = [name for name, known in SCHEMES.items() if known.logits == logits]
    if not (scheme or stored) or not size:
        raise WeightsError(
            f"{path} does not say its label scheme and input size: give scheme= ({logits} logits: "
            f"one of {', '.join(fitting)}) and image_size= (pixels; the model card's is 256)"
        )
    if scheme and stored in [*SCHEMES] and scheme != stored:
        raise WeightsError(f"{path} was trained with scheme {stored!r}, not {scheme!r}")
    if type(size) is not int or size % STRIDE or not STRIDE <= size <= MAX_IMAGE_SIZE:
        raise WeightsError(
            f"{path} would see frames at {size!r} px: give image_size= a multiple of {STRIDE} up "
            f"to {MAX_IMAGE_SIZE}"
        )
    if not scheme and stored not in [*SCHEMES]:
        raise WeightsError(
            f"{path} says that its label scheme is {stored!r}, which is none here: give scheme= "
            f"({logits} logits: one of {', '.join(fitting)})"
        )
    found = get_scheme(scheme or stored)
    if found.logits != logits:
        raise WeightsError(
            f"{path} has {logits} logits but scheme {found.name!r} needs {found.logits}: "
            f"use one of {', '.join(fitting)}"
        )
    compute = get_compute(device, precision)
    network = normalised(for_frames(unet, compute, runtime), choices, compute.device)
    return Model(network, found, size, compute, metadata, mirrored, path, choices)


def _released() -> Path:
    path = repo_root() / "results/published" / RELEASED / FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"the released weights, results/published/{RELEASED}/{FILE} of the repository, are not "
            f"in {repo_root()}: run this in a clone of the repository, or download that file and "
            "give its path"
        )
    return path


def _find(source: str | Path) -> Path:
    if not str(source):
        return _released()
    path = Path(source).expanduser()
    if path.is_dir():
        if not (path / FILE).is_file():
            others = sorted(p.name for p in path.iterdir() if p.suffix in _SUFFIXES)
            raise FileNotFoundError(
                f"{path} holds no {FILE}, but {few(others)}: give the file that is meant"
                if others
                else f"{path} holds no {FILE}: the run is unfinished or was published without it; "
                "the README.md of a published run has the command that trains it again"
            )
        return path / FILE
    if path.is_file():
        return path
    named = [run for run in list_runs() if run.weights.is_file()]
    if found := [run.weights for run in named if run.name == str(source)]:
        return found[0]
    match = _REPO.fullmatch(str(source))
    here = path.parts and any(Path(root, path.parts[0]).is_dir() for root in (".", repo_root()))
    if not match or here or path.suffix in _SUFFIXES:
        runs = ", ".join(run.name for run in named) or "none"
        raise FileNotFoundError(
            f"{source} is not a run, a file, or a repository id of the Hub (user/name or "
            f"user/name@revision). Runs with weights here: {runs}"
        )
    return _download(match[1], match[2] or "main")


def _download(repo_id: str, revision: str) -> Path:
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    by_hand = f"download {endpoint}/{repo_id}/resolve/{revision}/{FILE} and give the file's path"
    try:
        from huggingface_hub import errors, hf_hub_download  # may be missing
    except ImportError as error:
        raise HubError(f"huggingface_hub is not installed: install it, or {by_hand}") from error
    unreachable = f"{repo_id} cannot be loaded from {endpoint}: try again online, or {by_hand}"
    reasons = {
        errors.RepositoryNotFoundError: f"{repo_id} is not a file or folder here, nor a repository "
        f"you can see on {endpoint}; if it is private or gated, log in first (hf auth login)",
        errors.RevisionNotFoundError: f"{repo_id} has no revision {revision!r}",
        errors.LocalEntryNotFoundError: unreachable,  # listed before its base class
        errors.EntryNotFoundError: f"{repo_id} has no {FILE} at revision {revision!r}; other "
        "formats are loaded from a file: download it and give its path",
    }
    try:
        return Path(hf_hub_download(repo_id, FILE, revision=revision))
    except Exception as error:  # from the client, httpx or the system
        reason = next((text for kind, text in reasons.items() if isinstance(error, kind)), None)
        raise HubError(f"{reason or unreachable} ({type(error).__name__})") from error
