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
_NUMBERS = ("regions", "area", "height", "width", "time")
_DOUBTS = {"self_doubt": "self-doubt", "disagreement": "disagreement of mirrored copies"}


def write_page(folder: Path) -> Path:
    """Writes ``index.html`` from ``frames.csv`` and ``summary.json`` of a folder of predictions.

    It shows ``thumbnails/<frame>.jpg``, ``overlays/<frame>.jpg`` and, laid over these,
    ``masks/<frame>.png``, whose background is transparent.

    Args:
        folder: see `polyp_utils.apply.results`. ``summary.json`` also has, where there are such,
            classes (name -> colour in the masks, as CSS writes it) and videos (name, file,
            timeline, csv: paths in the folder).

    Returns:
        The page's path.
    """
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    videos = [
        video | {key: quote(video[key]) for key in ("file", "timeline", "csv")}
        for video in summary.get("videos", [])
    ]
    doubt = summary["doubt"]
    data = {"model": summary["model"]["name"], "settings": summary["settings"]}
    data |= {"doubt": _DOUBTS[doubt], "classes": summary.get("classes", {}), "videos": videos}
    data["frames"] = _columns(folder / "frames.csv", doubt)
    page = folder / "index.html"
    write_text(page, _TEMPLATE.read_text(encoding="utf-8").replace(_PLACE, _inline(data)))
    return page


def _columns(path: Path, doubt: str) -> dict[str, list[Any]]:
    """What the page shows of each frame, by column; ``url`` is the frame's name in addresses."""
    table = pd.read_csv(
        path,
        usecols=["frame", "source", "found", *_NUMBERS, doubt],
        dtype={"frame": str, "source": str, "found": bool},
        keep_default_na=False,  # a frame may be called NA
        na_values={number: [""] for number in (*_NUMBERS, doubt)},
    ).rename(columns={doubt: "doubt"})
    table["url"] = table["frame"].map(quote)
    known = table.astype(object).where(table.notna(), None)
    return {str(name): values.tolist() for name, values in known.items()}


def _inline(data: dict[str, Any]) -> str:
    """JSON that no HTML parser takes for markup, whatever the names hold."""
    return json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
