"""What else may be wrong with a machine: caches, clocks, moved data, a second process.

Each is done before a command or while it waits amid its changes; it must then end ``equal`` to an
undisturbed one, or be ``refused`` in one line and change nothing.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from polyp_utils.data.cache import write_rows
from polyp_utils.faults.children import run_forked
from polyp_utils.faults.commands import COMMANDS, FRAMES
from polyp_utils.faults.digest import changed_files, digest
from polyp_utils.faults.trial import EQUAL, Trials, complaint, last_line

REFUSED = "refused"
_AMID = (0.25, 0.5, 0.75)  # shares of a command's changes
_OLD, _FUTURE = 365 * 86400, 130 * 365 * 86400  # seconds since 1970


class State(NamedTuple):
    """A state of the machine.

    Attributes:
        deed: what is done to the workspace; its name says what.
        commands: those that suffer it.
        amid: while they run, else before.
        expected: `EQUAL` or `REFUSED`.
        start: the command from whose results they start; empty: as usual.
    """

    deed: Callable[[Path], None]
    commands: tuple[str, ...]
    amid: bool
    expected: str = EQUAL
    start: str = ""


def _cache_file(work: Path) -> Path:
    return next((work / "cache").glob("*.safetensors"))


def cache_removed(work: Path) -> None:
    """The cache folder is gone, as after a clean-up."""
    shutil.rmtree(work / "cache")


def cache_cut(work: Path) -> None:
    """The cache file ends in its middle."""
    path = _cache_file(work)
    os.truncate(path, path.stat().st_size // 2)


def cache_header_damaged(work: Path) -> None:
    """The first bytes of the cache file are zero."""
    with _cache_file(work).open("r+b") as file:
        file.write(bytes(64))


def cache_of_an_older_version(work: Path) -> None:
    """The cache file holds other tensors, and no fingerprint."""
    rows = ({"images": torch.zeros(3, 16, 16, dtype=torch.uint8)} for _ in range(5))
    write_rows(_cache_file(work), rows, 5, {})


def cache_is_a_file(work: Path) -> None:
    """A file is where the cache folder should be."""
    cache_removed(work)
    (work / "cache").touch()


def clock_set_back(work: Path) -> None:
    """All files are of the future."""
    _date(work, _FUTURE)


def clock_set_ahead(work: Path) -> None:
    """All files are of 1971."""
    _date(work, _OLD)


def data_moved(work: Path) -> None:
    """The data lie elsewhere, behind a link, with new times."""
    elsewhere = work.parent / "elsewhere" / Path(FRAMES).name  # which is the title in run cards
    shutil.copytree(work / FRAMES, elsewhere, copy_function=shutil.copyfile)
    shutil.rmtree(work / FRAMES)
    (work / FRAMES).symlink_to(elsewhere)


def data_changed(work: Path) -> None:
    """One mask is turned upside down."""
    path = work / FRAMES / "masks/frame-10.png"
    Image.fromarray(np.flipud(np.array(Image.open(path)))).save(path)


def data_gone(work: Path) -> None:
    """The data are not there."""
    shutil.rmtree(work / FRAMES)


def split_changed(work: Path) -> None:
    """A frame of the training part has become one of the test part."""
    path = work / "data/split.csv"
    path.write_text(path.read_text().replace("frame-00,train", "frame-00,test"))


def second_process(work: Path) -> None:
    """The same command is given a second time while the first one runs."""


_READERS = ("train", "evaluate", "publish")
STATES = (
    *(State(d, _READERS, False) for d in (cache_removed, cache_cut, cache_header_damaged)),
    *(State(d, _READERS, False) for d in (cache_of_an_older_version, cache_is_a_file)),
    *(State(d, _READERS, True) for d in (cache_removed, cache_of_an_older_version, cache_cut)),
    *(State(d, (*_READERS, "predict"), amid) for d in (clock_set_back, clock_set_ahead)
      for amid in (False, True)),
    State(data_moved, ("evaluate", "publish"), False),
    State(data_changed, ("evaluate", "publish"), False, REFUSED),
    State(data_changed, ("train",), False, REFUSED, start="train"),
    State(data_gone, ("evaluate", "publish"), False, REFUSED),
    State(split_changed, ("evaluate", "publish"), False),  # a run keeps its own
    State(split_changed, ("train",), False, REFUSED, start="train"),
    State(second_process, ("train", "predict", "evaluate", "publish", "report"), True),
)  # fmt: skip


def all_states(trials: Trials) -> Iterator[dict[str, Any]]:
    """The rows of the part ``states``, without what came of them."""
    names = {command.name for command in trials.commands}
    for state in STATES:
        for command in (name for name in state.commands if name in names):
            for amid in _AMID if state.amid else (0.0,):
                key = {"command": command, "fault": state.deed.__name__.replace("_", " ")}
                yield key | {"share": amid, "expected": state.expected}


def suffer_state(trials: Trials, row: dict[str, Any]) -> dict[str, Any]:
    """Brings a state about; returns the row with what came of it."""
    name, amid = row["fault"].replace(" ", "_"), float(row["share"])
    (state,) = (
        state
        for state in STATES
        if (state.deed.__name__, state.amid) == (name, amid > 0)
        and row["command"] in state.commands
    )
    workspace, command = trials.workspace, COMMANDS[row["command"]]
    shutil.rmtree(workspace.path.parent / "elsewhere", ignore_errors=True)
    workspace.put_back(state.start or command.after)
    reference, said = trials.references[command.name], []

    def deed() -> None:
        state.deed(workspace.path)
        if state.deed is second_process:
            second = run_forked(workspace.work(command), workspace.output.with_name("second.txt"))
            said.append(last_line(second.said, workspace.path))
            if second.code not in (0, 2) or (second.code == 2 and complaint(second.said)):
                said.append(f"the second process ended with {second.code}")

    if state.amid:
        at = int(amid * len(reference.changes))
        work = workspace.work(command, pause_at=at)
        ended = run_forked(work, workspace.output, pause=workspace.pause, deed=deed)
    else:
        deed()
        before = digest(workspace.path)
        ended = run_forked(workspace.work(command), workspace.output)
    wrong = said[1:]
    if state.expected == REFUSED:
        if ended.code != 2 or complaint(ended.said):
            wrong.append(f"ended with {ended.code}: {last_line(ended.said, workspace.path)}")
        changed = [name for name in changed_files(before, digest(workspace.path)) if _counts(name)]
        wrong += [f"changed: {', '.join(changed)}"] if changed else []
    else:
        if ended.code < 0:  # the system killed it: the same command must do
            ended = ended._replace(said=f"killed by signal {-ended.code}")
            again = run_forked(workspace.work(command), workspace.output)
            wrong += [f"the same command fails: {again.said[-200:]}"] if again.code else []
        elif ended.code:
            wrong.append(f"ended with {ended.code}")
        different = changed_files(digest(workspace.path), reference.files)
        different = [name for name in different if _counts(name)]
        wrong += [f"differs: {', '.join(different)}"] if different else []
    told = said or [last_line(ended.said, workspace.path)]
    words = told[0] if said or ended.code else ""
    return row | {"ended": ended.code, "said": words, "outcome": "; ".join(wrong) or state.expected}


def _counts(name: str) -> bool:
    """Whether a file is a result: not one of the data or the cache, which the state changes."""
    return not name.startswith(("cache", "data/"))


def _date(work: Path, seconds: int) -> None:
    for path in work.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # a thread may just have renamed it
            os.utime(path, (seconds, seconds))
