"""A model by mouse: frames with outlines in a notebook, sorted by doubt, flagged and exported."""

import csv
import io
from collections.abc import Callable, Iterable
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import ipywidgets as widgets
import numpy as np
import torch
from PIL import Image

from polyp_utils.analyse.uncertainty import self_doubt
from polyp_utils.apply import outputs
from polyp_utils.apply.inputs import Input, find_inputs
from polyp_utils.common.exceptions import DataError, UserError
from polyp_utils.common.files import atomic, write_text
from polyp_utils.common.progress import Progress
from polyp_utils.data.pixels import read_frame
from polyp_utils.deploy.load import Model
from polyp_utils.model.predict import to_original
from polyp_utils.runs.levels import to_levels

SHOWN = 900  # pixels of the longer side of the picture
_FLAG = ("frame", "source", "note", "doubt", "threshold")
_ORDERS: dict[str, Callable[["Seen"], Any]] = {
    "most doubtful first": lambda seen: -seen.doubt,
    "largest first": lambda seen: -float((seen.levels > 127).mean()),
    "by name": lambda seen: seen.name,
}


class Seen(NamedTuple):
    """A frame that the model has seen.

    Attributes:
        name: see `Input`.
        path: of the file.
        levels: P(any polyp class) at the network's size in 8 bits, uint8 (S, S).
        doubt: see `self_doubt`.
    """

    name: str
    path: Path
    levels: np.ndarray
    doubt: float


