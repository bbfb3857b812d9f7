"""Videos through the verb predict: films, times, turns, and videos that are not whole."""

import csv
import json
import re
import struct
import sys
import xml.etree.ElementTree as ET
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from polyp_utils import load_model
from polyp_utils.apply import video
from polyp_utils.apply.inputs import Input
from polyp_utils.apply.outputs import COLOURS
from polyp_utils.apply.predict import predict_paths
from polyp_utils.apply.timeline import timeline
from polyp_utils.cli import main
from polyp_utils.common.exceptions import DataError, ExtraError
from polyp_utils.data import phantom
from polyp_utils.data.regions import components
from polyp_utils.model.unet import UNet
from polyp_utils.model.weights import read_metadata, save_weights

av = pytest.importorskip("av")

SIZE = 48, 64  # height, width


@pytest.fixture(scope="session")
def stills():
    """Frames with a polyp, and one without; the top left corner of all is blue."""
    drawn = [phantom.draw_phantom(index)[0] for index in range(5)]
    drawn.append(phantom.draw_phantom(9, with_polyps=False)[0])
    small = [np.array(Image.fromarray(image).resize(SIZE[::-1])) for image in drawn]
    for image in small:
        image[:12, :16] = (0, 0, 255)
    return small


@pytest.fixture
def weights(tiny_runs):
    return tiny_runs["trimap"].weights


@pytest.fixture
def blind(weights, tmp_path):
    """Weights that find nothing, so that no outline covers a pixel."""
    model = UNet(3, 3, 4)
    model.output.bias.data[0] = 100  # of background
    save_weights(tmp_path / "blind.safetensors", model, read_metadata(weights))
    return tmp_path / "blind.safetensors"


