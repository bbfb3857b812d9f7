"""The network run by OpenVINO: on an x86 CPU faster than PyTorch, with the same outputs.

OpenVINO is optional (extra ``fast``); `load_model` takes it where it is installed and faster.

`_graph` builds the network by hand, as `openvino.convert_model` takes seconds where it takes tenths
of one, on top of a trace (by `torch.jit`, which is deprecated) or an export by `torch.export`. The
result is the same: as many operations, logits equal to the bit, the same speed.
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
from polyp_utils.common.exceptions import ExtraError, unknown
from polyp_utils.model.predict import fold_batch_norm, freeze
from polyp_utils.model.unet import UNet, check_size

RUNTIMES = ("auto", "openvino", "torch")
# Of `threads_for`: threads within, and how many PyTorch had; whether this one is within.
_lock, _within, _before, _here = threading.Lock(), 0, 1, threading.local()


def for_frames(model: UNet, compute: Compute, runtime: str = "auto") -> nn.Module:
    """The network for `predict`, by the fastest runtime at hand, or by the one named.

    Args:
        model: trained.
        compute: where and in which precision.
        runtime: one of `RUNTIMES`; ``auto`` takes OpenVINO on an x86 CPU if it is installed: in
            bf16 and in float32 it was measured to be faster there.

    Raises:
        ValueError: another name, or OpenVINO on a GPU.
        ExtraError: OpenVINO is asked for and not installed.
    """
    if runtime not in RUNTIMES:
        raise unknown("runtime", runtime, RUNTIMES)
    on_cpu, installed = compute.device.type == "cpu", bool(importlib.util.find_spec("openvino"))
    if runtime == "auto":
        x86 = platform.machine() in ("x86_64", "AMD64")
        runtime = "openvino" if on_cpu and x86 and installed else "torch"
    if runtime == "torch":
        return freeze(model, compute)
    if not on_cpu:
        raise ValueError(f"runtime 'openvino' is for the CPU, not {compute.device.type}: take auto")
    if not installed:
        raise ExtraError("openvino", "fast")
    return OpenVINONetwork(model, compute)


@contextlib.contextmanager
def threads_for(network: nn.Module) -> Iterator[None]:
    """PyTorch computes with one thread, for the thread within, while OpenVINO has work.

    After each of its operations PyTorch's other threads spin for some milliseconds, on cores that
    OpenVINO's threads need. A thread that first uses PyTorch while another is within has one too,
    for good: PyTorch takes the last number that was set.
    """
    if not isinstance(network, OpenVINONetwork) or getattr(_here, "within", False):
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

    B, H and W are free. It has no parameters (the weights are those at the time of compilation),
    stays on the CPU, and can be neither copied nor pickled. Threads may share it: they take turns.
    """

    def __init__(self, model: UNet, compute: Compute) -> None:
        super().__init__()
        folded = fold_batch_norm(model).cpu()
        with torch.no_grad():
            graph = _graph(folded)
        self._compiled = compile_openvino(graph, compute.dtype)
        self._turn = threading.Lock()  # it has one place for inputs and outputs
        self._channels = folded.output.out_channels
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """As `UNet.forward`."""
        check_size(*images.shape[-2:])
        if not len(images):
            return images.new_empty(0, self._channels, *images.shape[-2:])
        with self._turn:
            return torch.from_numpy(self._compiled([images.detach().numpy()])[0].copy())


def compile_openvino(graph: Any, dtype: torch.dtype = torch.float32) -> Any:
    """A model of OpenVINO, or an ONNX file, compiled for the CPU: one call at a time, all threads.

    Args:
        graph: `openvino.Model`, or the file's path.
        dtype: bfloat16 or float32, of what is not int8 in it; OpenVINO has no kernels for bfloat16
            where the CPU has none, and computes in float32 there.
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
    """OpenVINO's one core of this process, which is never freed.

    Each new one gives the thread that makes it a stack for signals, and unmaps it when freed, in
    use or not: of two, freed in the order in which they were made, the first leaves its unmapped
    stack to the thread, and the next signal ends the process (seen in OpenVINO 2026.4).
    """
    import openvino

    return openvino.Core()


def _graph(folded: UNet) -> Any:
    """`UNet.forward` in OpenVINO's operations, from a network with folded batch norms."""
    import openvino
    from openvino import opset13 as ops

    def biased(x: Any, module: nn.Conv2d | nn.ConvTranspose2d) -> Any:
        assert module.bias is not None  # from folding
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
