"""The device to compute on, and its precision."""

import contextlib
import ctypes
import importlib.util
import itertools
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from polyp_utils.common.exceptions import DeviceError
from polyp_utils.common.processes import local_rank, size


@dataclass(frozen=True)
class Compute:
    """A device and the precision of its convolutions; loss and metrics are always float32."""

    device: torch.device
    dtype: torch.dtype

    def autocast(self) -> contextlib.AbstractContextManager:
        """Context in which convolutions run in `dtype`."""
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def describe(self) -> str:
        """One line for records: number of processes if several, hardware, threads, precision."""
        precision = "bf16" if self.dtype == torch.bfloat16 else "fp32"
        name = f"{self.device.type} ({cpu_name()}, {torch.get_num_threads()} threads)"
        if self.device.type == "cuda":
            name = torch.cuda.get_device_name(self.device)
        return f"{size()} × {name}, {precision}" if size() > 1 else f"{name}, {precision}"


def get_compute(device: str = "auto", precision: str = "auto") -> Compute:
    """Resolves ``auto``: CUDA, then MPS, then CPU; bf16 where the hardware has it.

    Several processes on a host each get a GPU of their own, or all use the CPU.

    Raises:
        ValueError: a device that is not available, or not for every process; bf16 on a GPU that is
            too old for it.
    """
    alone = size() == 1
    mps = torch.backends.mps.is_available() and alone
    available = {"cuda": torch.cuda.is_available(), "mps": mps}
    if device == "auto":
        device = next((name for name, there in available.items() if there), "cpu")
    elif not available.get(device, device == "cpu"):
        raise ValueError(f"device is {device!r}, which this machine lacks: use 'auto' or 'cpu'")
    fast = {"cuda": _cuda_has_bf16, "cpu": _cpu_has_bf16}.get(device, lambda: False)
    bf16 = fast() if precision == "auto" else precision == "bf16"
    if device == "cuda" and bf16 and not fast():
        major, minor = torch.cuda.get_device_capability()
        raise ValueError(
            f"precision is 'bf16', but {torch.cuda.get_device_name()} has compute capability "
            f"{major}.{minor}, and bf16 needs 8.0: use 'auto' or 'fp32'"
        )
    if device == "cuda" and not alone:
        if local_rank() >= torch.cuda.device_count():
            raise ValueError(
                f"there are more processes than GPUs on this host ({torch.cuda.device_count()}): "
                f"use --nproc-per-node={torch.cuda.device_count()}, or device 'cpu'"
            )
        device = f"cuda:{local_rank()}"
    return Compute(torch.device(device), torch.bfloat16 if bf16 else torch.float32)


def _cuda_has_bf16() -> bool:
    return torch.cuda.is_bf16_supported(including_emulation=False)


def _cpu_has_bf16() -> bool:
    """AVX-512 BF16 or AMX, where bf16 more than doubles the speed; elsewhere it is emulated."""
    return instruction_set().endswith(("BF16", "AMX"))


def instruction_set() -> str:
    """The vector instructions that PyTorch uses on this CPU, such as "AVX2" or "AVX-512 BF16".

    ``ATEN_CPU_CAPABILITY=avx2`` restricts PyTorch to older ones.
    """
    used = torch.backends.cpu.get_cpu_capability()
    has = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    if used == "AVX512":
        kinds = {"amx_bf16": "AVX-512 AMX", "avx512_bf16": "AVX-512 BF16"}
        return next((name for kind, name in kinds.items() if has.get(kind)), "AVX-512")
    if used == "AVX2" and has.get("avx512_f"):
        return "AVX-512 held to AVX2"
    return platform.machine() if used == "DEFAULT" else used


@contextlib.contextmanager
def explaining(settings: str = "") -> Iterator[None]:
    """Turns GPU errors that the user can fix into a `DeviceError` that says how.

    Args:
        settings: those that determine memory use, with their values.
    """
    try:
        yield
    except DeviceError:
        raise
    except RuntimeError as error:
        message = _explained(str(error), settings)
        if not message:
            raise
        raise DeviceError(message) from error


