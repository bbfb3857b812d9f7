"""Atomic writes: no file is ever lost or left half-written."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside ``path``; renames it at the end, removes it on error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)  # the user's default: safetensors makes its files private
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes text, atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Writes indented JSON, atomically."""
    write_text(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")


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
    """
    import pandas as pd  # see `write_csv`

    header = pd.read_csv(path, nrows=0)
    empty = {str(name): [""] for name in header if name not in texts}
    types = dict.fromkeys(texts, str)
    return pd.read_csv(path, dtype=types, keep_default_na=False, na_values=empty)