@pytest.fixture
def make(stills, tmp_path):
    """Writes a video of the frames, each shown for a fifth of a second unless times are given."""

    def make(
        name="clip.mp4",
        count=30,
        times=None,
        size=SIZE,
        codec="libx264",
        sound=0,
        aspect=1,
        **options,
    ):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        with av.open(str(path), "w", options=options) as container:
            stream = container.add_stream(codec, rate=25, options={"qp": "10"})
            stream.height, stream.width = size
            stream.codec_context.sample_aspect_ratio = Fraction(aspect)
            if times:
                stream.codec_context.time_base = Fraction(1, 1000)
            stream.pix_fmt = "yuv444p" if size[0] % 2 else "yuv420p"
            if sound:
                hearable = container.add_stream("aac", rate=48000, layout="mono")
            for index in range(count):
                image = Image.fromarray(stills[index // 5 % len(stills)]).resize(size[::-1])
                frame = av.VideoFrame.from_image(image)
                if times:
                    frame.pts, frame.time_base = times[index], Fraction(1, 1000)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
            if sound:
                silence = np.zeros((1, 48000 * sound), np.float32)
                frame = av.AudioFrame.from_ndarray(silence, "fltp", "mono")
                frame.sample_rate = 48000
                container.mux(hearable.encode(frame))
                container.mux(hearable.encode(None))
        return path

    return make


def decoded(path):
    """Times in seconds and frames, RGB uint8 (H, W, 3), of a video."""
    with av.open(str(path)) as container:
        pairs = [
            (frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)
        ]
    return [time for time, _ in pairs], [frame for _, frame in pairs]


def facts(out):
    (entry,) = json.loads((out / "summary.json").read_text())["videos"]
    return entry


def table(path):
    return pd.read_csv(path, dtype={"source": str})


def test_every_frame_is_in_the_film_and_its_table_one_a_second_on_the_page(make, weights, tmp_path):
    clip = make(count=60, sound=4)  # sound that lasts longer is no reason to miss frames
    done = predict_paths([clip], tmp_path / "out", weights)
    assert (done.frames, done.videos, done.new, done.unreadable) == (3, 1, 60, 0)
    with av.open(str(done.path / "videos/clip.mp4")) as film:
        assert [stream.type for stream in film.streams] == ["video"]
        stream = film.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert (stream.height, stream.width) == SIZE
        assert (stream.average_rate, stream.frames) == (25, 60)
    times, frames = decoded(clip)
    rows = table(done.path / "videos/clip.csv")
    assert list(rows["frame"]) == list(range(60))
    assert list(rows["time"]) == pytest.approx(times, abs=1e-6)
    assert rows["area"].nunique() > 5, "else the test says little"
    model = load_model(weights)
    for index in range(0, 60, 7):
        regions = components(model.polyp_mask(frames[index]))
        assert rows["regions"][index] == len(regions)
        assert rows["area"][index] == pytest.approx(sum(map(np.mean, regions)), abs=1e-5)
    listed = table(done.path / "frames.csv")
    assert list(listed["frame"]) == ["clip/00000.00", "clip/00001.00", "clip/00002.00"]
    assert list(listed["time"]) == [0, 1, 2]
    for column in ("found", "regions", "area", "self_doubt"):
        assert list(listed[column]) == list(rows[column][::25])
    for name, index in zip(listed["frame"], range(0, 60, 25), strict=True):
        classes = np.asarray(Image.open(done.path / f"masks/{name}.png"))
        assert (classes == model.class_map(frames[index])).all()
        assert Image.open(done.path / f"overlays/{name}.jpg").size == SIZE[::-1]
        assert (done.path / f"thumbnails/{name}.jpg").is_file()
    page = (done.path / "index.html").read_text(encoding="utf-8")
    assert all(f"videos/clip.{kind}" in page for kind in ("mp4", "csv", "svg"))
    assert facts(done.path) == {
        "name": "clip",
        "file": "videos/clip.mp4",
        "csv": "videos/clip.csv",
        "timeline": "videos/clip.svg",
        "frames": 60,
        "seconds": 2.4,
    }


def test_a_film_has_the_colours_of_its_source_and_outlines(make, weights, tmp_path):
    out = predict_paths([make(size=(192, 256))], tmp_path / "out", weights).path
    for frame, film in zip(
        *(decoded(p)[1] for p in (tmp_path / "clip.mp4", out / "videos/clip.mp4")), strict=True
    ):
        # the median, as what such small networks mark, and so outline, depends on rounding
        corner = np.s_[4:40, 4:50]
        difference = np.median(frame[corner], (0, 1)) - np.median(film[corner], (0, 1))
        assert np.abs(difference).max() < 6
    drawn = np.asarray(Image.open(out / "overlays/clip/00000.00.jpg")).astype(int)
    pink = np.abs(drawn - COLOURS[1]).max(axis=2) < 60
    assert pink.any()
    film = decoded(out / "videos/clip.mp4")[1][0]
    red, green, blue = film[pink].mean(axis=0)
    assert min(red, blue) > green + 60


def test_times_of_a_variable_rate_are_kept(make, weights, tmp_path):
    times = [0, 40, 50, 300, 1200, 1210, 3000, 3500]
    clip = make("clip.mkv", count=len(times), times=times)
    out = predict_paths([clip], tmp_path / "out", weights).path
    assert decoded(out / "videos/clip.mp4")[0] == pytest.approx([t / 1000 for t in times])
    assert list(table(out / "videos/clip.csv")["time"]) == [t / 1000 for t in times]
    names = ["clip/00000.00", "clip/00001.20", "clip/00003.00"]  # 3.5 is of the same second
    assert list(table(out / "frames.csv")["frame"]) == names


def test_times_that_begin_anew_go_on_in_the_film(make, weights, tmp_path):
    parts = [make(f"{name}.ts", count=40).read_bytes() for name in "ab"]
    (tmp_path / "both.mpg").write_bytes(b"".join(parts))
    out = predict_paths([tmp_path / "both.mpg"], tmp_path / "out", weights).path
    times = decoded(out / "videos/both.mp4")[0]
    assert len(times) == 80
    assert (np.diff(times) > 0).all()
    assert times[-1] == pytest.approx(79 / 25, abs=0.1)
    assert table(out / "frames.csv")["frame"].is_unique


def test_a_video_that_does_not_say_how_long_it_is(make, weights, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("polyp_utils.common.progress.SILENCE", 0)
    monkeypatch.setattr("polyp_utils.common.progress.SHARE", 0)
    live = make("clip.mkv", count=30, live="1")
    assert video.count_frames(Input(live, "clip")) == 0
    out = predict_paths([live], tmp_path / "out", weights).path
    assert facts(out)["frames"] == 30
    assert "reason" not in facts(out)
    said = capsys.readouterr().out
    assert re.search(r"^20 frames, [\d.]+ per second$", said, flags=re.M)
    predict_paths([make("told.mp4", count=30)], tmp_path / "told", weights)
    said = capsys.readouterr().out
    assert re.search(r"^20 of 30 frames, [\d.]+ per second  about \d+ s left$", said, flags=re.M)


TURNS = {  # a, b, c and d of the display matrix -> what a player shows; the second is a phone's
    (-1, 0, 0, -1): lambda image: image[::-1, ::-1],
    (0, 1, -1, 0): lambda image: np.rot90(image, -1),
    (0, -1, 1, 0): lambda image: np.rot90(image),
    (-1, 0, 0, 1): lambda image: image[:, ::-1],
}


@pytest.mark.parametrize("turn", TURNS, ids=str)
def test_frames_are_turned_as_a_player_would(make, blind, tmp_path, turn):
    clip = make(count=2, aspect="16/11")
    data = bytearray(clip.read_bytes())
    a, b, c, d = (n << 16 for n in turn)
    struct.pack_into(">9i", data, data.index(b"tkhd") + 44, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    clip.write_bytes(data)
    out = predict_paths([clip], tmp_path / "out", blind).path
    frame = decoded(clip)[1][0]  # as it is stored
    film = decoded(out / "videos/clip.mp4")[1][0]
    expected = TURNS[turn](frame)
    assert film.shape == expected.shape
    with av.open(str(out / "videos/clip.mp4")) as container:
        lying = expected.shape == frame.shape
        aspect = container.streams.video[0].sample_aspect_ratio
        assert aspect == (Fraction(16, 11) if lying else Fraction(11, 16))
    blue = expected[..., 2] > expected[..., 0].astype(int) + 128
    assert 100 < blue.sum() < 300
    assert film[blue, 2].mean() > film[blue, 0].mean() + 100
    row = table(out / "frames.csv").iloc[0]
    assert (row["height"], row["width"]) == expected.shape[:2]
    assert Image.open(out / "masks/clip/00000.00.png").size == expected.shape[1::-1]


def test_an_odd_size_has_one_more_in_the_film_only(make, weights, tmp_path):
    out = predict_paths([make(count=3, size=(47, 33))], tmp_path / "out", weights).path
    assert decoded(out / "videos/clip.mp4")[1][0].shape == (48, 34, 3)
    assert Image.open(out / "masks/clip/00000.00.png").size == (33, 47)
    assert Image.open(out / "overlays/clip/00000.00.jpg").size == (33, 47)


def test_without_x264_a_film_is_mpeg4(make, weights, tmp_path, monkeypatch):
    times = [0, 40, 90, 133, 200]
    clip = make("clip.mkv", count=5, times=times)
    monkeypatch.setattr(av, "codecs_available", av.codecs_available - {"libx264"})
    out = predict_paths([clip], tmp_path / "out", weights).path
    with av.open(str(out / "videos/clip.mp4")) as film:
        assert film.streams.video[0].codec_context.name == "mpeg4"
    assert decoded(out / "videos/clip.mp4")[0] == pytest.approx([t / 1000 for t in times], abs=1e-4)


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("clip.mp4", "libx264", {"movflags": "faststart"}),
        ("clip.mkv", "libx264", {}),
        ("clip.avi", "mpeg4", {}),
    ],
)
def test_of_a_video_that_ends_early_what_there_is_is_kept(
    make, weights, tmp_path, capsys, name, codec, options
):
    clip = make(name, count=150, codec=codec, **options)
    data = clip.read_bytes()
    clip.write_bytes(data[: len(data) // 2])
    out = tmp_path / "out"
    assert main(["predict", str(clip), "--out", str(out), "--weights", str(weights)]) == 0
    frames = len(decoded(out / "videos/clip.mp4")[1])
    assert 30 < frames < 120
    assert facts(out)["frames"] == frames == len(table(out / "videos/clip.csv"))
    reason = facts(out)["reason"]
    assert f"{clip} ends early: {frames} of about 150 frames" in reason
    assert reason in capsys.readouterr().out


def test_a_damaged_video_is_said(make, weights, tmp_path):
    clip = make(count=100)
    with av.open(str(clip)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    data = bytearray(clip.read_bytes())
    for pos, size in packets[40:43]:
        data[pos : pos + size] = b"\xff" * size
    clip.write_bytes(data)
    out = predict_paths([clip], tmp_path / "out", weights).path
    assert 80 < facts(out)["frames"] < 100
    assert "clip.mp4 is damaged: 3 packets could not be decoded" in facts(out)["reason"]


def write_sound(path):
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=48000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), "fltp", "mono")
        frame.sample_rate = 48000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def test_videos_without_frames_are_listed_each_with_its_reason(make, weights, tmp_path):
    folder = tmp_path / "videos"
    good = make("videos/good.mp4", count=3)
    write_sound(folder / "sound.mp4")
    (folder / "empty.mp4").touch()
    (folder / "page.avi").write_text("<html>")
    (folder / "unfinished.mp4").write_bytes(good.read_bytes()[: good.read_bytes().index(b"moov")])
    hollow = bytearray(good.read_bytes())
    start = hollow.index(b"mdat") + 4
    hollow[start : hollow.index(b"moov") - 4] = bytes(hollow.index(b"moov") - 4 - start)
    (folder / "hollow.mp4").write_bytes(hollow)
    out = tmp_path / "out"
    assert main(["predict", str(folder), "--out", str(out), "--weights", str(weights)]) == 1
    with (out / "unreadable.csv").open(newline="") as file:
        reasons = {Path(row["source"]).stem: row["reason"] for row in csv.DictReader(file)}
    assert reasons.keys() == {"empty", "hollow", "page", "sound", "unfinished"}
    for name in ("empty", "page", "unfinished"):
        assert "cannot be read as a video (Invalid data" in reasons[name]
    assert "sound.mp4 holds no video that can be decoded (only audio)" in reasons["sound"]
    assert "hollow.mp4 holds no frames that can be decoded" in reasons["hollow"]
    assert facts(out)["name"] == "good"
    assert sorted(p.name for p in (out / "videos").iterdir()) == [
        "good.csv",
        "good.mp4",
        "good.svg",
    ]


def test_a_finished_video_is_not_done_again_and_a_stopped_one_from_its_beginning(
    make, weights, tmp_path, monkeypatch
):
    clips = [make("clips/a.mp4", count=30), make("clips/b.mp4", count=60)]
    whole = predict_paths([clips[0].parent], tmp_path / "whole", weights).path
    out = tmp_path / "out"
    words = ["predict", str(clips[0].parent), "--out", str(out), "--weights", str(weights)]
    add = video.Film.add

    def interrupted(film, row, drawn):
        if row["time"] > 1.3 and row["source"] == clips[1]:
            raise KeyboardInterrupt
        add(film, row, drawn)

    with monkeypatch.context() as patch:
        patch.setattr(video.Film, "add", interrupted)
        assert main(words) == 130
    assert sorted(p.name for p in (out / "videos").iterdir()) == ["a.csv", "a.mp4", "a.svg"]
    assert list(table(out / "frames.csv")["frame"])[-1] == "b/00001.00"
    done = predict_paths([clips[0].parent], out, weights)
    assert (done.new, done.videos) == (60, 2)
    for name in ("frames", "components"):
        ours, theirs = (table(folder / f"{name}.csv") for folder in (out, whole))
        pd.testing.assert_frame_equal(
            ours.drop(columns="seconds", errors="ignore"),
            theirs.drop(columns="seconds", errors="ignore"),
        )
    before = {path: path.stat().st_mtime_ns for path in (out / "videos").iterdir()}
    assert predict_paths([clips[0].parent], out, weights).new == 0
    assert before == {path: path.stat().st_mtime_ns for path in (out / "videos").iterdir()}
    (out / "videos/a.mp4").unlink()
    assert predict_paths([clips[0].parent], out, weights).new == 30
    assert table(out / "frames.csv")["frame"].is_unique
    entries = json.loads((out / "summary.json").read_text())["videos"]
    assert sorted(entry["name"] for entry in entries) == ["a", "b"]


def test_maps_only_is_the_table_of_a_video_and_no_film(make, weights, tmp_path):
    out = predict_paths([make()], tmp_path / "out", weights, pictures=False).path
    assert [path.name for path in (out / "videos").iterdir()] == ["clip.csv"]
    assert facts(out).keys() == {"name", "csv", "frames", "seconds"}
    assert predict_paths([tmp_path / "clip.mp4"], out, weights, pictures=False).new == 0


def test_without_pyav_images_are_done_and_videos_name_the_extra(
    make, stills, weights, tmp_path, monkeypatch
):
    clip = make(count=2)
    Image.fromarray(stills[0]).save(tmp_path / "still.png")
    monkeypatch.setitem(sys.modules, "av", None)
    assert predict_paths([tmp_path / "still.png"], tmp_path / "out", weights).new == 1
    with pytest.raises(ExtraError, match="av is not installed: uv sync --extra video"):
        predict_paths([clip], tmp_path / "other", weights)
    assert not (tmp_path / "other").exists()


def test_an_image_may_not_be_called_like_a_videos_frame(make, stills, weights, tmp_path):
    make("in/clip.mp4", count=2)
    (tmp_path / "in/clip").mkdir()
    Image.fromarray(stills[0]).save(tmp_path / "in/clip/frame-1.png")
    assert predict_paths([tmp_path / "in"], tmp_path / "out", weights).frames == 2
    Image.fromarray(stills[0]).save(tmp_path / "in/clip/00000.00.png")
    with pytest.raises(DataError, match=r"00000\.00\.png .* a frame of the video clip: rename"):
        predict_paths([tmp_path / "in"], tmp_path / "out", weights)


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.ts"])
def test_frames_are_counted_by_the_container_or_its_duration(make, name):
    assert video.count_frames(Input(make(name, count=30), "clip")) == pytest.approx(30, abs=1)


def test_the_timeline_shows_the_largest_of_each_column(tmp_path):
    rows = [f"{i},{i / 25},True,1,{0.3 if i == 5000 else 0.1},0.05" for i in range(15000)]
    path = tmp_path / "clip.csv"
    path.write_text("\n".join(["frame,time,found,regions,area,self_doubt", *rows]))
    svg = ET.fromstring(timeline(path, 600, "a & b", "self_doubt"))
    of = "{http://www.w3.org/2000/svg}"
    texts = [text.text for text in svg.iter(f"{of}text")]
    assert {"polyp area, % of the frame", "doubt (self_doubt)", "time, min:s"} <= set(texts)
    assert {"0:00", "10:00", "40", "20", "0.06"} <= set(texts)
    area, doubt = (
        [tuple(map(float, point.split(","))) for point in line.get("points").split()]
        for line in svg.iter(f"{of}polyline")
    )
    assert len(area) <= 720
    (left, right), (top, *_) = (area[0][0], area[-1][0]), sorted(area, key=lambda point: point[1])
    assert (top[0] - left) / (right - left) == pytest.approx(1 / 3, abs=0.002)
    heights = {round((area[0][1] - top[1]) / 84, 3), *(y for _, y in doubt)}
    assert heights == {0.5, doubt[0][1]}  # (0.3 - 0.1) / 0.4 of the panel
    assert not re.search("nan|inf", ET.tostring(svg, encoding="unicode"))
