"""Tables of data sets, splits, recipes and settings; they need no run."""

from dataclasses import fields

import pandas as pd
from scipy import stats

from polyp_utils.common.config import RECIPES, RunConfig
from polyp_utils.data.catalog import get_info
from polyp_utils.data.duplicates import group, pairwise_agreement
from polyp_utils.data.known import known_pairs, known_sequences, leaks
from polyp_utils.data.split import PARTS
from polyp_utils.data.splits import load_split, split_names
from polyp_utils.publish.markdown import markdown_table, value_text
from polyp_utils.runs.published import published_path
from polyp_utils.runs.run import Run
from polyp_utils.score.intervals import Interval


def split_leak_table(runs: list[Run]) -> str:
    """Markdown: every split but the folds, and what crosses its parts; needs no run."""
    rows = []
    for dataset in ("kvasir-seg", "cvc-clinicdb", "neopolyp"):
        for name in (name for name in split_names(dataset) if "fold" not in name):
            split = load_split(name, dataset)
            sizes = "/".join(str(len(split.part(part))) for part in PARTS)
            found = leaks(split, dataset)
            cells = [_crossing(found, what) for what in ("near-duplicate pairs", "video sequences")]
            rows.append([get_info(dataset).title, f"`{name}`", sizes, *cells])
    head = ["data set", "split", "train/val/test"]
    head += ["near-duplicate pairs that cross it", "video sequences that cross it"]
    return markdown_table(head, rows)


def _crossing(found: dict[str, tuple[int, int]], what: str) -> str:
    return "{} of {}".format(*found[what]) if what in found else "–"


def eye_table(runs: list[Run]) -> str:
    """Markdown: what the flagged pairs of Kvasir-SEG are, looked at one by one; needs no run."""
    table = pd.read_csv(published_path("kvasir-seg/pairs_by_eye.csv"))
    counts = table["by_eye"].value_counts()
    same, n = int(counts["same"]), len(table)
    low, high = stats.binomtest(same, n).proportion_ci(method="wilson")
    row = [str(n), *(str(counts.get(kind, 0)) for kind in ("same", "unsure", "different"))]
    row.append(str(Interval(same / n, low, high, n)))
    head = ["pairs flagged", "the same place", "unsure", "different", "precision [95 %]"]
    return markdown_table(head, [row])


def duplicate_recall_table(runs: list[Run]) -> str:
    """Markdown: how many known copies of Kvasir-SEG's frames are flagged; needs no run."""
    table = pd.read_csv(published_path("kvasir-seg/recall.csv"))
    rows = []
    for _, alike in table.groupby(["found", "n"], sort=False):
        first = alike.iloc[0]
        cells = [f"{first['found']} of {first['n']}", str(Interval.of(first, "recall"))]
        rows.append(["; ".join(alike["copy"]), *cells])
    return markdown_table(["copies", "flagged of each", "recall [95 %]"], rows)


def sequence_table(runs: list[Run]) -> str:
    """Markdown: how far near-duplicates recover CVC-ClinicDB's sequences; needs no run."""
    sequences = known_sequences("cvc-clinicdb")
    pairs = pd.DataFrame(known_pairs("cvc-clinicdb"))
    flagged = pairs["id_a"].map(sequences) == pairs["id_b"].map(sequences)
    linked = pairwise_agreement(group(list(sequences), pairs), sequences)
    true = pd.Series(sequences).value_counts()
    total = int((true * (true - 1)).sum() / 2)
    rows = [
        ["flagged pairs", f"{flagged.mean():.3f}", f"{flagged.sum() / total:.3f}"],
        ["and what they link", *(f"{value:.3f}" for value in linked)],
    ]
    return markdown_table([f"{total} pairs of frames in 29 sequences", "precision", "recall"], rows)


def recipe_table(_: list[Run]) -> str:
    """What each recipe changes in the settings of the model card."""
    card = RECIPES["card"].to_dict()
    rows = []
    for name, recipe in RECIPES.items():
        changes = [
            f"{setting} {value_text(value)}"
            for setting, value in recipe.to_dict().items()
            if value != card[setting] and setting != "recipe"
        ]
        rows.append([f"`{name}`", ", ".join(changes) or "–"])
    return markdown_table(["recipe", "differs from `card` in"], rows)


def setting_table(_: list[Run]) -> str:
    """Every setting of a run, what it means, and its value in the model card's recipe."""
    rows = [
        [f"`{setting.name}`", setting.metadata["help"], value_text(setting.default)]
        for setting in fields(RunConfig)
    ]
    return markdown_table(["setting", "meaning", "in `card`"], rows)
