"""One fault: a command is disturbed, then given again, and its folder is compared.

``outcome`` is ``equal`` if the folder then holds what an undisturbed run leaves, but for times, and
otherwise says what is wrong.
"""

from __future__ import annotations

import contextlib
import importlib
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from polyp_utils.common.exceptions import RunError
from polyp_utils.faults.children import Ended, run_forked
from polyp_utils.faults.commands import COMMANDS, Command, Workspace
from polyp_utils.faults.digest import changed_files, digest, unreadable
from polyp_utils.faults.disk import Disk
from polyp_utils.faults.inject import FULL, KILLED, READ_ONLY, Fault

EQUAL = "equal"
_GROWING = ("out/frames.csv", "out/components.csv", "out/unreadable.csv")  # see `apply.results`


class Reference(NamedTuple):
    """What a command does undisturbed.

    Attributes:
        changes: what it changes on disk, in order: what is done, and to which file.
        files: what the folder holds at the end, see `digest`.
        answer: its last line, where that is its result; empty for verbs, whose result is files.
        seconds: how long it takes.
        written: bytes that it adds to the folder.
    """

    changes: list[tuple[str, str]]
    files: dict[str, str]
    answer: str
    seconds: float
    written: int


class Trials:
    """Makes faults and says how they ended.

    Attributes:
        commands: those that are disturbed.
        workspace: where they run.
        references: by name, also of those that others start from.
    """

    def __init__(
        self, main: Callable[[list[str]], int], commands: Iterable[str], folder: Path
    ) -> None:
        """Runs the commands undisturbed, each twice: they must leave the same.

        Args:
            main: the command line.
            commands: names in `COMMANDS`.
            folder: for the work; may be removed afterwards.

        Raises:
            RunError: a command fails undisturbed, or does not repeat itself.
        """
        torch.set_num_threads(1)  # a process that has several cannot be forked
        sys.dont_write_bytecode = True
        self.commands = [COMMANDS[name] for name in commands]
        self.workspace = Workspace(folder, main)
        self.references: dict[str, Reference] = {}
        needed = {command.name for command in self.commands}
        for command in reversed(COMMANDS.values()):
            needed |= {command.after} if command.name in needed else set()
        for name in (name for name in COMMANDS if name in needed):
            self.references[name] = self._undisturbed(COMMANDS[name])

    def _undisturbed(self, command: Command) -> Reference:
        modules = self.workspace.path.parent / "modules.txt"

        def run_and_list() -> int:
            code = self.workspace.work(command)()
            modules.write_text("\n".join(sys.modules))
            return code

        found: list[dict[str, str]] = []
        for work in (run_and_list, self.workspace.work(command)):
            self.workspace.put_back(command.after)
            ended = run_forked(work, self.workspace.output)
            if ended.code:
                raise RunError(f"{command.name} fails without a fault: {ended.said[-500:]}")
            for name in modules.read_text().split("\n"):
                with contextlib.suppress(ImportError):  # before the fork, not in each child
                    importlib.import_module(name)
            lines = self.workspace.changes.read_text().splitlines()
            changes = [(what, _nameless(file)) for what, file in (x.split(" ", 1) for x in lines)]
            found.append(digest(self.workspace.path))
        if different := changed_files(*found):
            raise RunError(f"{command.name} does not repeat itself without a fault: {different}")
        self.workspace.keep(command.name)
        answer = ended.said.splitlines()[-1] if command.under else ""
        sizes = [_size(self.workspace.state(name)) for name in (command.name, command.after)]
        return Reference(changes, found[-1], answer, ended.seconds, sizes[0] - sizes[1])

    def suffer(self, row: dict[str, Any], disk: Disk | None = None) -> dict[str, Any]:
        """Makes a fault, gives the command again; returns the row with what came of it."""
        command, kind = COMMANDS[row["command"]], row["fault"]
        reference = self.references[command.name]
        self.workspace.put_back(command.after)
        if disk and kind == READ_ONLY:
            disk.close()
        elif disk:
            disk.leave(int(row["share"] * reference.written))
        if "seed" in row:
            ended, moment = self._kill_at_random(command, reference, row["seed"])
            row |= moment
        else:
            fault = Fault(kind, row["number"], row["middle"]) if "number" in row else None
            ended = run_forked(self.workspace.work(command, fault), self.workspace.output)
        return row | self.judge(command, reference, kind, ended, disk)

    def _kill_at_random(
        self, command: Command, reference: Reference, seed: int
    ) -> tuple[Ended, dict[str, float]]:
        """Kills a command at a moment drawn uniformly over its time; draws again if it was over."""
        random = np.random.default_rng(seed)
        while True:
            after = random.uniform(0, reference.seconds)
            ended = run_forked(self.workspace.work(command), self.workspace.output, after)
            if ended.code < 0:
                return ended, {"after": round(after, 4), "of": round(reference.seconds, 4)}
            self.workspace.put_back(command.after)

    def judge(
        self,
        command: Command,
        reference: Reference,
        kind: str,
        ended: Ended,
        disk: Disk | None = None,
    ) -> dict[str, Any]:
        """How a disturbed command ended, whether anything is lost, and what the next one makes."""
        work, files = self.workspace.path, reference.files
        wrong = [] if kind == KILLED else list(self._complaints(reference, kind, ended))
        before = digest(self.workspace.state(command.after))
        there = {path.relative_to(work).as_posix(): path for path in _files(work)}
        lost = sorted(name for name in before if name in files and name not in there)
        wrong += [f"lost: {', '.join(lost)}"] if lost else []
        for name, path in there.items():
            if not name.endswith(".tmp") and name not in _GROWING and (why := unreadable(path)):
                wrong.append(f"half-written: {name} ({why})")
        if disk:
            disk.open()
        again = run_forked(self.workspace.work(command), self.workspace.output)
        if again.code:
            wrong.append(f"the same command fails: {last_line(again.said, work)}")
        elif different := changed_files(digest(work), files):
            wrong.append(f"differs: {', '.join(map(_nameless, different))}")
        said = last_line(ended.said, work) if ended.code == 2 else ""
        return {"ended": ended.code, "said": said, "outcome": "; ".join(wrong) or EQUAL}

    def _complaints(self, reference: Reference, kind: str, ended: Ended) -> Iterator[str]:
        """What is wrong with a command's answer to a disk that refuses to be written."""
        work = self.workspace.path
        lines = ended.said.strip().splitlines()
        if "Traceback" in ended.said or ended.code not in (0, 2):
            yield f"ended with {ended.code}: {last_line(ended.said, work)}"
        elif ended.code == 2:
            yield from filter(None, [complaint(ended.said)])
        elif reference.answer:
            if lines[-1] != reference.answer:
                yield "another answer"
        elif missing := [
            name for name in changed_files(digest(work), reference.files) if name in reference.files
        ]:
            yield f"said nothing of {', '.join(missing)}"
        if kind == FULL and any(path.suffix == ".tmp" for path in _files(work)):
            yield "leaves temporary files"


def complaint(said: str) -> str:
    """What is wrong with the words of a command that refuses; empty: nothing is."""
    lines = said.strip().splitlines()
    if "Traceback" in said or [line.startswith("error: ") for line in lines].count(True) != 1:
        return "more than one line of error"
    named = re.match(r"error: \S+ .*: \w+", lines[-1])
    return "" if named else "the error names no file, or not what to do"


def last_line(said: str, folder: Path) -> str:
    """The last line of what was said, without the folder of the day."""
    lines = said.strip().splitlines() or [""]
    return _nameless(lines[-1].replace(f"{folder}/", ""))


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in _files(folder))


def _nameless(file: str) -> str:
    """A file's name without what differs between two processes or folders."""
    return re.sub(r"-[0-9a-f]{16}\b", "", re.sub(r"\.\d+\.tmp", ".tmp", file))
