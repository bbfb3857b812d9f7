"""Atomic writes: no file is ever lost or left half-written."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polyp_utils.common.exceptions import RunError, WriteError

if TYPE_CHECKING:
    import pandas as pd


_LONGEST = 230  # bytes of a name; file systems take 255, with what `atomic` adds
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CLOSED = (errno.EROFS, errno.EACCES, errno.EPERM)


def disk_refusal(error: OSError, path: Path) -> WriteError | None:
    """What to say if the disk is full or a folder cannot be written; None: it is another error."""
    if error.errno in _FULL:
        cure = "free some space"
    elif error.errno in _CLOSED:
        cure = "make its folder writable or name another one"
    else:
        return None
    return WriteError(
        f"{path} cannot be written ({error.strerror}): {cure}, then give the same command again; "
        "what was finished is kept"
    )


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Around what writes a file or fills a folder: says what the disk refused, and what to do.

    Raises:
        WriteError: the disk is full, or the folder cannot be written.
    """
    try:
        yield
    except WriteError:
        raise
    except Exception as error:
        found: BaseException = error
        while not isinstance(found, OSError) and found.__context__:  # PyTorch hides the system's
            found = found.__context__
        if not isinstance(found, OSError):
            raise
        whole = path.absolute()
        seen = Path(path if found.filename is None else os.fsdecode(found.filename)).absolute()
        ours = whole.is_relative_to(seen) or seen.is_relative_to(whole)
        if not ours and not seen.name.startswith(f".{_short(path)}."):
            raise  # of a file that was read
        if said := disk_refusal(found, path):
            raise said from error
        raise


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside ``path``; renames it at the end, removes it on error.

    Raises:
        WriteError: see `writing`.
    """
    temporary = path.with_name(f".{_short(path)}.{os.getpid()}.tmp")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.unlink(missing_ok=True)
            temporary.touch(exist_ok=False)  # never through a link that others put there
            mode = temporary.stat().st_mode
            yield temporary
            temporary.chmod(mode)  # the user's default, whatever a library made of it
            os.replace(temporary, path)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def _short(path: Path) -> str:
    """The file's name, or a hash of one that leaves no room for what `atomic` adds."""
    name = os.fsencode(path.name)
    return path.name if len(name) <= _LONGEST else hashlib.sha256(name).hexdigest()[:16]


def remove_leftovers(paths: Iterable[Path]) -> None:
    """Removes the temporary files (``.*.tmp``) of `atomic` whose process was killed."""
    for path in paths:
        if not _is_running(path.suffixes[-2:][0].removeprefix(".")):
            with contextlib.suppress(OSError):  # Windows keeps files that are open
                path.unlink()


def _is_running(process: str) -> bool:
    if os.name == "nt" or not process.isdecimal():  # there, os.kill(…, 0) kills
        return False
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def write_text(path: Path, text: str) -> None:
    """Writes text, atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Writes indented JSON, atomically."""
    write_text(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def refuse_links(folder: Path) -> None:
    """Refuses a folder with links in it: what is written there could land elsewhere.

    Raises:
        RunError: there is a link below it.
    """
    for root, folders, names in os.walk(folder):
        for path in (Path(root, name) for name in (*folders, *names)):
            if path.is_symlink():
                raise RunError(
                    f"{path} is a link to {os.readlink(path)}, and nothing is written or published "
                    "through links: put a copy in its place, or remove it"
                )


def write_csv(path: Path, table: pd.DataFrame | list[dict[str, Any]]) -> None:
    """Writes a table or its rows, atomically: no index, floats with six significant digits."""
    import pandas as pd  # slow, and the first training step does not need it

    with atomic(path) as temporary:
        pd.DataFrame(table).to_csv(temporary, index=False, float_format="%.6g")


def read_csv(path: Path, *texts: str) -> pd.DataFrame:
    """Reads a table of `write_csv`.

    Args:
        path: the file.
        texts: columns that stay text as it stands, such as ids: ``NA``, ``1e5``, ``001``. Empty
            cells of the others are NaN.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is no table, or its end is cut off.
    """
    import pandas as pd  # see `write_csv`

    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 1))
        if file.read() != b"\n":
            raise ValueError("its last row is cut off")
    header = pd.read_csv(path, nrows=0)
    empty = {str(name): [""] for name in header if name not in texts}
    types = dict.fromkeys(texts, str)
    return pd.read_csv(path, dtype=types, keep_default_na=False, na_values=empty)
