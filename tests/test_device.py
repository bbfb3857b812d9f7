"""Where to compute: what is asked for is what is got, or an error."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from polyp_utils import device
from polyp_utils.device import get_compute, peak_memory_mib


@pytest.mark.parametrize(
    ("precision", "dtype"), [("bf16", torch.bfloat16), ("fp32", torch.float32)]
)
def test_precision_can_be_forced(precision, dtype):
    compute = get_compute("cpu", precision)
    assert (compute.device, compute.dtype) == (torch.device("cpu"), dtype)
    with compute.autocast():
        result = torch.nn.functional.conv2d(torch.ones(1, 1, 2, 2), torch.ones(1, 1, 1, 1))
    assert result.dtype == dtype
    assert torch.conv2d(torch.ones(1, 1, 2, 2), torch.ones(1, 1, 1, 1)).dtype == torch.float32


@pytest.mark.parametrize(
    ("has_bf16", "used", "expected"),
    [(True, "AVX512", True), (False, "AVX512", False), (True, "AVX2", False)],
)
def test_auto_precision_follows_the_hardware_that_pytorch_uses(
    monkeypatch, has_bf16, used, expected
):
    capabilities = {"avx512_bf16": has_bf16}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: used)
    assert (get_compute("cpu").dtype == torch.bfloat16) is expected


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"),
    [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_auto_device_prefers_cuda_then_mps_then_cpu(monkeypatch, cuda, mps, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setattr(device, "_cuda_has_bf16", lambda: True)
    assert get_compute().device.type == expected


@pytest.mark.parametrize("name", ["cuda", "mps", "tpu"])
def test_a_device_that_is_not_there_is_refused(monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ValueError, match=f"device is '{name}'.*take 'auto' or 'cpu'"):
        get_compute(name)


def test_describe_names_hardware_threads_and_precision():
    text = get_compute("cpu", "bf16").describe()
    assert text.startswith("cpu (")
    assert f"{torch.get_num_threads()} threads" in text
    assert text.endswith("bf16")
    assert get_compute("cpu", "fp32").describe().endswith("fp32")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_peak_memory_is_what_the_kernel_counted():
    peak = peak_memory_mib(get_compute("cpu"))
    (line,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert peak == pytest.approx(int(line) / 1024, rel=0.02)


def test_peak_memory_is_not_that_of_the_process_that_started_this_one():
    ballast = b"x" * 2**30
    code = "from polyp_utils.device import *; print(peak_memory_mib(get_compute('cpu')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert 0 < float(done.stdout) < len(ballast) / 2**20


def test_all_works_without_the_resource_module():  # as on Windows
    code = (
        "import sys; sys.modules['resource'] = None\n"
        "import polyp_utils.hub, polyp_utils.training\n"
        "from polyp_utils.device import get_compute, peak_memory_mib\n"
        "print(peak_memory_mib(get_compute('cpu')))"
    )
    command = [sys.executable, "-c", code]
    stdout = subprocess.run(command, capture_output=True, text=True).stdout
    assert stdout == "nan\n" or float(stdout) > 0
