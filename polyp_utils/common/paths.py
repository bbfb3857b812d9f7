"""Where data, cache and results lie on disk; environment variables override the defaults."""

import glob
import os
import re
from pathlib import Path


def repo_root() -> Path:
    """The repository that contains the working folder, else the one that contains this file."""
    for start in (Path.cwd(), Path(__file__).resolve().parent):
        for folder in (start, *start.parents):
            if all((folder / name).is_dir() for name in ("notebooks", "polyp_utils")):
                return folder
    return Path.cwd()


def _folder(variable: str, default: Path) -> Path:
    value = os.environ.get(variable)
    return (repo_root() / Path(value).expanduser()).resolve() if value else default


def data_root() -> Path:
    """``POLYP_DATA`` (may be relative to the repository root), else ``data/`` in the repository."""
    return _folder("POLYP_DATA", repo_root() / "data")


def cache_root() -> Path:
    """``POLYP_CACHE``, else ``polyp_utils`` in the user's cache folder."""
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return _folder("POLYP_CACHE", user / "polyp_utils")


def results_root() -> Path:
    """``POLYP_RESULTS``, else ``results/`` in the repository."""
    return _folder("POLYP_RESULTS", repo_root() / "results")


def common_folder(*patterns: str) -> Path:
    """The deepest folder that holds all files that patterns match, see `glob`."""
    fixed = []
    for pattern in patterns:
        parts = []
        for part in Path(os.path.abspath(pattern)).parts:
            if glob.has_magic(re.sub(r"\[([*?[])\]", "", part)):
                break
            parts.append(re.sub(r"\[([*?[])\]", r"\1", part))  # undoes `glob.escape`
        folder = Path(*parts)
        fixed.append(folder.parent if folder.is_file() else folder)
    return Path(os.path.commonpath(fixed))
