"""Videos: the frames of one as a player shows them, and the film and table that are made of it.

videos/<video>.mp4   every frame with outlines, without sound, at the times of the source
videos/<video>.csv   a row per frame
videos/<video>.svg   area and doubt over time, see `timeline`

PyAV (extra ``video``) is imported for videos only.
"""

import contextlib
import csv
import functools
import itertools
import math
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from types import ModuleType
from typing import IO, Any

import cv2
import numpy as np
from torch import Tensor

from polyp_utils.apply.inputs import Input
from polyp_utils.apply.outputs import outlined
from polyp_utils.apply.results import Results
from polyp_utils.apply.stream import Loaded
from polyp_utils.apply.timeline import timeline
from polyp_utils.common.exceptions import DataError, ExtraError
from polyp_utils.common.files import atomic
from polyp_utils.data.limits import MAX_PIXELS

_FORMATS = "mov,matroska,avi,mpeg,mpegts,mpegvideo,m4v,h264,hevc,asf"  # no lists of other files
_LACKING = 1.0  # seconds that may lack at the end: containers round, and sound may last longer
_COLUMNS = ("frame", "time", "found", "regions", "area")
_BT709, _LIMITED = 1, 1  # codes of a colour space and of a range of levels
_COMMON = Fraction(1, 60_000)  # divides the time between frames at all usual rates, 29.97 too


def refuse_shared(inputs: Iterable[Input]) -> None:
    """Refuses an image whose results would be called like those of a video's frame.

    Raises:
        DataError: there is such an image.
    """
    names = {each.name for each in inputs if each.is_video}
    for each in inputs:
        folder, _, name = each.name.rpartition("/")
        if folder in names and re.fullmatch(r"\d{5,}\.\d\d", name):
            raise DataError(
                f"{each.path} would have results called like those of a frame of the video {folder}"
                ": rename one of them"
            )


def count_frames(video: Input) -> int:
    """How many frames a video holds, as it says itself; 0: it does not; 1: it cannot be read.

    Raises:
        ExtraError: PyAV is not installed.
    """
    try:
        with open_video(video) as clip:
            return clip.count
    except DataError:
        return 1  # input to be skipped