class Viewer:
    """Frames and what a model marks in them; display its ``widget`` in a notebook.

    Whatever is flagged is in ``flags.csv`` of the folder ``out`` at once; masks are exported to
    ``out/masks``.
    """

    def __init__(self, model: Model, out: str | Path, threshold: float = 0.5, opacity: float = 0.3):
        """Makes an empty viewer.

        Args:
            model: that looks at the frames.
            out: folder for flags, masks and uploaded frames; made when it is needed.
            threshold: of P(polyp), from which on a pixel is marked.
            opacity: of the marked area, 0 (its outline alone) to 1.
        """
        self.model, self.out = model, Path(out).expanduser()
        self.frames: list[Seen] = []
        self.flags = self._read_flags()
        self._make(threshold, opacity)

    def _make(self, threshold: float, opacity: float) -> None:
        fits = widgets.Layout(width="auto")
        grows = widgets.Layout(width="auto", flex="1 1 220px")  # rows wrap in a narrow window
        self.folder = widgets.Text(placeholder="folder or file with frames", layout=grows)
        self.look = widgets.Button(description="Look at these", icon="eye", layout=fits)
        self.upload = widgets.FileUpload(
            accept="image/*", multiple=True, description="or upload", layout=fits
        )
        self.order = widgets.Dropdown(options=list(_ORDERS), description="order", layout=fits)
        self.position = widgets.IntSlider(min=1, max=1, description="frame", layout=fits)
        self.back = widgets.Button(description="◀ previous", layout=fits)
        self.on = widgets.Button(description="next ▶", layout=fits)
        self.threshold = widgets.FloatSlider(
            threshold, min=0.05, max=0.95, step=0.05, description="threshold", layout=grows
        )
        self.opacity = widgets.FloatSlider(
            opacity, min=0, max=1, step=0.1, description="opacity", layout=grows
        )
        whole = widgets.Layout(max_height="55vh", object_fit="contain", object_position="left")
        self.picture = widgets.Image(format="jpeg", layout=whole)
        self.caption = widgets.HTML()
        self.wrong = widgets.Checkbox(description="this is wrong", indent=False, layout=fits)
        self.note = widgets.Text(
            placeholder="what is wrong?", layout=grows, continuous_update=False
        )
        self.export = widgets.Button(description="Export masks", icon="download", layout=fits)
        self.said = widgets.HTML()
        self._flagging = True

        self.look.on_click(lambda _: self._open_text())
        self.upload.observe(lambda _: self._open_uploads(), "value")
        self.order.observe(lambda _: self._sort(), "value")
        self.back.on_click(lambda _: self._move(-1))
        self.on.on_click(lambda _: self._move(1))
        for control in (self.position, self.threshold, self.opacity):
            control.observe(lambda _: self.show(), "value")
        for control in (self.wrong, self.note):
            control.observe(lambda _: self._flag(), "value")
        self.export.on_click(lambda _: self.export_masks())
        row = widgets.Layout(flex_flow="row wrap", align_items="center")
        self.widget = widgets.VBox(
            [
                widgets.Box([self.folder, self.look, self.upload], layout=row),
                widgets.Box([self.order, self.back, self.on], layout=row),
                self.position,
                self.picture,
                self.caption,
                widgets.Box([self.threshold, self.opacity], layout=row),
                widgets.Box([self.wrong, self.note, self.export], layout=row),
                self.said,
                widgets.HTML("For research and teaching. Not a medical device."),
            ]
        )

    def open(self, paths: Iterable[str | Path], limit: int = 0) -> list[str]:
        """Has the model look at the images among paths, and shows the first in the order.

        Args:
            paths: as in `find_inputs`; videos are left out.
            limit: only the first so many; 0: all.

        Returns:
            Why files were skipped.

        Raises:
            DataError: no image among them that can be read.
        """
        inputs = [each for each in find_inputs(paths, self.out) if not each.is_video]
        inputs = inputs[:limit] if limit else inputs
        frames, skipped = [], []
        with Progress("frames", len(inputs), unit="frame") as progress:
            for each in inputs:
                try:
                    frames.append(self._see(each))
                except (DataError, OSError) as error:
                    skipped.append(str(error))
                progress.advance(each.name)
        if not frames:
            raise DataError(skipped[0] if skipped else "no images among the inputs, only videos")
        self.frames = frames
        self._sort()
        rest = f"; {len(skipped)} files skipped, the first: {skipped[0]}" if skipped else ""
        self._say(self.said, f"{len(frames)} frames{rest}")
        return skipped

    def _see(self, each: Input) -> Seen:
        frame = read_frame(each.path)
        probabilities = self.model.at_network_size(frame)
        polyp = self.model.scheme.polyp_probability(probabilities[None])
        levels = to_levels(torch.cat([1 - polyp, polyp]))[0].numpy()
        return Seen(each.name, each.path, levels, self_doubt(probabilities, self.model.scheme))

    @property
    def current(self) -> Seen:
        """The frame that is shown."""
        return self.frames[self.position.value - 1]

    def show(self) -> np.ndarray | None:
        """Draws the current frame, RGB uint8, at most `SHOWN` pixels; None if there is none."""
        if not self.frames:
            return None
        seen = self.current
        frame = outputs.at_most(read_frame(seen.path), SHOWN)
        mask = self._mask(seen, frame.shape[:2])
        filled = frame.copy()
        filled[mask] = outputs.COLOURS[1]
        mixed = cv2.addWeighted(filled, self.opacity.value, frame, 1 - self.opacity.value, 0)
        drawn = outputs.outlined(mixed, [mask])
        buffer = io.BytesIO()
        Image.fromarray(drawn).save(buffer, "JPEG", quality=90, subsampling=0)
        self.picture.value = buffer.getvalue()
        self._say(
            self.caption,
            f"{seen.name}: {100 * mask.mean():.1f} % marked, doubt {seen.doubt:.2f} "
            f"({self.position.value} of {len(self.frames)})",
        )
        self._flagging = False  # what the boxes show of a frame is no new flag
        self.wrong.value = seen.name in self.flags
        self.note.value = self.flags.get(seen.name, {}).get("note", "")
        self._flagging = True
        return drawn

    @staticmethod
    def _say(place: widgets.HTML, text: str) -> None:
        place.value = escape(text, quote=False)  # a name of a file may hold < or &

    def _mask(self, seen: Seen, size: tuple[int, int]) -> np.ndarray:
        polyp = to_original(torch.from_numpy(seen.levels)[None].float() / 255, size)[0]
        return (polyp > self.threshold.value).numpy()

    def _sort(self) -> None:
        self.frames.sort(key=_ORDERS[self.order.value])
        self.position.max = max(1, len(self.frames))
        self.position.value = 1
        self.show()

    def _move(self, step: int) -> None:
        self.position.value = min(max(1, self.position.value + step), self.position.max)

    def _flag(self) -> None:
        if not (self._flagging and self.frames):
            return
        seen = self.current
        if self.wrong.value or self.note.value:
            values = (seen.name, str(seen.path), self.note.value)
            numbers = (f"{seen.doubt:.6g}", f"{self.threshold.value:g}")
            self.flags[seen.name] = dict(zip(_FLAG, (*values, *numbers), strict=True))
        else:
            self.flags.pop(seen.name, None)
        text = io.StringIO()
        rows = csv.DictWriter(text, _FLAG, lineterminator="\n")
        rows.writeheader()
        rows.writerows(self.flags[name] for name in sorted(self.flags))
        write_text(self.out / "flags.csv", text.getvalue())

    def _read_flags(self) -> dict[str, dict[str, str]]:
        """What was flagged before, in this folder."""
        path = self.out / "flags.csv"
        if not path.is_file():
            return {}
        with path.open(newline="", encoding="utf-8") as file:
            return {row["frame"]: row for row in csv.DictReader(file)}

    def export_masks(self) -> Path:
        """Writes every frame's mask at the threshold, a PNG of 0 and 255, of the frame's size."""
        folder = self.out / "masks"
        for seen in self.frames:
            mask = self._mask(seen, read_frame(seen.path).shape[:2])
            with atomic(folder / f"{seen.name}.png") as temporary:
                Image.fromarray(mask.astype(np.uint8) * 255).save(temporary, "PNG")
        self._say(self.said, f"{len(self.frames)} masks in {folder}")
        return folder

    def _open_text(self) -> None:
        try:
            self.open([self.folder.value])
        except (ValueError, UserError, OSError) as error:
            self._say(self.said, str(error))

    def _open_uploads(self) -> None:
        if not self.upload.value:
            return
        folder = self.out / "uploads"
        paths = [folder / Path(file["name"]).name for file in self.upload.value]
        try:
            for path, file in zip(paths, self.upload.value, strict=True):
                with atomic(path) as temporary:
                    temporary.write_bytes(file["content"])
            self.open(paths)
        except (ValueError, UserError, OSError) as error:
            self._say(self.said, str(error))
