"""The predictions of a part in one file, as published runs store them: a ZIP of its PNGs."""

import zipfile
from pathlib import Path

from polyp_utils.common.exceptions import RunError
from polyp_utils.common.files import atomic


def pack(folder: Path, archive: Path) -> None:
    """Writes the PNGs of a folder into a ZIP, uncompressed; the same files give the same bytes."""
    with atomic(archive) as temporary, zipfile.ZipFile(temporary, "w") as file:
        for path in sorted(folder.rglob("*.png")):
            entry = zipfile.ZipInfo(path.relative_to(folder).as_posix())  # dated 1980
            entry.create_system, entry.external_attr = 3, 0o644 << 16  # as on Unix, everywhere
            file.writestr(entry, path.read_bytes())


def read(archive: Path, name: str, most: int) -> bytes:
    """The bytes of a file in a ZIP.

    Args:
        archive: the ZIP.
        name: of the file in it.
        most: bytes that it may have; no more are unpacked.

    Raises:
        RunError: the file is not in the ZIP or larger, or the ZIP is damaged.
    """
    try:
        with zipfile.ZipFile(archive) as file:
            size = file.getinfo(name).file_size
            if size <= most:
                return file.read(name)
    except KeyError:
        raise RunError(f"{archive} holds no {name}: it is of another split or incomplete") from None
    except Exception as error:  # zipfile raises a dozen kinds
        raise RunError(f"{archive} is damaged ({error}): fetch it again") from error
    raise RunError(f"{archive} unpacks {name} to {size:,} bytes, more than {most:,}: do not use it")
