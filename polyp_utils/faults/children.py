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


def run_forked(work: Callable[[], int], output: Path, kill_after: float = 0) -> Ended:
    """Runs a function in a fork of this process, which must have one thread only.

    Args:
        work: returns the exit code.
        output: file for what the child says, stdout and stderr.
        kill_after: seconds after which it is killed; 0: never.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    start = time.perf_counter()
    child = os.fork()
    if not child:
        _be_child(work, output)
    if kill_after:
        time.sleep(kill_after)  # a child that has ended by then waits for its parent
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    seconds = time.perf_counter() - start
    return Ended(os.waitstatus_to_exitcode(status), output.read_text(errors="replace"), seconds)


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
