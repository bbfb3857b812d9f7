"""Names of data sets in records: on this machine, and for others to read."""

import glob
from pathlib import Path

from polyp_utils.common.paths import common_folder, data_root, repo_root
from polyp_utils.data.catalog import CATALOG, get_info


def full_name(name: str) -> str:
    """A data set's name that holds wherever it is used: of the catalogue, or absolute paths.

    Raises:
        ValueError, FileNotFoundError: as in `get_info`.
    """
    info = get_info(name)
    return name if name in CATALOG else "::".join(info.patterns or info.folders)


def title_of(name: str) -> str:
    """A data set's title, whether it is on this machine or not."""
    place = common_folder(*name.split("::")) if "::" in name else Path(name)
    return CATALOG[name].title if name in CATALOG else place.name


def name_without_place(name: str) -> str:
    """A data set's name without the folders above it or above the data root, for other machines.

    Relative names stay as they are. It never becomes a name of the catalogue.
    """
    paths = name.split("::")
    if name in CATALOG or not Path(paths[0]).is_absolute():
        return name
    folder = common_folder(*paths) if paths[1:] else Path(name)
    inside = (root for root in (data_root(), repo_root()) if root in folder.parents)
    above = str(next(inside, folder.parent))
    above = glob.escape(above) if paths[1:] else above
    relative = "::".join(Path(path).relative_to(above).as_posix() for path in paths)
    return f"./{relative}" if relative in CATALOG else relative
