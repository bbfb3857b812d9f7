"""The known data sets: layout, archive, checksum, licence, citation; verified download."""

import glob
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polyp_utils.common.exceptions import DataError, few, unknown
from polyp_utils.common.names import unfit_title
from polyp_utils.common.paths import common_folder, data_root, repo_root


@dataclass(frozen=True)
class Archive:
    """A file that may be downloaded without asking."""

    url: str
    sha256: str


@dataclass(frozen=True)
class DatasetInfo:
    """What is known about a data set before opening it.

    Attributes:
        folders: possible places under the data root, of which the first that exists is used;
            sub-folders and file names are found by :mod:`polyp_utils.data.layout`.
        count: number of image-mask pairs; 0 if unknown.
        licence: its terms, in a sentence.
        homepage: where to download or request it.
        archive: its file, if the terms allow an automatic download.
        ignore: sub-folders without polyp masks.
        joins: the data sets whose frames it combines, under the same ids.
        patterns: of images and masks, in place of a folder.
        shown: whether published figures may show some of its frames, small and cited; False
            unless its terms permit research use without a request or an agreement.
    """

    name: str
    title: str
    folders: tuple[str, ...]
    count: int
    licence: str
    citation: str
    homepage: str
    archive: Archive | None = None
    ignore: tuple[str, ...] = ()
    joins: tuple[str, ...] = ()
    patterns: tuple[str, str] | None = None
    shown: bool = False


_PRANET = "https://github.com/DengPingFan/PraNet"
_PRANET_PAPER = (
    'Fan et al., "PraNet: Parallel Reverse Attention Network for Polyp Segmentation", MICCAI 2020, '
    "and the sets that it joins"
)
_RESEARCH = "research and education only; commercial use is forbidden"

CATALOG: dict[str, DatasetInfo] = {
    info.name: info
    for info in (
        DatasetInfo(
            name="kvasir-seg",
            title="Kvasir-SEG",
            folders=("Kvasir-SEG",),
            count=1000,
            licence="free for research and education; commercial use needs permission",
            citation='Jha et al., "Kvasir-SEG: A Segmented Polyp Dataset", MMM 2020',
            homepage="https://datasets.simula.no/kvasir-seg/",
            archive=Archive(
                url="https://datasets.simula.no/downloads/kvasir-seg.zip",
                sha256="03b30e21d584e04facf49397a2576738fd626815771afbbf788f74a7153478f7",
            ),
            shown=True,
        ),
        DatasetInfo(
            name="cvc-clinicdb",
            title="CVC-ClinicDB",
            folders=("CVC-ClinicDB/PNG", "CVC-ClinicDB/TIF", "CVC-ClinicDB"),
            count=612,
            licence=_RESEARCH,
            citation='Bernal et al., "WM-DOVA maps for accurate polyp highlighting in '
            'colonoscopy", Computerized Medical Imaging and Graphics 43, 2015',
            homepage="https://polyp.grand-challenge.org/CVCClinicDB/",
            shown=True,
        ),
        DatasetInfo(
            name="cvc-colondb",
            title="CVC-ColonDB",
            folders=("CVC-ColonDB", "TestDataset/CVC-ColonDB"),
            count=380,
            licence="research only, on request; also in the PraNet bundle",
            citation='Bernal et al., "Towards automatic polyp detection with a polyp appearance '
            'model", Pattern Recognition 45, 2012',
            homepage=_PRANET,
        ),
        DatasetInfo(
            name="etis",
            title="ETIS-LaribPolypDB",
            folders=("ETIS-LaribPolypDB", "TestDataset/ETIS-LaribPolypDB"),
            count=196,
            licence="research only, on request; also in the PraNet bundle",
            citation='Silva et al., "Toward embedded detection of polyps in WCE images for early '
            'diagnosis of colorectal cancer", IJCARS 9, 2014',
            homepage="https://polyp.grand-challenge.org/ETISLarib/",
        ),
        DatasetInfo(
            name="cvc-300",
            title="CVC-300 (the test frames of CVC-EndoSceneStill)",
            folders=("CVC-300", "EndoScene", "TestDataset/CVC-300"),
            count=60,
            licence="research only, on request; also in the PraNet bundle",
            citation='Vázquez et al., "A Benchmark for Endoluminal Scene Segmentation of '
            'Colonoscopy Images", Journal of Healthcare Engineering, 2017',
            homepage=_PRANET,
            ignore=("gtlumen", "gtspecular", "gtvoid"),
        ),
        DatasetInfo(
            name="neopolyp",
            title="BKAI-IGH NeoPolyp-Small",
            folders=("BKAI-NeoPolyp-640", "BKAI-IGH-NeoPolyp", "bkai-igh-neopolyp"),
            count=1000,
            licence="research only; acknowledge BKAI (HUST) and IGH",
            citation='Lan et al., "NeoUNet: Towards Accurate Colon Polyp Segmentation and '
            'Neoplasm Detection", ISVC 2021',
            homepage="https://www.kaggle.com/c/bkai-igh-neopolyp",
            ignore=("test",),
        ),
        DatasetInfo(
            name="pranet-train",
            title="PraNet training set (900 of Kvasir-SEG, 550 of CVC-ClinicDB)",
            folders=("TrainDataset", "PraNet/TrainDataset"),
            count=1450,
            licence=_RESEARCH,
            citation=_PRANET_PAPER,
            homepage=_PRANET,
            joins=("kvasir-seg", "cvc-clinicdb"),
            shown=True,
        ),
        DatasetInfo(
            name="pranet-test",
            title="PraNet test sets (Kvasir, CVC-ClinicDB, CVC-ColonDB, ETIS, CVC-300)",
            folders=("TestDataset", "PraNet/TestDataset"),
            count=798,
            licence=_RESEARCH,
            citation=_PRANET_PAPER,
            homepage=_PRANET,
        ),
        DatasetInfo(
            name="phantom",
            title="Phantoms",
            folders=(),
            count=360,
            licence="same as the code",
            citation="drawn by polyp_utils.data.phantom",
            homepage="",
            shown=True,
        ),
    )
}


