"""The page of a folder of predictions: `index.html`, opened from disk without network.

Styles, script and numbers stand in the page itself (`page.html`); pictures lie beside it.
"""

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd

from polyp_utils.common.files import write_text

_TEMPLATE = Path(__file__).with_suffix(".html")
_PLACE = "{{ data }}"
_NUMBERS = ("regions", "area", "doubt", "height", "width", "time")


def write_page(folder: Path) -> Path:
    """Writes ``index.html`` from ``frames.csv`` and ``summary.json`` of a folder of predictions.

    It shows ``thumbnails/<frame>.jpg``, ``overlays/<frame>.jpg`` and, laid over these,
    ``masks/<frame>.png``, whose background is transparent.

    Args:
        folder: ``frames.csv`` has the columns frame, source, found, regions, area and doubt (both
            0–1), height and width (px), time (seconds; empty for images). ``summary.json`` has
            model, settings, doubt (which doubt it is) and, where there are such, classes (name ->
            colour in the masks, as CSS writes it) and videos (name, file, timeline, csv: paths
            in the folder).

    Returns:
        The page's path.
    """
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    videos = [
        {key: value if key == "name" else quote(value) for key, value in video.items()}
        for video in summary.get("videos", [])
    ]
    data = {key: summary[key] for key in ("model", "settings", "doubt")}
    data |= {"classes": summary.get("classes", {}), "videos": videos}
    data["frames"] = _columns(folder / "frames.csv")
    page = folder / "index.html"
    write_text(page, _TEMPLATE.read_text(encoding="utf-8").replace(_PLACE, _inline(data)))
    return page


def _columns(path: Path) -> dict[str, list[Any]]:
    """What the page shows of each frame, by column; ``url`` is the frame's name in addresses."""
    table = pd.read_csv(
        path,
        usecols=["frame", "source", "found", *_NUMBERS],
        dtype={"frame": str, "source": str, "found": bool},
        keep_default_na=False,  # a frame may be called NA
        na_values={number: [""] for number in _NUMBERS},
    )
    table["url"] = table["frame"].map(quote)
    known = table.astype(object).where(table.notna(), None)
    return {str(name): values.tolist() for name, values in known.items()}


def _inline(data: dict[str, Any]) -> str:
    """JSON that no HTML parser takes for markup, whatever the names hold."""
    return json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
