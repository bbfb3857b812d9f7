"""OpenVINO predicts what PyTorch predicts, at every size, and is used where it is installed."""

import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from polyp_utils.common.device import Compute, get_compute
from polyp_utils.common.exceptions import ExtraError
from polyp_utils.deploy.openvino import OpenVINONetwork, for_frames, threads_for
from polyp_utils.model.predict import fold_batch_norm, predict
from polyp_utils.model.unet import UNet

FP32, BF16 = (get_compute("cpu", precision) for precision in ("fp32", "bf16"))


@pytest.mark.parametrize("shape", [(1, 3, 32, 32), (3, 3, 48, 16), (2, 3, 16, 80)])
@pytest.mark.parametrize("logits", [1, 3])
def test_openvino_gives_the_logits_of_the_network(shape, logits, trained_like):
    pytest.importorskip("openvino")
    model = trained_like(logits)
    compiled, images = OpenVINONetwork(model, FP32), torch.rand(shape)
    with torch.no_grad():
        expected = model(images)
    torch.testing.assert_close(compiled(images), expected, rtol=1e-4, atol=1e-5)


def test_predictions_are_the_same_in_either_runtime(trained_like):
    pytest.importorskip("openvino")
    model = trained_like()
    images = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
    for compute in (FP32, BF16):
        one, other = (
            torch.stack(list(predict(for_frames(model, compute, runtime), images, compute, 2)))
            for runtime in ("torch", "openvino")
        )
        if compute == FP32:
            torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
        else:  # bf16 has eight bits; OpenVINO computes in float32 where the CPU has no bf16
            assert (one - other).abs().mean() < 0.1 * one.std()


def test_the_weights_are_fixed_at_compilation(trained_like):
    pytest.importorskip("openvino")
    model, images = trained_like(), torch.rand(1, 3, 32, 32)
    compiled = OpenVINONetwork(model, FP32)
    before = compiled(images)
    torch.nn.init.zeros_(model.output.weight)
    assert torch.equal(compiled(images), before)


def test_a_size_that_is_not_a_multiple_of_16_is_refused_as_by_the_network(trained_like):
    pytest.importorskip("openvino")
    compiled = OpenVINONetwork(trained_like(), FP32)
    with pytest.raises(ValueError, match="height is 40, not a multiple of 16"):
        compiled(torch.zeros(1, 3, 40, 32))


def test_threads_may_share_a_network(trained_like):
    pytest.importorskip("openvino")
    compiled, frames = OpenVINONetwork(trained_like(), FP32), torch.rand(8, 3, 32, 32)
    expected = compiled(frames)

    def one(index):
        with threads_for(compiled):
            return compiled(frames[index : index + 1])

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(one, [*range(8)] * 10))
    torch.testing.assert_close(torch.cat(found[:8]), expected, rtol=1e-4, atol=1e-5)


def test_each_thread_gets_its_thread_count_back_whichever_leaves_first(trained_like):
    pytest.importorskip("openvino")
    compiled, together = OpenVINONetwork(trained_like(), FP32), threading.Barrier(2, timeout=60)

    def enter_and_leave(turn):
        found = [torch.get_num_threads()]
        together.wait()
        with threads_for(compiled), threads_for(compiled):  # the inner one does nothing
            found.append(torch.get_num_threads())
            together.wait()
            if turn:
                together.wait()  # for the other to have left
        found.append(torch.get_num_threads())
        if not turn:
            together.wait()
        return found

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(enter_and_leave, [0, 1])) == [[2, 1, 2], [2, 1, 2]]
    torch.set_num_threads(before)


FREED_IN_ORDER = """
import faulthandler, gc, os, signal
from polyp_utils.common.device import get_compute
from polyp_utils.model.unet import UNet
from polyp_utils.deploy.openvino import OpenVINONetwork
faulthandler.enable()
signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
networks = [OpenVINONetwork(UNet(3, 3, 4).eval(), get_compute("cpu")) for _ in range(3)]
while networks:
    del networks[0]
    gc.collect()
    os.kill(os.getpid(), signal.SIGUSR1)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="signal stacks as on Linux")
def test_networks_may_be_freed_in_any_order_before_a_signal():
    pytest.importorskip("openvino")
    done = subprocess.run([sys.executable, "-c", FREED_IN_ORDER], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "handled\n" * 3), done.stderr


def test_no_frames_give_no_logits(trained_like):
    pytest.importorskip("openvino")
    assert OpenVINONetwork(trained_like(), FP32)(torch.rand(0, 3, 32, 48)).shape == (0, 3, 32, 48)


def test_a_missing_package_is_reported_from_another_process():
    error = pickle.loads(pickle.dumps(ExtraError("openvino", "fast")))
    assert str(error) == str(ExtraError("openvino", "fast"))


def test_pytorch_uses_one_thread_while_openvino_computes(trained_like):
    pytest.importorskip("openvino")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    with threads_for(trained_like()):
        assert torch.get_num_threads() == 2
    with threads_for(OpenVINONetwork(trained_like(), FP32)):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


def test_auto_uses_openvino_where_it_is_installed_and_faster(monkeypatch, trained_like):
    pytest.importorskip("openvino")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert isinstance(for_frames(trained_like(), BF16), OpenVINONetwork)
    assert isinstance(for_frames(trained_like(), FP32), OpenVINONetwork)
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    assert isinstance(for_frames(trained_like(), BF16), UNet)


def test_without_openvino_auto_uses_pytorch(monkeypatch, trained_like):
    monkeypatch.setitem(sys.modules, "openvino", None)
    frozen, images = for_frames(trained_like(), FP32), torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(frozen(images), fold_batch_norm(trained_like())(images))
    with pytest.raises(ExtraError, match="openvino is not installed: uv sync --extra fast"):
        for_frames(trained_like(), FP32, "openvino")


def test_wrong_names_and_devices_are_refused(trained_like):
    with pytest.raises(ValueError, match="unknown runtime 'opnvino': did you mean 'openvino'"):
        for_frames(trained_like(), FP32, "opnvino")
    gpu = Compute(torch.device("cuda"), torch.float32)
    with pytest.raises(ValueError, match="is for the CPU, not cuda"):
        for_frames(trained_like(), gpu, "openvino")
