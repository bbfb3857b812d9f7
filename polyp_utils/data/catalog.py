"""The known data sets: layout, archive, checksum, licence, citation; verified download."""

import os
import shutil
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from polyp_utils.config import data_root, unknown


@dataclass(frozen=True)
class Archive:
    """A file that may be downloaded without asking; ``size`` in bytes."""

    url: str
    size: int
    sha256: str


@dataclass(frozen=True)
class DatasetInfo:
    """What is known about a data set before opening it.

    Attributes:
        folder: its folder under the data root, with ``images`` and ``masks`` sub-folders.
        count: number of image-mask pairs.
        archive: where it comes from, if its terms allow an automatic download.
    """

    name: str
    title: str
    folder: str
    count: int
    licence: str
    citation: str
    homepage: str
    archive: Archive | None = None


CATALOG: dict[str, DatasetInfo] = {
    info.name: info
    for info in (
        DatasetInfo(
            name="kvasir-seg",
            title="Kvasir-SEG",
            folder="Kvasir-SEG",
            count=1000,
            licence="free for research and education; commercial use needs permission",
            citation='Jha et al., "Kvasir-SEG: A Segmented Polyp Dataset", MMM 2020',
            homepage="https://datasets.simula.no/kvasir-seg/",
            archive=Archive(
                url="https://datasets.simula.no/downloads/kvasir-seg.zip",
                size=46_227_172,
                sha256="03b30e21d584e04facf49397a2576738fd626815771afbbf788f74a7153478f7",
            ),
        ),
        DatasetInfo(
            name="phantom",
            title="Phantoms",
            folder="",
            count=360,
            licence="same as the code",
            citation="drawn by polyp_utils.data.phantom",
            homepage="",
        ),
    )
}


def get_info(name: str) -> DatasetInfo:
    """The catalogue's entry of that name.

    Raises:
        ValueError: unknown name, with the nearest valid one.
    """
    if name not in CATALOG:
        raise unknown("dataset", name, CATALOG)
    return CATALOG[name]


def locate(info: DatasetInfo) -> Path:
    """The data set's folder under the data root; fetched if absent and allowed.

    Raises:
        FileNotFoundError: not there and not to be had, with what to put where.
    """
    folder = data_root() / info.folder
    if folder.is_dir():
        return folder
    if os.environ.get("POLYP_DATA") and not data_root().is_dir():
        raise FileNotFoundError(_missing(info, folder, "POLYP_DATA names no folder that exists"))
    if info.archive is None:
        raise FileNotFoundError(_missing(info, folder, "it has no automatic download"))
    return fetch(info, info.archive, data_root())


def fetch(info: DatasetInfo, archive: Archive, root: Path) -> Path:
    """Downloads, checks and unpacks a data set; all or nothing.

    Raises:
        FileNotFoundError: the download failed; says what to put where.
        ValueError: wrong size or checksum, or a member that would leave the folder.
    """
    import pooch  # only needed here, and not on every machine

    target = root / info.folder
    try:
        root.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".fetch-", dir=root))
    except OSError as error:
        raise FileNotFoundError(_missing(info, target, f"{root} is not writable")) from error
    try:
        try:
            path = Path(pooch.retrieve(archive.url, None, "archive.zip", staging, progressbar=True))
        except Exception as error:  # requests, urllib3 and OS errors alike
            reason = f"the download from {archive.url} failed ({error})"
            raise FileNotFoundError(_missing(info, target, reason)) from error
        sha256 = pooch.file_hash(str(path))
        if (path.stat().st_size, sha256) != (archive.size, archive.sha256):
            raise ValueError(
                f"{archive.url}: got {path.stat().st_size} bytes with SHA-256 {sha256}, expected "
                f"{archive.size} bytes with {archive.sha256}; nothing was unpacked. Try again, or "
                f"get the archive from {info.homepage} and unpack it to {target}"
            )
        unpack(path, staging / "unpacked")
        os.replace(staging / "unpacked" / info.folder, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return target


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks a zip file into a new folder.

    Raises:
        ValueError: a member would leave the folder; nothing is unpacked then.
    """
    with zipfile.ZipFile(archive) as handle:
        for member in handle.namelist():
            path = PurePosixPath(member.replace("\\", "/"))
            if path.is_absolute() or ".." in path.parts or ":" in member.split("/")[0]:
                raise ValueError(f"{archive}: member {member!r} leaves the folder; not unpacked")
        handle.extractall(folder)


def _missing(info: DatasetInfo, folder: Path, reason: str) -> str:
    return (
        f"{info.title} is not at {folder} and {reason}. Put images/ and masks/ there "
        f"({info.count} pairs, from {info.homepage}) or set POLYP_DATA to the folder that holds "
        f"{info.folder}/. Without the data, take the drawn frames: recipe 'quick', or dataset "
        "'phantom' with split 'phantom-240'"
    )