class Clip:
    """An open video.

    Attributes:
        video: the input.
        rate: frames per second, on average.
        time_base: seconds per unit of its times.
        count: of its frames, as it says itself, perhaps roughly; 0 where it does not.
        size: (H, W) of its frames, turned.
        aspect: width of a pixel over its height.
        seconds: that its frames last, known after the last one.
        reason: what could not be decoded, known after the last frame; empty: all could.
    """

    def __init__(self, video: Input, container: Any) -> None:
        """Decodes the first frame.

        Raises:
            DataError: there is none.
        """
        self.video, self.seconds, self.reason = video, 0.0, ""
        self._container, self._stream = container, container.streams.best("video")
        if self._stream is None or self._stream.codec_context is None:
            kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
            raise DataError(f"{video.path} holds no video that can be decoded (only {kinds})")
        context = self._stream.codec_context
        if context.width * context.height > MAX_PIXELS:
            raise DataError(
                f"{video.path} has frames of {context.width}×{context.height} pixels; at most "
                f"{MAX_PIXELS:,} are read: scale it down"
            )
        context.options = {"max_pixels": str(MAX_PIXELS)}  # of frames that do not keep to that
        self._stream.thread_type = "AUTO"
        self._damaged, self._cut = 0, False
        self._frames = self._decoded()
        first = next(self._frames, None)
        if first is None:
            raise DataError(f"{video.path} holds no frames that can be decoded: copy it again")
        self._first = first
        self.rate = Fraction(self._stream.average_rate or self._stream.guessed_rate or 25)
        self.time_base = Fraction(self._stream.time_base)
        self._lasts = self._length()
        self.count = self._stream.frames or round(self._lasts * self.rate)
        shape = first.height, first.width
        self.size = _turned(np.empty(shape, bool), first).shape
        aspect = self._stream.sample_aspect_ratio or Fraction(1)
        self.aspect = aspect if self.size == shape else 1 / aspect

    def _length(self) -> Fraction:
        """Seconds that it should last; 0 if it does not say."""
        if self._stream.duration:
            return self._stream.duration * self.time_base
        alone = len(self._container.streams) == 1
        return Fraction(self._container.duration or 0, 1_000_000) if alone else Fraction(0)

    def _decoded(self) -> Iterator[Any]:
        """PyAV's frames; what is damaged is left out."""
        failed = _av().FFmpegError
        try:
            for packet in self._container.demux(self._stream):
                if packet.size:  # the last one is empty
                    self._cut = packet.is_corrupt
                try:
                    frames = packet.decode()
                except failed:
                    self._damaged += 1
                    continue
                yield from frames
        except failed:
            self._cut = True
            with contextlib.suppress(failed):
                yield from self._stream.decode(None)

    def frames(self, squared: Callable[[np.ndarray], Tensor]) -> Iterator[Callable[[], Loaded]]:
        """Each frame, once, as what loads it; ``squared`` brings it to the network's size.

        The first frame of every second is named ``<video>/<seconds>``; the others have no name:
        they are for the film only.
        """
        first, count, due = self._first.pts or 0, 0, 0
        step = max(1, round(1 / (self.rate * self.time_base)))
        pts = end = first - step
        for frame in itertools.chain([self._first], self._frames):
            if frame.pts is None or frame.pts <= pts:  # damaged, or put together of several
                pts += step
            else:
                pts = frame.pts
            at = float((pts - first) * self.time_base)
            name = f"{self.video.name}/{at:08.2f}" if at >= due else ""
            if name:
                due = math.floor(at) + 1
            yield functools.partial(self._load, frame, name, at, squared)
            count, end = count + 1, pts + max(step, frame.duration or 0)
        self.seconds = float((end - first) * self.time_base)
        self._judge(count)

    def _load(
        self, frame: Any, name: str, at: float, squared: Callable[[np.ndarray], Tensor]
    ) -> Loaded:
        start = time.perf_counter()
        pixels = np.ascontiguousarray(_turned(frame.to_ndarray(format="rgb24"), frame))
        square = squared(pixels)
        seconds = time.perf_counter() - start
        return Loaded(name, self.video.path, at, pixels, square, seconds=seconds)

    def _judge(self, count: int) -> None:
        lacking = (
            float(self._lasts) - self.seconds > _LACKING and not 0 < self._stream.frames <= count
        )
        if self._cut or lacking:
            of = f" of about {self.count}" if self.count > count else ""
            self.reason = (
                f"{self.video.path} ends early: {count}{of} frames ({self.seconds:.1f} s) could "
                "be decoded and are in the film"
            )
        elif self._damaged:
            self.reason = (
                f"{self.video.path} is damaged: {self._damaged} packets could not be decoded, so "
                f"the film lacks them ({count} frames)"
            )


@contextlib.contextmanager
def open_video(video: Input) -> Iterator[Clip]:
    """Opens a video.

    Raises:
        ExtraError: PyAV is not installed.
        DataError: the file cannot be read as a video, or holds no frames.
    """
    av = _av()
    try:
        options = {"format_whitelist": _FORMATS, "protocol_whitelist": "file"}
        container = av.open(str(video.path.absolute()), options=options)  # "a:b" is no address
    except av.FFmpegError as error:
        raise DataError(
            f"{video.path} cannot be read as a video ({error.strerror}): it is empty, cut off, "
            "unfinished or no video; copy it again"
        ) from error
    with container:
        yield Clip(video, container)


class Film:
    """The annotated video and its table, while they grow."""

    def __init__(self, clip: Clip, doubt: str, table: IO[str], container: Any) -> None:
        """Begins both; without a container the table alone."""
        self._columns = (*_COLUMNS, doubt)
        self._rows = csv.DictWriter(
            table, self._columns, extrasaction="ignore", lineterminator="\n"
        )
        self._rows.writeheader()
        self._container, self._stream = container, None
        if container:
            self._stream, self._time_base = _encoder(clip, container)
        self.count = 0

    def draw(self, loaded: Loaded, masks: Sequence[np.ndarray]) -> Any:
        """The frame with the outline of each mask, as PyAV's; may run in any thread."""
        if self._stream is None:
            return None
        assert loaded.frame is not None
        pixels = outlined(loaded.frame, masks)
        height, width = (n % 2 for n in pixels.shape[:2])
        pixels = cv2.copyMakeBorder(pixels, 0, height, 0, width, cv2.BORDER_REPLICATE)
        frame = (
            _av()
            .VideoFrame.from_ndarray(pixels, "rgb24")
            .reformat(
                self._stream.width,
                self._stream.height,
                "yuv420p",
                dst_colorspace=_BT709,
                dst_color_range=_LIMITED,
            )
        )
        frame.pts, frame.time_base = round(loaded.time / self._time_base), self._time_base
        return frame

    def add(self, row: Mapping[str, Any], drawn: Any) -> None:
        """Adds a frame as `draw` made it, and its row; in their order."""
        short = {key: f"{value:.6g}" for key, value in row.items() if isinstance(value, float)}
        exact = {"frame": self.count, "time": round(row["time"], 6)}
        self._rows.writerow({**row, **short, **exact})
        self.count += 1
        if self._stream is not None:
            self._container.mux(self._stream.encode(drawn))

    def end(self) -> None:
        """Writes what the encoder still holds."""
        if self._stream is not None:
            self._container.mux(self._stream.encode(None))
            self._container.close()