def _explained(error: str, settings: str) -> str:
    ways = "choose another GPU (CUDA_VISIBLE_DEVICES), or use --device cpu"
    if "out of memory" in error or "ALLOC_FAILED" in error:
        return (
            f"{_memory(error)}{settings and ', with '}{settings}. Use a smaller --batch-size or "
            f"--width, or more --micro-batches; if others hold the memory, wait for them, {ways}"
        )
    if "busy or unavailable" in error:
        return f"{_name()} is in exclusive use by another process: wait for it, {ways}"
    if "no kernel image" in error:
        kinds = ", ".join(torch.cuda.get_arch_list())
        version = f"PyTorch {torch.__version__}"
        return f"{version} is built for {kinds}, not {_name()}: install one that is, {ways}"
    return ""


def _memory(error: str) -> str:
    """Which processes hold the memory of the GPU that ran out of it."""
    number = re.search(r"GPU (\d+)", error)
    gpu = int(number[1]) if number else None
    try:
        free, total = torch.cuda.mem_get_info(gpu)
        own = torch.cuda.memory_reserved(gpu)
    except (RuntimeError, AssertionError):  # no memory left even to query; not CUDA
        return error.splitlines()[0]
    others, gib = total - own - free, 2**30
    return (
        f"out of memory: of the {total / gib:.1f} GiB of {_name(gpu)} this process holds "
        f"{own / gib:.1f}, others {others / gib:.1f}, and {free / gib:.1f} are free"
    )


def _name(gpu: int | None = None) -> str:
    try:
        return torch.cuda.get_device_name(gpu)
    except (RuntimeError, AssertionError):
        return "the GPU"


def has_compiler(device: torch.device) -> bool:
    """Whether `torch.compile` finds what it needs: Triton on a GPU, else a C++ compiler."""
    if device.type == "cuda":
        return importlib.util.find_spec("triton") is not None
    usual = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    return shutil.which(os.environ.get("CXX") or usual) is not None


def keep_freed_memory() -> None:
    """Makes glibc keep large freed blocks instead of returning them to the kernel.

    Activations of 64 MB are allocated and freed hundreds of times per step; zeroing their pages
    every time costs a third of a CPU training step (measured: 1.43 -> 2.24 images/s at full
    width). Does nothing with other C libraries.
    """
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        trim_threshold, mmap_threshold = -1, -3  # malloc.h
        libc = ctypes.CDLL(None)
        libc.mallopt(mmap_threshold, 2**30)
        libc.mallopt(trim_threshold, 2**31 - 1)


def peak_memory_mib(compute: Compute) -> float:
    """Peak memory so far in MiB: of the tensors on CUDA, else of the process (NaN on Windows)."""
    if compute.device.type == "cuda":
        return torch.cuda.max_memory_allocated(compute.device) / 2**20
    with contextlib.suppress(OSError), open("/proc/self/status") as lines:
        for line in lines:  # not ru_maxrss, which a process inherits from its parent
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024
    try:
        import resource  # not on Windows
    except ImportError:
        return float("nan")
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is bytes on macOS, else KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def free_memory(device: torch.device) -> int:
    """Free memory of the device in bytes; 0 on the CPU, which has none of its own."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return 0


def cpu_name() -> str:
    """Model name, instruction set and cores of the processor, as reported by the system.

    Family and model are numbers of the maker; they tell generations apart that share a name.
    """
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as lines:
        first = itertools.takewhile(str.strip, lines)  # as all cores say the same
        facts = {key.strip(): value.strip() for key, _, value in (x.partition(":") for x in first)}
        name = facts.get("model name", name)
        if {"cpu family", "model"} <= facts.keys():
            name += f" family {facts['cpu family']} model {facts['model']}"
    return f"{name}, {instruction_set()}, {os.cpu_count()} cores"
