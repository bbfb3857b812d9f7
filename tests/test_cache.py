"""The cache file: readable by safetensors, may be larger than memory, written once."""

import os
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from polyp_utils.data.cache import Rows, open_map, write_rows
from polyp_utils.data.catalog import CATALOG
from polyp_utils.data.dataset import PolypDataset
from polyp_utils.data.parts import load_parts
from polyp_utils.data.splits import load_split

COUNT = 7


@pytest.fixture
def rows():
    """Seven rows of two tensors of different shape and type, one of them not contiguous."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (COUNT, 4, 3, 5), dtype=torch.uint8, generator=generator)
    sizes = torch.randint(0, 2**40, (COUNT, 2), generator=generator)
    return [{"images": i.movedim(-1, 0), "sizes": s} for i, s in zip(images, sizes, strict=True)]


@pytest.fixture
def file(rows, tmp_path):
    path = tmp_path / "cache/set.safetensors"
    write_rows(path, iter(rows), COUNT, {"fingerprint": "abc"})
    return path


def stacked(rows):
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def test_safetensors_and_the_map_read_what_was_written(rows, file):
    tensors, metadata = open_map(file)
    assert metadata == {"fingerprint": "abc"}
    for read in (tensors, load_file(file)):
        assert read.keys() == {"images", "sizes"}
        for name, expected in stacked(rows).items():
            assert read[name].dtype == expected.dtype
            assert torch.equal(read[name], expected)


def test_a_changed_tensor_changes_nothing_on_disk(rows, file):
    content = file.read_bytes()
    tensors, _ = open_map(file)
    tensors["images"][2] = 0
    assert file.read_bytes() == content
    assert torch.equal(open_map(file)[0]["images"], stacked(rows)["images"])


@pytest.mark.parametrize("count", [COUNT - 1, COUNT + 1])
def test_another_number_of_rows_leaves_no_file(rows, tmp_path, count):
    with pytest.raises(ValueError, match="zip"):
        write_rows(tmp_path / "set.safetensors", rows, count, {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "sysconf"), reason="cannot tell how much memory there is")
def test_a_file_larger_than_memory_opens(file, tmp_path):
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    side = 2**15
    count = 3 * memory // side**2 // 2 + 1  # swap may add to memory
    path = tmp_path / "sparse.safetensors"
    write_rows(path, ({"images": torch.zeros(side, dtype=torch.uint8)} for _ in "a"), 1, {})
    content = path.read_bytes()
    offset = len(content) - side
    header = content[8:offset].replace(b"[1, ", b"[%d, %d, " % (count, side))
    header = header.replace(b"[0, %d]" % side, b"[0, %d]" % (count * side**2))
    with path.open("wb") as sparse:
        sparse.write(len(header).to_bytes(8, "little") + header)
        sparse.truncate(8 + len(header) + count * side**2)
    images = open_map(path)[0]["images"]
    assert images.nbytes > memory
    assert images[-1, -1].sum() == 0


def test_rows_equal_those_of_the_tensor():
    tensor = torch.arange(300, dtype=torch.int64).view(100, 3)
    chosen = torch.randperm(100, generator=torch.Generator().manual_seed(1))[:90]
    rows = Rows(tensor, chosen)
    assert len(rows) == 90
    assert rows[torch.tensor([5, 0])].tolist() == [
        [3 * int(chosen[i]) + k for k in range(3)] for i in (5, 0)
    ]
    assert torch.equal(rows.to(torch.device("cpu")), tensor[chosen])
    assert Rows(tensor, chosen[:0]).to(torch.device("cpu")).shape == (0, 3)


# Where the parts of a split lie


@pytest.mark.parametrize(("spare", "kind"), [(0, torch.Tensor), (-1, Rows)])
def test_half_of_the_free_memory_decides(monkeypatch, spare, kind):
    dataset, split = PolypDataset("phantom", 32), load_split("phantom-240").limited(10)
    free = 2 * 360 * 32 * 32 * 4 + spare
    monkeypatch.setattr("polyp_utils.data.parts.free_memory", lambda device: free)
    parts = load_parts(dataset, split, torch.device("cpu"))
    for part, data in parts.items():
        assert isinstance(data.images, kind)
        assert isinstance(data.masks, kind)
        rows = dataset.rows(split.part(part))
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(2))
        images, masks = data.batch(order)
        torch.testing.assert_close(images * 255, dataset.images[rows[order]].float())
        assert torch.equal(masks, dataset.masks[rows[order]])


def test_on_the_cpu_nothing_is_copied():
    dataset = PolypDataset("phantom", 32)
    parts = load_parts(dataset, load_split("phantom-240"), torch.device("cpu"))
    assert all(data.images.tensor is dataset.images for data in parts.values())


# Several processes

OPEN = """
import os, sys, time
from dataclasses import replace
from pathlib import Path

from polyp_utils.data import dataset
from polyp_utils.data.catalog import CATALOG

folder, processes, pause = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
CATALOG["phantom"] = replace(CATALOG["phantom"], count=4)
decode_all = dataset._decode_all

def slowly(*arguments):
    for frame in decode_all(*arguments):
        yield frame
        (folder / f"decodes-{os.getpid()}").touch()
        time.sleep(pause)

dataset._decode_all = slowly
(folder / f"ready-{os.getpid()}").touch()
while len(list(folder.glob("ready-*"))) < processes:
    time.sleep(0.01)
print(int(dataset.PolypDataset("phantom", 32).images.long().sum()))
"""


def start(folder, processes=1, pause=0.2):
    words = [sys.executable, "-c", OPEN, str(folder), str(processes), str(pause)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """A separate cache folder, and only four phantoms."""
    monkeypatch.setenv("POLYP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(CATALOG, "phantom", replace(CATALOG["phantom"], count=4))
    return tmp_path / "cache"


def test_one_of_several_processes_that_start_together_decodes(tmp_path, own_cache):
    processes = [start(tmp_path, processes=3) for _ in range(3)]
    sums = [int(process.communicate()[0].split()[-1]) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert len(list(tmp_path.glob("decodes-*"))) == 1
    assert len(list(own_cache.iterdir())) == 1
    assert sums == [int(PolypDataset("phantom", 32).images.long().sum())] * 3


def test_leftovers_of_a_killed_process_are_not_mistaken_for_a_cache(tmp_path, own_cache):
    with start(tmp_path, pause=60) as process:
        while not list(tmp_path.glob("decodes-*")):
            assert process.poll() is None, "it ended before it decoded"
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    (left,) = own_cache.glob(".*.tmp")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images = PolypDataset("phantom", 32).images
    assert all(image.any() for image in images)
    assert not left.exists()
    assert len(list(own_cache.iterdir())) == 1
