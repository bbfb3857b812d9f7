"""The folder that results go to: its tables grow frame by frame, so a run can be resumed.

summary.json         model, settings, versions, counts, times
frames.csv           a row per frame; a frame that has its row is done
components.csv       a row per connected region, see `find_regions`
unreadable.csv       inputs that were skipped, and why
masks/<frame>.png    class map, see `save_class_map`
overlays/<frame>.jpg, thumbnails/<frame>.jpg, probabilities/<frame>.png
videos/<video>.*     the film of each video, see `polyp_utils.apply.video`; its frames, one of
                     every second, are among the others, named <video>/<seconds>

Rows are appended, after the files of their frame: a run that was killed leaves at most a half line
and files without a row, and the next one removes or replaces them.
"""

import contextlib
import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from polyp_utils.common.exceptions import RunError, TakenError
from polyp_utils.common.files import (
    refuse_links,
    remove_leftovers,
    write_json,
    write_text,
    writing,
)
from polyp_utils.runs.run import make_folder
from polyp_utils.runs.stored import read_json

FRAMES = ["frame", "source", "time", "height", "width", "found", "regions", "area", "seconds"]
REGIONS = ["frame", "region", "class", "left", "top", "width", "height", "area_px", "area"]
REGIONS += ["mean_probability", "largest_probability", "touches_border"]
UNREADABLE = ("source", "reason")
_ANOTHER = "restore it, or name another folder with --out"
_FILES = {"file": "mp4", "timeline": "svg", "csv": "csv"}  # of a video, and what they end with


