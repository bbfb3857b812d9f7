"""Counts what a process changes on disk, and makes one of these changes fail.

Python reports every file that it opens, renames or removes (`sys.addaudithook`); the writes between
are counted in the file object itself, which this module puts in the place of `open`'s. Libraries
that write by other means would escape it: in the commands of the campaign there are none.
"""

from __future__ import annotations

import builtins
import errno
import io
import itertools
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KILLED, FULL, READ_ONLY = "killed", "disk full", "read-only"
_ERRORS = {FULL: errno.ENOSPC, READ_ONLY: errno.EROFS}
_CHANGES = {"os.mkdir": "mkdir", "os.rename": "rename", "os.remove": "delete", "os.rmdir": "delete"}
_FOR_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_BUFFER = 2**26  # a file is one write, unless it is flushed in between
_BY_DESCRIPTOR = ("ImageFile.py", "shutil.py")  # write past the file object if they can


@dataclass(frozen=True)
class Fault:
    """A fault at one change of the disk.

    Attributes:
        kind: `KILLED`, `FULL` or `READ_ONLY`; the latter two last until the process ends.
        number: of the change at which it comes, from 0.
        middle: half of what this write should write is written first.
    """

    kind: str
    number: int
    middle: bool = False


def install(root: Path, under: Path, fault: Fault | None, seen: Callable[[str, str], None]) -> None:
    """Watches this process's changes below ``root`` from now on; there is no way back.

    Args:
        root: changes elsewhere are neither counted nor disturbed.
        under: only changes below it are; a part of ``root``, or ``root`` itself.
        fault: comes at the change of its number; None: none does.
        seen: is called with what is about to be done (create, write, mkdir, rename or delete), and
            to which file.
    """
    numbers = itertools.count()
    inside = str(under) + os.sep

    def change(what: str, path: str, half: Callable[[], object] = lambda: None) -> None:
        if not path.startswith(inside):
            return
        number = next(numbers)
        seen(what, os.path.relpath(path, root))
        if fault is None or number < fault.number:
            return
        if fault.middle and number == fault.number:
            half()
        if fault.kind == KILLED:
            os.kill(os.getpid(), signal.SIGKILL)
        if not (fault.kind == FULL and what == "delete"):
            code = _ERRORS[fault.kind]
            file = None if what == "write" else path
            raise OSError(code, os.strerror(code), file)

    def audit(event: str, values: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = values
            if flags & _FOR_WRITING and not isinstance(path, int) and not _is_empty(_text(path)):
                change("create", _text(path))
        elif what := _CHANGES.get(event):
            path = _text(values[1]) if what == "rename" else _text(values[0], values[-1])
            if what == "rename" or os.path.lexists(path) == (what == "delete"):
                change(what, path)  # else the system changes nothing

    class Raw(io.FileIO):
        """A file whose writes are counted."""

        def write(self, data: Any) -> int:
            content = memoryview(data).cast("B")
            write = super().write
            change("write", _text(self.name), lambda: write(content[: len(content) // 2]))
            return write(content)

        def fileno(self) -> int:
            if sys._getframe(1).f_code.co_filename.endswith(_BY_DESCRIPTOR):
                raise io.UnsupportedOperation("fileno")
            return super().fileno()

    original = io.open

    def counted(
        file: Any,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        closefd: bool = True,
        opener: Any = None,
    ) -> Any:
        if isinstance(file, int) or not set(mode) & set("wax+"):
            return original(file, mode, buffering, encoding, errors, newline, closefd, opener)
        raw = Raw(file, mode.replace("t", "").replace("b", ""), closefd, opener)
        if buffering == 0:
            return raw
        whole = (io.BufferedRandom if "+" in mode else io.BufferedWriter)(raw, _BUFFER)
        if "b" in mode:
            return whole
        text = io.TextIOWrapper(whole, encoding or "utf-8", errors, newline)
        text.mode = mode  # type: ignore[misc]
        return text

    io.open = builtins.open = counted  # type: ignore[assignment]
    sys.addaudithook(audit)


def _is_empty(path: str) -> bool:
    """Whether there is an empty file, which opening for writing does not change."""
    return os.path.isfile(path) and not os.path.getsize(path)


def _text(path: Any, folder: int = -1) -> str:
    """A path as text; ``folder``: descriptor of the folder that it is relative to, as Linux has."""
    place = os.readlink(f"/proc/self/fd/{folder}") if folder >= 0 else ""
    return os.path.abspath(os.path.join(place, os.fsdecode(path)))
