"""Where the time of a training step goes, by kind of operation (`torch.profiler`)."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

KINDS = {  # patterns for the names of operations; the first match counts
    "convolution, forward": r"mkldnn_convolution|cudnn_convolution|slow_conv",
    "convolution, gradients": r"convolution_backward",
    "batch norm": r"batch_norm",
    "ReLU": r"clamp_min|threshold_backward|relu",
    "concatenation": r"^cat$",
    "pooling": r"max_pool2d",
    "copies and casts": r"copy_|contiguous|clone|^fill_|^zero_",
    "sums of gradients": r"^add_?$",
    "optimizer": r"adam|sgd",
    "loss": r"softmax|nll_loss|one_hot|scatter",
    "other": r"",
}


def seconds_by_kind(step: Callable[[], object], device: torch.device) -> dict[str, float]:
    """Seconds that one call spends in each kind of operation, by `KINDS`.

    An operation's own time counts, without the operations it calls; on CUDA its kernels' time.
    """
    import torch  # not needed for tables of measurements
    from torch.profiler import ProfilerActivity

    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it reports a missing GPU as an error
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * on_gpu]
    with torch.profiler.profile(activities=activities) as profile:
        step()
    found = dict.fromkeys(KINDS, 0.0)
    for event in profile.key_averages():
        if event.device_type != torch.autograd.DeviceType.CPU:
            continue  # a kernel: its time is already in the operation's
        own = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        found[kind_of(event.key)] += own / 1e6
    return found


def kind_of(operation: str) -> str:
    """The kind, of `KINDS`, of an operation by its name (``aten::cat``)."""
    name = operation.removeprefix("aten::")
    return next(kind for kind, pattern in KINDS.items() if re.search(pattern, name))