class Results:
    """Results of one model with some settings; use as a context manager.

    Attributes:
        path: the folder.
        done: names of the frames that are finished.
        videos: of each that is finished its name, files, number of frames, length in seconds and,
            where some could not be decoded, the reason.
        doubt: name of the column of doubt.
    """

    def __init__(self, path: Path, model: dict[str, Any], settings: dict[str, Any], doubt: str):
        """Opens the folder, new or to go on with.

        Args:
            path: of the folder.
            model: what tells the model from others.
            settings: that the results depend on.
            doubt: name of the column of doubt, of frames and regions.

        Raises:
            RunError: the folder holds something else, damaged tables or links to elsewhere, or
                cannot be written.
            TakenError: another process writes into it.
        """
        self.path, self.doubt = path, doubt
        self._facts: dict[str, Any] = {"model": model, "settings": settings, "doubt": doubt}
        self._check(make_folder(path, "name a writable folder with --out"))
        refuse_links(path)
        self._lock = FileLock(path / ".lock", timeout=0)
        try:
            with writing(path):
                self._lock.acquire()
        except Timeout as error:
            raise TakenError(
                f"another process writes into {path}: wait for it, or name another folder with "
                "--out"
            ) from error
        self._summary = path / "summary.json"
        if not self._summary.is_file():  # first: it tells the folder from those of others
            write_json(self._summary, self._facts)
        self._heads = {
            "frames": (*FRAMES, doubt),
            "components": (*REGIONS, doubt),
            "unreadable": UNREADABLE,
        }
        there = read_json(self._summary, cure=_ANOTHER)
        self.videos = self._whole_videos(there.get("videos", []))
        self._facts["videos"] = self.videos
        whole = {video["name"] for video in self.videos}
        rows = [
            row
            for row in self._whole_rows("frames")
            if not row["time"] or row["frame"].rpartition("/")[0] in whole
        ]
        self.done = {row["frame"] for row in rows}
        self._sources = {  # of an image, or of the video that a frame is of
            row["frame"].rpartition("/")[0] if row["time"] else row["frame"]: row["source"]
            for row in rows
        }
        self._trim()
        with writing(path):
            self._files = {
                name: self._table(name).open("a", encoding="utf-8", newline="")
                for name in self._heads
            }

    def _check(self, path: Path) -> None:
        summary = path / "summary.json"
        if not summary.is_file():
            if any(
                not found.name.startswith((".lock", ".summary.json.")) for found in path.iterdir()
            ):
                raise RunError(
                    f"{path} holds files, but no results of an earlier run: name an empty or new "
                    "folder with --out"
                )
            return
        there = read_json(summary, cure=_ANOTHER)
        of = {part: there.get(part) for part in ("model", "settings")}
        facts = {part: found if isinstance(found, dict) else {} for part, found in of.items()}
        different = [
            f"{part} {key} is {there.get(key)!r} there and {value!r} now"
            for part, there in facts.items()
            for key, value in self._facts[part].items()
            if there.get(key) != value
        ]
        if different:
            raise RunError(
                f"{path} holds results of another run: {'; '.join(different)}. Ask for the same "
                "to resume it, or name another folder with --out"
            )

    def _whole_videos(self, listed: Any) -> list[dict[str, Any]]:
        """Those of the listed videos whose files are where they were written, in the folder."""
        whole = []
        for video in listed if isinstance(listed, list) else ():
            name = video.get("name") if isinstance(video, dict) else None
            usual = {key: f"videos/{name}.{suffix}" for key, suffix in _FILES.items()}
            files = {key: video[key] for key in usual if key in video} if name else {}
            here = ".." not in str(name) and all((self.path / f).is_file() for f in files.values())
            if "csv" in files and files.items() <= usual.items() and here:
                whole.append(video)
        return whole

    def _table(self, name: str) -> Path:
        return self.path / f"{name}.csv"

    def _whole_rows(self, name: str) -> list[dict[str, str]]:
        """Rows of a table but for a last one that was not written to its end.

        Raises:
            RunError: another table, or a damaged one.
        """
        path, head = self._table(name), self._heads[name]
        if not path.is_file():
            return []
        try:
            text = path.read_text(encoding="utf-8")
            rows = list(csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1], newline="")))
        except (ValueError, csv.Error) as error:
            raise RunError(
                f"{path} is damaged ({error}): name another folder with --out"
            ) from error
        if any(row.keys() != {*head} or None in row.values() for row in rows):
            raise RunError(
                f"{path} is damaged or of another version, as its columns are not "
                f"{', '.join(head)}: name another folder with --out"
            )
        return rows

    def _trim(self) -> None:
        """Leaves what is of finished frames: no half files; unreadable inputs are tried anew."""
        remove_leftovers(self.path.rglob(".*.tmp"))
        kept: dict[str, list[dict[str, str]]] = {
            **{
                name: [row for row in self._whole_rows(name) if row["frame"] in self.done]
                for name in ("frames", "components")
            },
            "unreadable": [],
        }
        for name, rows in kept.items():
            lines = [_line(self._heads[name])]
            lines += [_line(row[key] for key in self._heads[name]) for row in rows]
            write_text(self._table(name), "".join(lines))

    def __enter__(self) -> "Results":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for file in self._files.values():
            with contextlib.suppress(OSError):  # all rows are written, or an error has said why not
                file.close()
        self._lock.release()

    def add(self, frame: Mapping[str, Any], regions: Iterable[Mapping[str, Any]]) -> None:
        """Adds a frame whose files are written: its regions, then its row: now it is done."""
        for number, region in enumerate(regions, start=1):
            self._append("components", {"frame": frame["frame"], "region": number, **region})
        self._append("frames", frame)
        self.done.add(frame["frame"])

    def add_video(self, facts: dict[str, Any]) -> None:
        """Adds a video whose files and rows are written: now it is done."""
        self.videos.append(facts)
        write_json(self._summary, self._facts)

    def check_source(self, name: str, source: Path) -> None:
        """Refuses another file than the one that finished results were made of.

        Raises:
            RunError: the results of that name are of another file.
        """
        there = self._sources.get(name)
        if there is not None and Path(there).resolve() != source.resolve():
            raise RunError(
                f"{self.path} holds results of {there} as {name!r}, not of {source}: name another "
                "folder with --out"
            )

    def skip(self, source: Path, reason: str) -> None:
        """Lists an input that cannot be read."""
        self._append("unreadable", {"source": source, "reason": reason})

    def _append(self, name: str, row: Mapping[str, Any]) -> None:
        file = self._files[name]
        with writing(self._table(name)):
            file.write(_line(_text(row[key]) for key in self._heads[name]))
            file.flush()

    def finish(self, **facts: Any) -> None:
        """Writes what is known at the end into ``summary.json``."""
        write_json(self._summary, {**self._facts, **facts})


def _text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _line(values: Iterable[Any]) -> str:
    """A line of CSV, quoted where it must be."""

    class Line(list[str]):
        write = list.append

    line = Line()
    csv.writer(line, lineterminator="\n").writerow(list(values))
    return line[0]