def get_info(name: str) -> DatasetInfo:
    """The catalogue's entry of that name, or one for images and masks of the user's.

    Args:
        name: name of an entry, a folder, or ``IMAGES::MASKS``, the patterns of both (see `glob`).
            Paths are absolute, or relative to the working folder, the repository or the data root.

    Raises:
        ValueError: none of these; the message suggests the nearest valid name.
        DataError: a folder whose name is `unfit_title`.
        FileNotFoundError: a path of several parts that is not a folder.
    """
    if name in CATALOG:
        return CATALOG[name]
    for root in (Path.cwd(), repo_root(), data_root()):
        folder = root / Path(name).expanduser()
        if name and folder.is_dir():
            return _own(folder.resolve(), folders=(str(folder.resolve()),))
    if "::" in name:
        images, masks = name.split("::", 1)
        if not images or not masks:
            raise ValueError(f"dataset {name}: give two patterns, IMAGES::MASKS")
        patterns = _absolute(images), _absolute(masks)
        return _own(common_folder(*patterns), patterns=patterns)
    if len(Path(name).parts) > 1:
        raise FileNotFoundError(
            f"dataset {name} is not a folder: give one with images and masks. If the data of a run "
            "were moved, train it again with its settings and their new place: nothing is trained, "
            "but the place is recorded"
        )
    raise ValueError(f"{unknown('dataset', name, CATALOG)}; or give the path of a folder")


def _own(folder: Path, **place: Any) -> DatasetInfo:
    """The entry of a data set that is not in the catalogue."""
    if why := unfit_title(folder.name):
        raise DataError(f"{folder} {why}: rename the folder")
    return DatasetInfo(
        name=re.sub(r"[^\w.-]+", "-", folder.name),
        title=folder.name,
        folders=place.get("folders", ()),
        count=0,
        licence="not known to this package: ask whoever gave you the data",
        citation="whoever made them",
        homepage="",
        patterns=place.get("patterns"),
    )


