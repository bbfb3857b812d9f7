"""Which frames may be shown in what is published: those of sets whose terms allow it.

`DatasetInfo.shown` decides; results/README.md says why. Figures that show frames are JPEG.
"""

import json
from pathlib import Path

from polyp_utils.common.files import write_text
from polyp_utils.data.catalog import CATALOG


def may_show(dataset: str) -> bool:
    """Whether frames of the set may be shown; never those of a set outside the catalogue."""
    return dataset in CATALOG and CATALOG[dataset].shown


def hidden_figures(folder: Path, dataset: str) -> list[Path]:
    """The figures of a run folder with frames that may not be shown."""
    return [] if may_show(dataset) else sorted(folder.glob("figures/*.jpg"))


def hide_frames(notebook: Path, dataset: str) -> int:
    """Removes outputs with frames that may not be shown from an executed notebook.

    A sentence takes their place. The metadata of a figure name the set that its frames are from,
    see `plots.frames_as_jpeg`; without them it is the notebook's own.

    Args:
        notebook: a file, changed in place.
        dataset: the name of its data set.

    Returns:
        Number of outputs removed.
    """
    content = json.loads(notebook.read_text(encoding="utf-8"))
    hidden = 0
    for cell in content["cells"]:
        for output in cell.get("outputs", ()):
            if "image/jpeg" in output.get("data", {}):
                of = output["metadata"].get("image/jpeg", {}).get("frames_of") or dataset
                if not may_show(of):
                    name = CATALOG[of].title if of in CATALOG else of
                    text = f"Left out: frames of {name} are not shown here, see results/README.md."
                    output |= {"data": {"text/markdown": [f"*({text})*"]}, "metadata": {}}
                    hidden += 1
    if hidden:
        write_text(notebook, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return hidden
