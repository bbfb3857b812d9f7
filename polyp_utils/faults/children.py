"""Runs a function in a child process that may be killed, without the seconds that imports take."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


class Ended(NamedTuple):
    """How a child ended: its exit code (negative: the signal), what it said, seconds."""

    code: int
    said: str
    seconds: float


def run_forked(
    work: Callable[[], int],
    output: Path,
    kill_after: float = 0,
    pause: Path | None = None,
    deed: Callable[[], None] = lambda: None,
) -> Ended:
    """Runs a function in a fork of this process, which must have one thread only.

    Args:
        work: returns the exit code.
        output: file for what the child says, stdout and stderr.
        kill_after: seconds after which it is killed; 0: never.
        pause: file that the child makes when it waits, until the file is gone; see `wait_at`.
        deed: what to do while it waits.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    start = time.perf_counter()
    child = os.fork()
    if not child:
        _be_child(work, output)
    status = _await(child, pause) if pause else None
    if pause and status is None:
        deed()
        pause.unlink()
    if kill_after:
        time.sleep(kill_after)  # a child that has ended by then waits for its parent
        os.kill(child, signal.SIGKILL)
    if status is None:
        _, status = os.waitpid(child, 0)
    seconds = time.perf_counter() - start
    return Ended(os.waitstatus_to_exitcode(status), output.read_text(errors="replace"), seconds)


def wait_at(pause: Path) -> None:
    """Waits, in a child, until its parent has done what it does meanwhile."""
    pause.touch()
    while pause.exists():
        time.sleep(0.002)


def _await(child: int, pause: Path) -> int | None:
    """Waits until a child pauses; its status if it ends before."""
    while not pause.exists():
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status
        time.sleep(0.002)
    return None


def _be_child(work: Callable[[], int], output: Path) -> None:
    code = 70
    try:
        file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
        code = work()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)