def _absolute(pattern: str) -> str:
    """The pattern below the first root where it matches; the working folder, if nowhere."""
    given = Path(pattern).expanduser()
    if given.is_absolute():
        return str(given)
    roots = (Path.cwd(), repo_root(), data_root())
    matching = (root for root in roots if glob.glob(str(given), root_dir=root, recursive=True))
    return os.path.normpath(f"{glob.escape(str(next(matching, roots[0])))}/{given}")


def locate(info: DatasetInfo) -> Path:
    """The data set's folder under the data root; fetched if absent and allowed.

    Also one that a browser or an archive has renamed: ``Kvasir-SEG (1)``, ``kvasir-seg-master``.

    Raises:
        FileNotFoundError: absent and not downloadable; the message says what to put where.
    """
    for name in info.folders:
        if (data_root() / name).is_dir():
            return data_root() / name
    folder = data_root() / info.folders[0]
    renamed = _renamed(info)
    if len(renamed) == 1:
        return renamed[0]
    if renamed:
        reason = f"{few(path.name for path in renamed)} could all be it; rename the right one"
        raise FileNotFoundError(_missing(info, folder, reason))
    if os.environ.get("POLYP_DATA") and not data_root().is_dir():
        raise FileNotFoundError(_missing(info, folder, "POLYP_DATA is not an existing folder"))
    if info.archive is None:
        reason = "its terms allow no automatic download"
        raise FileNotFoundError(_missing(info, folder, reason))
    return fetch(info, info.archive, data_root())


def _renamed(info: DatasetInfo) -> list[Path]:
    """Folders of the data root with one of the set's names, but for case, signs and suffixes."""
    names = {_plain(name) for name in info.folders if "/" not in name}
    there = sorted(data_root().iterdir()) if data_root().is_dir() else []
    return [path for path in there if path.is_dir() and _plain(path.name) in names]


def _plain(name: str) -> str:
    without = re.sub(r"( ?\(\d+\)|[-_ ](master|main|copy))+$", "", name.lower())
    return re.sub(r"[\W_]+", "", without)


def fetch(info: DatasetInfo, archive: Archive, root: Path) -> Path:
    """Downloads, checks and unpacks a data set; all or nothing.

    No member is unpacked outside the folder: the archive is the published one, and `zipfile`, which
    pooch uses, strips drives and ``..`` from names.

    Raises:
        FileNotFoundError: the download failed, pooch is missing, or ``root`` is not writable; the
            message says what to put where.
        ValueError: wrong checksum.
    """
    target = root / info.folders[0]
    try:
        import pooch  # only needed here, and may not be installed
    except ImportError as error:
        reason = "pooch, which would fetch it, is not installed"
        raise FileNotFoundError(_missing(info, target, reason)) from error
    try:
        root.mkdir(parents=True, exist_ok=True)
        staging = tempfile.TemporaryDirectory(
            prefix=".fetch-", dir=root, ignore_cleanup_errors=True
        )
    except OSError as error:
        raise FileNotFoundError(_missing(info, target, f"{root} is not writable")) from error
    with staging as folder:
        name, unzip = "archive.zip", pooch.Unzip(extract_dir="unpacked")
        try:
            pooch.retrieve(archive.url, archive.sha256, name, folder, unzip, progressbar=True)
        except OSError as error:  # includes those of requests
            reason = f"the download from {archive.url} failed ({error})"
            raise FileNotFoundError(_missing(info, target, reason)) from error
        except ValueError as error:
            raise ValueError(
                f"{archive.url}: {error} Nothing was unpacked. Try again, or get the archive from "
                f"{info.homepage} and unpack it to {target}"
            ) from error
        os.replace(Path(folder, "unpacked", info.folders[0]), target)
    return target


def _missing(info: DatasetInfo, folder: Path, reason: str) -> str:
    return (
        f"{info.title} is not at {folder} and {reason}. Get it from {info.homepage} (terms: "
        f"{info.licence}) and put its images and masks ({info.count} pairs) there, or set "
        f"POLYP_DATA to the folder that holds {info.folders[0]}/. Without the data, use phantoms: "
        "recipe 'quick', or dataset 'phantom' with split 'phantom-240'"
    )
