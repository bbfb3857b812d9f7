"""A small file system in memory, where this machine lets one be mounted."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

_ROOM = 2**28  # bytes, while nothing is disturbed


class Disk:
    """A file system of its own; see `mounted`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def leave(self, free: int) -> None:
        """Leaves so many bytes free."""
        there = os.statvfs(self._path)
        used = (there.f_blocks - there.f_bfree) * there.f_frsize
        self._remount(f"size={used + free + 1}")

    def close(self) -> None:
        """Makes it read-only."""
        self._remount("ro")

    def open(self) -> None:
        """Makes it large and writable."""
        self._remount(f"rw,size={_ROOM}")

    def _remount(self, options: str) -> None:
        _run("mount", "-o", f"remount,{options}", str(self._path))


@contextlib.contextmanager
def mounted(path: Path) -> Iterator[Disk | None]:
    """Mounts a file system over an existing folder; None where that is not allowed."""
    try:
        _run("mount", "-t", "tmpfs", "-o", f"size={_ROOM}", "tmpfs", str(path))
    except (OSError, subprocess.CalledProcessError):
        yield None
        return
    try:
        yield Disk(path)
    finally:
        _run("umount", str(path))


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)
