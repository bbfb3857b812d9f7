"""A picture of what was found in a video over time, as an SVG for pages light and dark."""

import csv
import math
from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import escape

from polyp_utils.apply.outputs import COLOURS

_WIDTH, _LEFT, _RIGHT = 720, 52, 24  # pixels: of the picture, and of its margins
_PANEL, _GAP, _TOP = 84, 34, 26
_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200)  # seconds
_GREY = "#808080"  # legible on white and on black


def timeline(table: Path, seconds: float, title: str, doubt: str) -> str:
    """The SVG of a video's table: area and doubt over time, the largest of each pixel column.

    Args:
        table: CSV with the columns ``time``, ``area`` and ``doubt``, see `polyp_utils.apply.video`.
        seconds: that the video lasts.
        title: of the picture, for those who cannot see it.
        doubt: name of the column of doubt.
    """
    columns: dict[int, tuple[float, ...]] = {}
    wide = _WIDTH - _LEFT - _RIGHT
    for at, *values in _values(table, doubt):
        column = round(at / seconds * wide)
        columns[column] = tuple(map(max, values, columns.get(column, values)))
    panels = (("polyp area, % of the frame", 100, COLOURS[1]), (f"doubt ({doubt})", 1, COLOURS[2]))
    height = _TOP + 2 * _PANEL + _GAP + 38
    svg = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img" '
        f'font-family="sans-serif" font-size="12" fill="{_GREY}">',
        f"<title>{escape(title)}</title>",
    ]
    for index, (label, unit, colour) in enumerate(panels):
        top = _TOP + index * (_PANEL + _GAP)
        curve = {x: unit * values[index] for x, values in sorted(columns.items())}
        most = _round_up(max(*curve.values(), unit / 100))
        svg += [_text(_LEFT, top - 8, label, "start"), *_panel(curve, most, top, colour)]
    bottom = height - 38
    step = next((s for s in _STEPS if seconds / s <= 10), math.ceil(seconds / 10))
    for tick in range(0, math.floor(seconds) + 1, step):
        x = _LEFT + tick / seconds * wide
        svg += [_line(x, bottom, x, bottom + 4), _text(x, bottom + 17, _clock(tick), "middle")]
    svg += [_text(_WIDTH - _RIGHT, bottom + 33, "time, min:s", "end"), "</svg>"]
    return "\n".join(svg) + "\n"


def _values(table: Path, doubt: str) -> Iterator[tuple[float, float, float]]:
    with table.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            yield float(row["time"]), float(row["area"]), float(row[doubt])


def _panel(
    curve: dict[int, float], most: float, top: int, colour: tuple[int, int, int]
) -> list[str]:
    """A filled curve, pixel column -> value, on an axis from 0 to ``most``."""
    bottom = top + _PANEL
    points = [f"{_LEFT + x},{bottom - value / most * _PANEL:.1f}" for x, value in curve.items()]
    ends = f"{_LEFT + max(curve)},{bottom} {_LEFT + min(curve)},{bottom}"
    paint = "#{:02x}{:02x}{:02x}".format(*colour)
    svg = [
        f'<polygon points="{" ".join(points)} {ends}" fill="{paint}" fill-opacity="0.35"/>',
        f'<polyline points="{" ".join(points)}" fill="none" stroke="{paint}" stroke-width="1.5"/>',
    ]
    for part in (0, 0.5, 1):
        y = bottom - part * _PANEL
        svg.append(_line(_LEFT, y, _WIDTH - _RIGHT, y, opacity=0.4 if part else 1))
        svg.append(_text(_LEFT - 6, y + 4, f"{part * most:.3g}", "end"))
    return svg


def _round_up(value: float) -> float:
    """The next even number of one digit, or 1, times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 4, 6, 8, 10) if step * power >= value * (1 - 1e-9))


def _clock(seconds: int) -> str:
    return f"{seconds // 60}:{seconds % 60:02}"


def _line(x1: float, y1: float, x2: float, y2: float, opacity: float = 1) -> str:
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {ends} stroke="{_GREY}" stroke-opacity="{opacity}"/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
