"""A data set larger than what a process may allocate: decoded, trained on, validated, predicted.

The cap is RLIMIT_DATA, with which the kernel refuses to hand out memory: heap, anonymous maps,
stacks. (RLIMIT_AS counts libraries too, RLIMIT_RSS does nothing on Linux, and a control group needs
rights that not every user has.) It is set when all is imported, to CAP more than the process has
then. Training takes most of that, so that a copy of even the third that is trained on is refused.
It also counts the cache's map, whole, as that is private and writable, though none of it is memory
of the process: so the file's size is added when it is mapped, and not before.
"""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from polyp_utils.common.config import RunConfig
from polyp_utils.common.device import get_compute
from polyp_utils.data import cache, dataset, phantom
from polyp_utils.data.catalog import CATALOG
from polyp_utils.data.labels import get_scheme
from polyp_utils.train.fit import fit
from polyp_utils.train.learner import Learner

COUNT, SIDE = 5000, 112
SET = COUNT * SIDE * SIDE * 4  # bytes of images and masks: 251 MB
CAP = SET // 2


@pytest.mark.skipif(sys.platform != "linux", reason="caps memory as Linux can")
def test_5000_frames_under_half_their_size_of_memory(tmp_path):
    environment = {
        **os.environ,
        "POLYP_CACHE": str(tmp_path / "cache"),
        "POLYP_RESULTS": str(tmp_path),
        "OMP_NUM_THREADS": "1",  # small tensors need no more, and a stack of 8 MB each counts
    }
    done = subprocess.run(
        [sys.executable, __file__], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (file,) = (tmp_path / "cache").iterdir()
    assert file.stat().st_size > SET
    (run,) = tmp_path.glob("quick-*")
    history = pd.read_csv(run / "history.csv")
    assert np.isfinite(history[["train_loss", "val_loss"]]).all(axis=None)
    assert len(list((run / "predictions/test").iterdir())) == 267


def main():
    """What the process under the cap does."""
    draw_quickly()
    split = pd.DataFrame({"id": [f"phantom-{i:04d}" for i in range(0, COUNT, 3)], "part": "train"})
    split.loc[1200:, "part"] = "val"
    split.loc[1400:, "part"] = "test"
    split.to_csv("split.csv", index=False)
    settings = {"image_size": SIDE, "width": 2, "epochs": 1, "batch_size": 4}
    settings |= {"device": "cpu", "precision": "fp32"}
    config = RunConfig.from_recipe("quick", split="split.csv", **settings)
    os.cpu_count = lambda: 2  # threads that decode: their stacks count too
    Learner(config, get_scheme(config.scheme), get_compute("cpu", "fp32"))  # its imports
    allocated, open_map = data_bytes(), cache.open_map

    def open_map_beside_the_cap(path):
        cap(allocated + CAP + path.stat().st_size)
        return open_map(path)

    dataset.open_map = open_map_beside_the_cap
    cap(allocated + CAP)
    fit(config)
    images = dataset.PolypDataset("phantom", SIDE).images
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        images.clone()  # the cap works: the set does not fit into memory


def draw_quickly():
    """5,000 different phantoms from 16 drawings, each moved by its index: to draw takes 40 ms.

    Every second pixel, so that resizing takes little time.
    """
    drawings = [[p[::2, ::2] for p in phantom.draw_phantom(index)] for index in range(16)]
    phantom.draw_phantom = lambda index: tuple(
        np.roll(p, index, axis=1) for p in drawings[index % 16]
    )
    CATALOG["phantom"] = replace(CATALOG["phantom"], count=COUNT)


def data_bytes():
    """What RLIMIT_DATA counts."""
    status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(status["VmData"].split()[0])


def cap(limit):
    import resource

    resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.RLIM_INFINITY))


if __name__ == "__main__":
    main()
