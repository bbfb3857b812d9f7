"""The runtimes that are compared, and how each gets trained weights.

A runtime maps images, float32 (B, 3, H, W) in [0, 1], to class probabilities, float32
(B, C, H, W), on one device. Each set of weights has its own folder: the weights with settings in
their header, frames to calibrate int8 on, and any file that a runtime needs.
"""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polyp_utils.common.device import get_compute
from polyp_utils.common.exceptions import ExtraError
from polyp_utils.data.labels import get_scheme
from polyp_utils.deploy.load import FILE, load_model
from polyp_utils.deploy.onnx import export_int8, export_onnx
from polyp_utils.deploy.openvino import compile_openvino, threads_for
from polyp_utils.model.predict import to_probabilities
from polyp_utils.model.unet import UNet
from polyp_utils.model.weights import load_weights, read_metadata, save_weights

Forward = Callable[[Tensor], Tensor]
CARD = "card's snippet, fp32"
_CALIBRATION = "calibration.npy"  # beside the weights: uint8 (N, 3, S, S)


def prepare_runtimes(folder: Path, network: UNet, settings: dict[str, Any], images: Tensor) -> Path:
    """Writes what `load_forward` needs into a folder; returns the weights file.

    Args:
        folder: for these weights alone.
        network: trained or not.
        settings: its ``scheme``, ``width`` and ``image_size``.
        images: frames to calibrate int8 on, uint8 (N, 3, S, S).
    """
    save_weights(folder / FILE, network, {"settings": settings})
    np.save(folder / _CALIBRATION, images.numpy())
    return folder / FILE


def _card(weights: Path, device: str) -> Forward:
    settings = read_metadata(weights)["settings"]
    model = UNet(3, get_scheme(settings["scheme"]).logits, settings["width"])
    load_weights(model, weights).eval().to(device)
    return torch.no_grad()(lambda images: to_probabilities(model(images)))


def _ours(runtime: str, precision: str, weights: Path, device: str) -> Forward:
    model = load_model(weights, device=device, precision=precision, runtime=runtime)

    @torch.inference_mode()
    def forward(images: Tensor) -> Tensor:
        with threads_for(model.network), model.compute.autocast():
            return to_probabilities(model.network(images))

    return forward


def _onnx_runtime(precision: str, weights: Path, device: str) -> Forward:
    try:
        import onnxruntime
    except ImportError as error:
        raise ExtraError("onnxruntime", "export") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    file, providers = _onnx_file(weights, precision), ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(file, options, providers=providers)
    return lambda images: torch.from_numpy(session.run(None, {"images": _frames(images)})[0])


def _openvino_int8(weights: Path, device: str) -> Forward:
    compiled = compile_openvino(_onnx_file(weights, "int8"))
    return lambda images: torch.from_numpy(compiled([_frames(images)])[0].copy())


def _frames(images: Tensor) -> np.ndarray:
    """What the ONNX files take, uint8 (B, H, W, 3)."""
    return (images * 255).round().byte().permute(0, 2, 3, 1).numpy()


def _onnx_file(weights: Path, precision: str) -> Path:
    """The ONNX file beside the weights, made if missing; int8 is calibrated on the frames there."""
    whole, int8 = (weights.with_suffix(suffix) for suffix in (".onnx", ".int8.onnx"))
    if not whole.is_file():
        export_onnx(weights, whole)
    if precision == "int8" and not int8.is_file():
        images = np.load(weights.with_name(_CALIBRATION))
        export_int8(whole, int8, torch.from_numpy(images))
    return int8 if precision == "int8" else whole


FORWARDS: dict[str, Callable[[Path, str], Forward]] = {
    CARD: _card,
    "ours, PyTorch fp32": partial(_ours, "torch", "fp32"),
    "ours, PyTorch bf16": partial(_ours, "torch", "bf16"),
    "ours, OpenVINO fp32": partial(_ours, "openvino", "fp32"),
    "ours, OpenVINO bf16": partial(_ours, "openvino", "bf16"),
    "ONNX Runtime, fp32": partial(_onnx_runtime, "fp32"),
    "ONNX Runtime, int8": partial(_onnx_runtime, "int8"),
    "OpenVINO, int8": _openvino_int8,
}


def runtimes_here() -> tuple[str, ...]:
    """Keys of `FORWARDS`, without bf16 if this CPU only emulates it."""
    bf16 = get_compute("cpu").dtype == torch.bfloat16
    return tuple(name for name in FORWARDS if bf16 or not name.endswith("bf16"))


def is_held(runtime: str) -> bool:
    """Whether a runtime respects the environment's limit to an older CPU; True without a limit.

    PyTorch respects ``ATEN_CPU_CAPABILITY`` and ``ONEDNN_MAX_CPU_ISA``. OpenVINO respects the
    latter: its convolutions do, and the rest (its own element-wise kernels) takes a twentieth of
    the time. ONNX Runtime asks the CPU and respects neither.
    """
    asked = {"ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA"} & os.environ.keys()
    if "OpenVINO" in runtime:
        return not asked or "ONEDNN_MAX_CPU_ISA" in asked
    return not (asked and runtime.startswith("ONNX Runtime"))


def load_forward(runtime: str, weights: Path, device: str = "cpu") -> Forward:
    """Loads weights of `prepare_runtimes` into a runtime, a key of `FORWARDS`.

    Raises:
        ImportError: a package that it needs is not installed.
    """
    return FORWARDS[runtime](weights, device)


def file_of(runtime: str, weights: Path) -> Path:
    """The file that a runtime loads."""
    if runtime == CARD or runtime.startswith("ours"):
        return weights
    return _onnx_file(weights, runtime.split(", ")[1])
