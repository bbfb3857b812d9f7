"""Which frames may be seen in what is published: those of sets whose terms allow it.

`DatasetInfo.shown` says so; results/README.md says why. A figure that shows frames is JPEG.
"""

import json
from pathlib import Path

from polyp_utils.common.files import write_text
from polyp_utils.data.catalog import CATALOG


def may_show(dataset: str) -> bool:
    """Whether frames of the set may be seen; of one that is not in the catalogue they may not."""
    return dataset in CATALOG and CATALOG[dataset].shown


def hidden_figures(folder: Path, dataset: str) -> list[Path]:
    """The figures of a run folder that show frames which may not be seen."""
    return [] if may_show(dataset) else sorted(folder.glob("figures/*.jpg"))


def hide_frames(notebook: Path, dataset: str) -> int:
    """Takes outputs that show frames which may not be seen out of an executed notebook.

    A sentence stands in their place. What a figure shows, its metadata say, see
    `plots.frames_as_jpeg`, or else it is of the notebook's own set.

    Args:
        notebook: a file, changed in place.
        dataset: the name of its data set.

    Returns:
        How many outputs were taken out.
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
