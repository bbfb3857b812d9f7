"""The commands that faults hit: small runs of the verbs, each from a folder that is put back.

The folder holds twelve phantoms as files, so that they can be moved and damaged.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from polyp_utils.data.dataset import PolypDataset
from polyp_utils.data.phantom import draw_phantom
from polyp_utils.data.split import Split
from polyp_utils.faults.children import wait_at
from polyp_utils.faults.digest import tensor_hash
from polyp_utils.faults.inject import Fault, install
from polyp_utils.publish.tables import DOCUMENTS

FRAMES = "data/frames"  # the data set, as commands name it
RUN = "small"
SIZE = 32  # network input side in pixels
_COUNTS = {"train": 8, "val": 2, "test": 2}
TRAIN = ["train", "--dataset", FRAMES, "--split", "data/split.csv", "--name", RUN]
TRAIN += ["--image-size", str(SIZE), "--width", "4", "--epochs", "2", "--batch-size", "4"]
TRAIN += ["--lr", "0.01", "--ema-decay", "0.9", "--device", "cpu", "--precision", "fp32"]
_PREDICT = ["predict", FRAMES + "/images", "--out", "out", "--weights", f"results/{RUN}"]
_PREDICT += ["--device", "cpu"]
_DOCUMENT = "# Tables\n\n<!-- table: {} -->\n\n<!-- end -->\n"


@dataclass(frozen=True)
class Command:
    """A command, and the one whose results it starts from.

    Attributes:
        name: for tables.
        words: of the command line; none: the data set is opened, and its hashes are printed.
        after: name of the command before it; empty: it starts from the data alone.
        under: the folder whose changes are disturbed.
    """

    name: str
    words: tuple[str, ...] = ()
    after: str = ""
    under: str = ""


def _open_cache() -> int:
    dataset = PolypDataset(FRAMES, SIZE)
    print(*(tensor_hash(part) for part in (dataset.images, dataset.masks, dataset.sizes)))
    return 0


COMMANDS = {
    command.name: command
    for command in (
        Command("cache", under="cache"),
        Command("train", (*TRAIN,), after="cache"),
        Command("evaluate", ("evaluate", "--run", RUN), after="train"),
        Command("predict", (*_PREDICT,), after="train"),
        Command("publish", ("publish", "--run", RUN), after="evaluate"),
        Command("report", ("report",), after="publish"),
    )
}


class Workspace:
    """A folder in which commands run, each from its own state.

    Attributes:
        path: the folder; always the same, as caches depend on it.
    """

    def __init__(self, folder: Path, main: Callable[[list[str]], int]) -> None:
        self.path, self._kept = folder / "work", folder / "states"
        self._main = main
        self._make()
        self.keep("")

    def _make(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        for name in ("images", "masks"):
            (self.path / FRAMES / name).mkdir(parents=True)
        ids = [f"frame-{index:02}" for index in range(sum(_COUNTS.values()))]
        for index, frame_id in enumerate(ids):
            for name, pixels in zip(("images", "masks"), draw_phantom(index), strict=True):
                image = Image.fromarray(pixels).resize((64, 48), Image.Resampling.NEAREST)
                image.save(self.path / FRAMES / name / f"{frame_id}.png")
        ends = [sum(list(_COUNTS.values())[:k]) for k in range(4)]
        parts = (tuple(ids[start:end]) for start, end in itertools.pairwise(ends))
        (self.path / "data/split.csv").write_text(Split("split", *parts).to_csv())
        for name in ("notebooks", "polyp_utils", "results/published"):
            (self.path / name).mkdir(parents=True)  # what makes it the repository, see `repo_root`
        for number, name in enumerate(DOCUMENTS):
            table = ("recipes", "settings", "splits")[number % 3]
            (self.path / name).write_text(_DOCUMENT.format(table))

    def keep(self, state: str) -> None:
        """Keeps the folder as it is, under a name."""
        kept = self._kept / f"after-{state}"
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(self.path, kept)

    def state(self, name: str) -> Path:
        """The folder as it was kept under a name."""
        return self._kept / f"after-{name}"

    def put_back(self, state: str) -> None:
        """Makes the folder what it was under that name, with the same times of its files."""
        shutil.rmtree(self.path, ignore_errors=True)  # but for a disk that is mounted there
        shutil.copytree(self.state(state), self.path, dirs_exist_ok=True)

    def work(
        self, command: Command, fault: Fault | None = None, pause_at: int = -1
    ) -> Callable[[], int]:
        """What a child does to run a command here; its changes are listed in ``changes.txt``.

        It waits before the change of number ``pause_at``, see `wait_at`.
        """

        def run() -> int:
            numbers = itertools.count()
            torch.set_num_threads(1)  # renews PyTorch's pool, which two threads must not do at once
            os.chdir(self.path)
            os.environ |= {
                "POLYP_DATA": "data",
                "POLYP_RESULTS": "results",
                "POLYP_CACHE": "cache",
                "CUDA_VISIBLE_DEVICES": "",
            }

            def seen(what: str, path: str) -> None:
                os.write(log, f"{what} {path}\n".encode())
                if next(numbers) == pause_at:
                    wait_at(self.pause)

            log = os.open(self.changes, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            install(
                self.path,
                self.path / command.under if command.under else self.path,
                fault,
                seen,
            )
            return self._main([*command.words]) if command.words else _open_cache()

        return run

    @property
    def changes(self) -> Path:
        """The list of a child's changes, a line each: what, and to which file."""
        return self._kept.parent / "changes.txt"

    @property
    def pause(self) -> Path:
        """The file that a waiting child makes."""
        return self._kept.parent / "paused"

    @property
    def output(self) -> Path:
        """What a child said."""
        return self._kept.parent / "output.txt"
