"""The tables of results in the documents, made from the published runs' own files.

A document holds a pair of markers per table, and what stands between them is written by
``python -m polyp_utils report``: no number is typed by hand.
"""

import re
from pathlib import Path

from polyp_utils.analyse.ablation_results import comparisons, load, shown
from polyp_utils.bench.published_tables import (
    equivalence_table,
    folders,
    inference_dice,
    inference_speed,
    live_runtimes,
    machines,
    training_speed,
    whole_frames,
)
from polyp_utils.common.files import remove_leftovers, write_text
from polyp_utils.common.paths import repo_root
from polyp_utils.publish.data_tables import (
    duplicate_recall_table,
    eye_table,
    recipe_table,
    sequence_table,
    setting_table,
    split_leak_table,
)
from polyp_utils.publish.fault_table import corruption_table, fault_table
from polyp_utils.publish.findings import (
    finding,
    findings,
    headline_table,
    released_finding,
    summary_table,
)
from polyp_utils.publish.markdown import whole_table
from polyp_utils.publish.run_tables import (
    away_table,
    card_table,
    class_table,
    cost_table,
    false_alarm_table,
    literature_table,
    mirror_table,
    polyp_kind_table,
    prototype_table,
    run_protocol_table,
    score_table,
    seed_table,
    times_table,
)
from polyp_utils.runs.published import published
from polyp_utils.runs.run import Run
from polyp_utils.train.ablation import folder_of

DOCUMENTS = (
    "README.md",
    "notebooks/README.md",
    "polyp_utils/README.md",
    *(
        f"results/{name}.md"
        for name in ("README", "metrics", "reproduce", "robustness", "speed", "splits")
    ),
)


TABLES = {
    "recipes": recipe_table,
    "settings": setting_table,
    "eye": eye_table,
    "recall": duplicate_recall_table,
    "sequences": sequence_table,
    "splits": split_leak_table,
    "findings": findings,
    "summary": summary_table,
    "released": released_finding,
    "finding": finding,
    "scores": score_table,
    "seeds": seed_table,
    "card": card_table,
    "protocols": run_protocol_table,
    "literature": literature_table,
    "prototypes": prototype_table,
    "headline": headline_table,
    "away": away_table,
    "mirrors": mirror_table,
    "false alarms": false_alarm_table,
    "machines": lambda _: whole_table(machines()),
    "training speed": lambda _: whole_table(training_speed()),
    "inference speed": lambda _: whole_table(inference_speed()),
    "whole frames": lambda _: whole_table(whole_frames()),
    "inference Dice": lambda _: whole_table(inference_dice()),
    "live": lambda _: live_runtimes(),
    "equivalence": lambda _: whole_table(equivalence_table()),
    "folders": lambda _: whole_table(folders()),
    "classes": class_table,
    "kinds": polyp_kind_table,
    "ablation": lambda _: whole_table(shown(comparisons(load(folder_of(16, 128))))),
    "cost": cost_table,
    "times": times_table,
    "faults": fault_table,
    "corruptions": corruption_table,
}


def render(text: str, runs: list[Run]) -> str:
    """The document with each marked table written anew."""
    for name, make in TABLES.items():
        marker = f"<!-- table: {name} -->"
        if marker in text:
            marked = re.compile(rf"({marker}).*?(<!-- end -->)", flags=re.DOTALL)
            table = make(runs).replace("\\", r"\\")  # a backslash is itself, no group
            text = marked.sub(rf"\1\n\n{table}\n\n\2", text)
    return text


def write() -> list[Path]:
    """Writes the tables into the documents; returns those that changed."""
    changed = []
    for path in (repo_root() / name for name in DOCUMENTS):
        remove_leftovers(path.parent.glob(f".{path.name}.*.tmp"))
        old = path.read_text(encoding="utf-8")
        new = render(old, published())
        if new != old:
            write_text(path, new)
            changed.append(path)
    return changed
