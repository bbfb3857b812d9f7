"""Runs the network with OpenVINO: faster than PyTorch on an x86 CPU, with the same outputs.

OpenVINO is optional (extra ``fast``); `load_model` uses it where it is installed and faster.

`_graph` builds the network operation by operation in tenths of a second: `openvino.convert_model`
takes seconds, on top of a trace (by `torch.jit`, which is deprecated) or an export (by
`torch.export`). The result is the same: as many operations, bit-identical logits, equal speed.
"""

import contextlib
import functools
import importlib.util
import platform
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from polyp_utils.common.device import Compute, get_compute
from polyp_utils.common.exceptions import ExtraError, WeightsError, unknown
from polyp_utils.model.predict import cannot_overflow, fold_batch_norm, freeze
from polyp_utils.model.unet import UNet, check_size

RUNTIMES = ("auto", "openvino", "torch")
# State of `threads_for`: how many are inside, PyTorch's threads before, whether this one is inside.
_lock, _within, _before, _here = threading.Lock(), 0, 1, threading.local()


def for_frames(model: UNet, compute: Compute, runtime: str = "auto") -> nn.Module:
    """The network for `predict`, in the fastest runtime available or the one named.

    Args:
        model: trained network.
        compute: device and precision.
        runtime: one of `RUNTIMES`; ``auto`` is OpenVINO on an x86 CPU if it is installed: there it
            was measured to be faster, in bf16 and in float32. Weights that might overflow run in
            PyTorch, where that shows.

    Raises:
        ValueError: another name, or OpenVINO on a GPU.
        ExtraError: OpenVINO was asked for but is not installed.
        WeightsError: OpenVINO was asked for but the weights might overflow.
    """
    if runtime not in RUNTIMES:
        raise unknown("runtime", runtime, RUNTIMES)
    on_cpu, installed = compute.device.type == "cpu", bool(importlib.util.find_spec("openvino"))
    if runtime == "auto":
        if on_cpu and installed and platform.machine() in ("x86_64", "AMD64"):
            with contextlib.suppress(WeightsError):
                return OpenVINONetwork(model, compute)
        runtime = "torch"
    if runtime == "torch":
        return freeze(model, compute)
    if not on_cpu:
        raise ValueError(f"runtime 'openvino' is for the CPU, not {compute.device.type}: use auto")
    if not installed:
        raise ExtraError("openvino", "fast")
    return OpenVINONetwork(model, compute)


@contextlib.contextmanager
def threads_for(network: nn.Module) -> Iterator[None]:
    """Limits PyTorch to one thread, for the calling thread, while OpenVINO computes.

    After each operation PyTorch's other threads spin for some milliseconds, on cores that
    OpenVINO's threads need. A thread that first uses PyTorch while another is inside keeps the
    limit for good: PyTorch gives it the number that was set last.
    """
    compiled = any(isinstance(module, OpenVINONetwork) for module in network.modules())
    if not compiled or getattr(_here, "within", False):
        yield
        return
    global _within, _before
    with _lock:
        if not _within:
            _before = torch.get_num_threads()
        _within += 1
    _here.within = True
    torch.set_num_threads(1)
    try:
        yield
    finally:
        _here.within = False
        with _lock:
            _within -= 1
            torch.set_num_threads(_before)


class OpenVINONetwork(nn.Module):
    """A U-Net compiled by OpenVINO: images float32 (B, 3, H, W) -> logits float32 (B, C, H, W).

    B is free, H and W are any multiples of 16. It has no parameters (the weights are fixed when it
    is compiled), stays on the CPU, and can be neither copied nor pickled. Threads that share it
    take turns.
    """

    def __init__(self, model: UNet, compute: Compute) -> None:
        super().__init__()
        folded = fold_batch_norm(model).cpu()
        if not cannot_overflow(folded):  # OpenVINO's ReLU makes 0 of NaN: a mask would come of it
            raise WeightsError("a frame could take these weights beyond float32: use runtime torch")
        with torch.no_grad():
            graph = _graph(folded)
        self._compiled = compile_openvino(graph, compute.dtype)
        self._turn = threading.Lock()  # inputs and outputs have one buffer
        self._channels = folded.output.out_channels
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Like `UNet.forward`."""
        check_size(*images.shape[-2:])
        if not len(images):
            return images.new_empty(0, self._channels, *images.shape[-2:])
        with self._turn:
            return torch.from_numpy(self._compiled([images.detach().numpy()])[0].copy())


def compile_openvino(graph: Any, dtype: torch.dtype = torch.float32) -> Any:
    """Compiles an OpenVINO model or an ONNX file for the CPU: one call at a time, all threads.

    Args:
        graph: `openvino.Model`, or the file's path.
        dtype: bfloat16 or float32, for everything that is not int8; float32 is used in any case
            where the CPU has no bfloat16, as OpenVINO has no kernels for it there.
    """
    bf16 = dtype == get_compute("cpu").dtype == torch.bfloat16
    hints = {
        "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    return _core().compile_model(graph, "CPU", hints)


@functools.cache
def _core() -> Any:
    """The only OpenVINO core of this process, never freed.

    Each core gives the thread that creates it a signal stack, and unmaps that stack when freed,
    even if it is in use: if two are freed in order of creation, the thread is left with an unmapped
    stack, and the next signal kills the process (seen in OpenVINO 2026.4).
    """
    import openvino

    return openvino.Core()


def _graph(folded: UNet) -> Any:
    """`UNet.forward` as OpenVINO operations, from a network with folded batch norms."""
    import openvino
    from openvino import opset13 as ops

    def biased(x: Any, module: nn.Conv2d | nn.ConvTranspose2d) -> Any:
        assert module.bias is not None  # folding gave it one
        return ops.add(x, module.bias.numpy()[None, :, None, None])

    def conv(x: Any, module: nn.Conv2d) -> Any:
        pad = [int(p) for p in module.padding]
        return biased(ops.convolution(x, module.weight.numpy(), [1, 1], pad, pad, [1, 1]), module)

    def block(x: Any, modules: nn.Module) -> Any:
        for module in modules.children():
            if isinstance(module, nn.Conv2d):
                x = ops.relu(conv(x, module))
        return x

    def up(x: Any, module: nn.Module) -> Any:
        assert isinstance(module, nn.ConvTranspose2d)
        kernel, none = module.weight.numpy(), [0, 0]
        y = ops.convolution_backprop_data(x, kernel, [2, 2], None, none, none, [1, 1])
        return biased(y, module)

    images = ops.parameter([-1, 3, -1, -1], np.float32, name="images")
    x, skips = images, []
    for encoder in folded.encoder:
        skips.append(block(x, encoder))
        pooled = ops.max_pool(skips[-1], [2, 2], [1, 1], [0, 0], [0, 0], [2, 2])
        x = pooled.output(0)
    x = block(x, folded.bottleneck)
    for enlarge, decoder in zip(folded.up, folded.decoder, strict=True):
        x = block(ops.concat([skips.pop(), up(x, enlarge)], axis=1), decoder)
    return openvino.Model([conv(block(x, folded.head), folded.output)], [images])
