"""The tables of what commands and inputs were put through."""

import pandas as pd

from polyp_utils.publish.markdown import markdown_table
from polyp_utils.runs.published import published_path
from polyp_utils.runs.run import Run

_PARTS = {  # the table of a part -> how its rows begin
    "kills": "{} at a change on disk",
    "moments": "{} at a random moment",
    "writes": "{} from a change on disk on",
    "disk": "{}, a file system of its own",
    "states": "{}",
}
_COMMANDS = ("cache", "train", "evaluate", "predict", "publish", "report")


def fault_table(_: list[Run]) -> str:
    """Faults with the right end, of all, by kind and command; a dash where there are none."""
    rows = []
    for part, begin in _PARTS.items():
        path = published_path(f"faults/{part}.csv")
        table = pd.read_csv(path) if path.is_file() else pd.DataFrame({"fault": []})
        for fault, of_kind in table.groupby("fault", sort=False):
            cells = [_share(of_kind[of_kind["command"] == command]) for command in _COMMANDS]
            rows.append([begin.format(fault), *cells])
    return markdown_table(["fault", *(f"`{name}`" for name in _COMMANDS)], rows)


_ASKED = {  # what is asked of a corrupted input -> what was corrupted
    "pixels": "images, masks, folders",
    "scores": "another system's predictions",
    "split": "split files",
    "weights": "weights",
    "evaluation": "a run's record and predictions",
    "table": "a run's scores",
}


def corruption_table(_: list[Run]) -> str:
    """Corrupted inputs: what had to come of them, and how many did not come to it."""
    path, rows = published_path("faults/corruptions.csv"), []
    table = pd.read_csv(path) if path.is_file() else pd.DataFrame({"asked": []})
    for asked, what in _ASKED.items():
        of = table[table["asked"] == asked]
        if len(of):
            wanted = of["expected"].value_counts()
            cells = [wanted.get(kind, 0) for kind in ("refused", "clean", "other", "any")]
            wrong = (of["outcome"] != "as named").sum()
            rows.append([what, *map(str, (of["corruption"].nunique(), *cells, wrong))])
    head = ["what is corrupted", "ways", "to be refused", "to give the clean result"]
    head += ["to give another, worked out", "neither traceback nor loss", "came to something else"]
    return markdown_table(head, rows)


def _share(faults: pd.DataFrame) -> str:
    right = faults["outcome"].isin(["equal", "refused"]).sum()
    return f"{right} of {len(faults)}" if len(faults) else "–"
