"""Device and precision: what was requested, or an error."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from polyp_utils.common import device
from polyp_utils.common.device import explaining, get_compute, peak_memory_mib
from polyp_utils.common.exceptions import DeviceError


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


def test_bf16_on_a_gpu_without_it_is_rejected_and_auto_avoids_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(device, "_cuda_has_bf16", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Quadro RTX 4000")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    assert {get_compute("cuda", p).dtype for p in ("auto", "fp32")} == {torch.float32}
    with pytest.raises(
        ValueError, match=r"'bf16', but Quadro RTX 4000 has .* 7\.5, and bf16 needs"
    ):
        get_compute("cuda", "bf16")


@pytest.fixture
def crowded_gpu(monkeypatch):
    """A second GPU whose memory other processes nearly fill."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda gpu: (2**29, 80 * 2**30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda gpu: 9 * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda gpu: f"NVIDIA H100 number {gpu}")
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_90", "sm_100"])


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 1 has a total capacity of",
            r"80\.0 GiB of NVIDIA H100 number 1 this process holds 9\.0, others 70\.5, and 0\.5 "
            r"are free, with width 64\. Use a smaller --batch-size or --width, or more --micro-b",
        ),
        ("CUDA error: out of memory", r"80\.0 GiB of NVIDIA H100 number None this process"),
        ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", "wait for them, choose another GPU .CUDA_VIS"),
        (
            "CUDA error: CUDA-capable device(s) is/are busy or unavailable\nCUDA kernel errors",
            r"number None is in exclusive use by another process: .* or use --device cpu",
        ),
        (
            "CUDA error: no kernel image is available for execution on the device",
            r"is built for sm_90, sm_100, not NVIDIA H100 .*: install one that is",
        ),
    ],
)
def test_gpu_errors_that_the_user_can_fix_are_explained(crowded_gpu, error, message):
    with pytest.raises(DeviceError, match=message) as caught, explaining(), explaining("width 64"):
        raise RuntimeError(error)
    assert "\n" not in str(caught.value)


def test_a_gpu_too_full_to_query_is_explained(monkeypatch):
    def full(gpu):
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(torch.cuda, "mem_get_info", full)
    with pytest.raises(DeviceError, match=r"^CUDA error: out of memory\. Use"), explaining():
        torch.cuda.mem_get_info(0)


def test_other_errors_pass_unchanged():
    with pytest.raises(RuntimeError, match=r"^size mismatch$") as caught, explaining():
        raise RuntimeError("size mismatch")
    assert caught.type is RuntimeError


@pytest.fixture(scope="module")
def seen_by_a_fixture():
    return get_compute().device.type, os.environ["CUDA_VISIBLE_DEVICES"]


def test_tests_and_their_fixtures_see_no_gpu_even_where_there_is_one(seen_by_a_fixture):
    assert seen_by_a_fixture == ("cpu", "")
    assert not torch.cuda.is_available()


@pytest.mark.parametrize("name", ["cuda", "mps", "tpu"])
def test_a_device_that_is_not_available_is_rejected(monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ValueError, match=f"device is '{name}'.*use 'auto' or 'cpu'"):
        get_compute(name)


def test_describe_names_hardware_threads_and_precision():
    text = get_compute("cpu", "bf16").describe()
    assert text.startswith("cpu (")
    assert f"{torch.get_num_threads()} threads" in text
    assert text.endswith("bf16")
    assert get_compute("cpu", "fp32").describe().endswith("fp32")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_peak_memory_is_what_the_kernel_reports():
    peak = peak_memory_mib(get_compute("cpu"))
    (line,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert peak == pytest.approx(int(line) / 1024, rel=0.02)


def test_peak_memory_is_not_that_of_the_parent_process():
    ballast = b"x" * 2**30
    code = "from polyp_utils.common.device import *; print(peak_memory_mib(get_compute('cpu')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert 0 < float(done.stdout) < len(ballast) / 2**20


def test_everything_works_without_the_resource_module():  # as on Windows
    code = (
        "import sys; sys.modules['resource'] = None\n"
        "import polyp_utils.deploy.load, polyp_utils.train.fit\n"
        "from polyp_utils.common.device import get_compute, peak_memory_mib\n"
        "print(peak_memory_mib(get_compute('cpu')))"
    )
    command = [sys.executable, "-c", code]
    stdout = subprocess.run(command, capture_output=True, text=True).stdout
    assert stdout == "nan\n" or float(stdout) > 0
