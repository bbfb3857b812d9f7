"""The tables in the documents are those that the published runs' files give."""

import json
import re
from pathlib import Path

import pytest

from polyp_utils import report
from polyp_utils.evaluation import CARD, POLYP
from polyp_utils.runs import Run

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", report.DOCUMENTS)
def test_documents_hold_what_the_runs_say(name):
    text = (ROOT / name).read_text()
    assert report.render(text, report.published()) == text


@pytest.mark.parametrize("run", report.published(), ids=lambda run: run.name)
def test_every_published_run_stands_in_the_table_with_its_own_headline(run):
    rows = json.loads((run.path / "summary.json").read_text())["scores"]
    headline = next(row for row in rows if (row["class"], row["score"]) == (POLYP, "dice"))
    (line,) = (
        x
        for x in (ROOT / "README.md").read_text().splitlines()
        if f"`{run.name}`" in x and "**" in x
    )
    assert f"**{headline['mean']:.3f}** [{headline['low']:.3f}, {headline['high']:.3f}]" in line
    size = sum(path.stat().st_size for path in run.path.rglob("*") if path.is_file())
    assert size < 12e6, f"{run.name} has {size / 1e6:.1f} MB"


def test_render_fills_marked_tables_and_nothing_else(tmp_path):
    row = {"class": POLYP, "score": "dice", "mean": 0.5, "low": 0.4, "high": 0.6}
    scores = [{**row, "protocol": "original size, per image"}]
    run = Run(tmp_path / "a-run")
    run.path.mkdir()
    settings = {"scheme": "unused-third", "width": 32}
    (run.path / "config.json").write_text(json.dumps({"settings": settings}))
    summary = {"n": 7, "scores": scores, "card": dict.fromkeys(CARD, 0.25)}
    (run.path / "summary.json").write_text(json.dumps(summary))
    text = "before\n<!-- table: scores -->\nold\n<!-- end -->\nafter <!-- table: cost"
    once = report.render(text, [run])
    assert "old" not in once
    assert once.startswith("before\n")
    assert once.endswith("\nafter <!-- table: cost")
    cells = "| `a-run` | unused-third | 32 | **0.500** [0.400, 0.600] | – | – | 7 |"
    assert cells in once
    assert report.render(once, [run]) == once
    card = report.card_table([run])
    assert "| model card | not said | 0.9036 | 0.9169 | 0.3322 |" in card
    assert re.search(r"`a-run` \| unused-third \| 0\.2500 \| 0\.2500 \| 0\.2500 \| 0\.500", card)