@contextlib.contextmanager
def film_of(clip: Clip, results: Results, pictures: bool) -> Iterator[Film]:
    """A film for the frames of a clip; all its files appear at the end, or none does.

    Args:
        clip: whose frames come.
        results: where the film goes; it is listed there as done at the end.
        pictures: whether there is an MP4 and a picture of the table.
    """
    base = f"videos/{clip.video.name}"
    files = {"csv": f"{base}.csv"}
    if pictures:
        files |= {"file": f"{base}.mp4", "timeline": f"{base}.svg"}
    with contextlib.ExitStack() as stack:
        paths = {k: stack.enter_context(atomic(results.path / f)) for k, f in files.items()}
        table = stack.enter_context(paths["csv"].open("w", encoding="utf-8", newline=""))
        container = None
        if pictures:
            options = {"movflags": "faststart"}  # browsers play it while it loads
            container = _av().open(str(paths["file"]), "w", format="mp4", options=options)
            stack.enter_context(container)
        film = Film(clip, results.doubt, table, container)
        try:
            yield film
            film.end()
        except _av().FFmpegError as error:
            raise DataError(
                f"{clip.video.path} cannot be written as a film ({error.strerror}): look at it "
                "with --maps-only, or save it anew with another program"
            ) from error
        table.flush()
        if pictures:
            title = f"{clip.video.name}: polyp area and doubt over time"
            drawn = timeline(paths["csv"], clip.seconds, title, results.doubt)
            paths["timeline"].write_text(drawn, encoding="utf-8")
    facts = {"name": clip.video.name, **files, "frames": film.count, "seconds": clip.seconds}
    results.add_video(facts | ({"reason": clip.reason} if clip.reason else {}))


def _encoder(clip: Clip, container: Any) -> tuple[Any, Fraction]:
    """A video stream for a clip, and seconds per unit of its times.

    H.264 where FFmpeg has x264, else MPEG-4 part 2, whose units may not be as small as those of a
    source. Both store colours of 2×2 pixels, so an odd width or height is one more: the last column
    or row comes twice.
    """
    if "libx264" in _av().codecs_available:
        codec, options, base = "libx264", {"crf": "20", "preset": "veryfast"}, clip.time_base
    else:
        codec, options, base = "mpeg4", {"flags": "+qscale", "global_quality": "354"}, _COMMON
    stream = container.add_stream(codec, rate=clip.rate, options=options)
    height, width = clip.size
    stream.width, stream.height = width + width % 2, height + height % 2
    stream.pix_fmt = "yuv420p"
    context = stream.codec_context
    context.time_base = stream.time_base = base
    context.sample_aspect_ratio = clip.aspect
    context.colorspace = context.color_primaries = context.color_trc = _BT709
    context.color_range = _LIMITED
    return stream, base


def _turned(pixels: np.ndarray, frame: Any) -> np.ndarray:
    """Pixels (H, W, …) of a frame as its display matrix turns and mirrors them, by quarters."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return pixels
    # x' = a x + c y and y' = b x + d y, see tkhd in ISO/IEC 14496-12
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist()
    if abs(b) > abs(a):
        pixels, a, d = pixels.swapaxes(0, 1), c, b
    return pixels[:: 1 if d >= 0 else -1, :: 1 if a >= 0 else -1]


def _av() -> ModuleType:
    try:
        import av
    except ImportError as error:
        raise ExtraError("av", "video") from error
    return av
