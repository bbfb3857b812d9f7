"""The tables in the documents are those that the published runs' files give."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from polyp_utils.analyse.false_alarms import CROPS
from polyp_utils.common.config import RELEASED, RunConfig
from polyp_utils.common.files import write_json
from polyp_utils.data.labels import POLYP
from polyp_utils.publish import run_tables, tables
from polyp_utils.runs.run import Run
from polyp_utils.score.literature import CARD
from polyp_utils.score.protocols import NETWORK, ORIGINAL, PROTOCOLS

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", tables.DOCUMENTS)
def test_documents_hold_what_the_runs_say(name):
    text = (ROOT / name).read_text()
    assert tables.render(text, tables.published()) == text


@pytest.mark.parametrize("run", tables.published(), ids=lambda run: run.name)
def test_every_published_run_stands_in_the_table_with_its_own_score(run):
    rows = json.loads((run.path / "summary.json").read_text())["scores"]
    score = next(row for row in rows if (row["class"], row["score"]) == (POLYP, "dice"))
    (line,) = (
        x
        for x in (ROOT / "results/README.md").read_text().splitlines()
        if x.startswith(f"| `{run.name}`") and "**" in x
    )
    assert f"**{score['mean']:.3f}** [{score['low']:.3f}, {score['high']:.3f}]" in line


@pytest.mark.parametrize("name", tables.DOCUMENTS)
def test_what_the_documents_link_to_is_there(name):
    links = re.findall(r"\]\(([^)]+)\)", (ROOT / name).read_text())
    here = {link for link in links if "://" not in link}
    assert here
    for file, _, anchor in (link.partition("#") for link in here):
        path = (ROOT / name).parent / file if file else ROOT / name
        assert path.exists(), file
        assert not anchor or anchor in anchors(path), f"{file}#{anchor}"


def anchors(document):
    """What GitHub makes of its headings."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_is_short_and_its_summary_fits_on_a_screen():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 130
    assert len((ROOT / "results/README.md").read_text().splitlines()) <= 300
    assert len(tables.summary_table(tables.published()).splitlines()) == 2 + 8


def test_the_findings_say_what_the_tables_say():
    runs = tables.published()
    level, card, leaks = tables.findings(runs).splitlines()
    released = re.search(r"Dice of (.*?\]) on", tables.released_finding(runs))[1]
    assert f"reach a polyp Dice of **{released}** on 100 test frames" in level
    seeds = re.search(r"its recipe reaches (0\.\d+ \[.*?\]) \(3 seeds", level)[1]
    assert f"Dice of {seeds} on" in tables.finding(runs)
    row = next(x for x in tables.headline_table([]).splitlines() if x.startswith("| unused-third"))
    assert all(score in row for score in re.findall(r"0\.\d+ \[.*?\]", card))
    splits = tables.split_leak_table([])
    crossing = re.findall(r"(\d+) cross `(.*?)`", leaks)
    assert len(crossing) == 5
    for pairs, name in crossing:
        assert re.search(rf"`{name}` .* {pairs} of (46|29) \|", splits)


def test_without_the_cards_recipe_in_their_place_the_released_weights_have_no_gain():
    runs = [run for run in tables.published() if not run.name.startswith("card-grouped")]
    assert "so the gain is" in tables.findings(tables.published())
    for table in (tables.findings(runs), tables.released_finding(runs)):
        assert "so the gain is" not in table
    assert len(tables.summary_table(runs).splitlines()) == 2 + 7


def test_a_released_run_of_one_seed_that_no_command_made_is_described_too(monkeypatch):
    monkeypatch.setattr("polyp_utils.runs.published.RELEASED", "prototype-release-w32")
    runs = tables.published()
    assert "seeds of their recipe" not in tables.findings(runs)
    assert "not a command of this repository" in tables.released_finding(runs)
    assert len(tables.summary_table(runs).splitlines()) == 2 + 6


def test_runs_go_by_importance():
    names = [run.name for run in tables.published()]
    assert names[0] == RELEASED
    order = ("release-", "seed-trimap-w64-s0", "seed-trimap-w64-s1", "seed-trimap-w32", "neopolyp")
    places = [next(i for i, name in enumerate(names) if name.startswith(o)) for o in order]
    assert places == sorted(places)
    assert places[-1] == len(names) - 1


def test_kinds_of_a_run_that_knows_several(tmp_path):
    run = Run(tmp_path / "kinds")
    run.path.mkdir()
    settings = {"scheme": "neopolyp", "dataset": "neopolyp", "split": "grouped"}
    (run.path / "config.json").write_text(json.dumps({"settings": settings}))
    row = {"size": "original", "class": "non-neoplastic", "score": "iou"}
    summary = {"scores": [{**row, "mean": 0.25, "low": 0.125, "high": 0.5, "n": 9}]}
    (run.path / "summary.json").write_text(json.dumps(summary))
    true = ["neoplastic"] * 3 + ["non-neoplastic"] * 2
    given = ["neoplastic", "neoplastic", "missed", "neoplastic", "non-neoplastic"]
    run.save_table("test_kinds", pd.DataFrame({"kind": true, "predicted": given}))
    counts = {"size": "original", "tp": [0, 5, 9], "fn": [0, 5, 1], "dice": [0, 0.5, 0.9]}
    run.save_table("per_image", pd.DataFrame({"id": [*"abc"], "class": "non-neoplastic", **counts}))
    table = tables.class_table([run])
    assert "| non-neoplastic | – | 0.250 [0.125, 0.500] | 0 | 0.700 [0.500, 0.900] | 2 |" in table
    table = tables.polyp_kind_table([run])
    assert "| `kinds` | neoplastic | 3 | 2 | 0 | 1 | 1.000 [1.000, 1.000] |" in table
    assert "| `kinds` | non-neoplastic | 2 | 1 | 1 | 0 | 0.500" in table
    assert "| `kinds` | all | 5 | 3 | 1 | 1 | 0.750" in table
    assert "kinds" not in tables.card_table([run])  # its data are not the card's


def test_false_alarms_stand_in_the_table_where_a_run_has_counted_them(tmp_path):
    run = Run(tmp_path / "alarmed")
    run.path.mkdir()
    assert tables.false_alarm_table([run]).startswith("None of the published runs holds")
    alarms = {"frames": CROPS, "group": [0, 1, 2], "objects": [0, 3, None], "share": [0, 0.1, None]}
    run.save_table("false_alarms", pd.DataFrame({"id": list("abc"), **alarms}))
    (row,) = tables.false_alarm_table([run]).splitlines()[2:]
    assert row.startswith(f"| `alarmed` | {CROPS} | 2 | 0.500 [0.")
    assert "| 1.500 [0." in row


@pytest.fixture
def seeds(tmp_path):
    """Two at full width, of which the second was slower, and one at half width."""
    runs = []
    for seed, width in ((0, 64), (1, 64), (0, 32)):
        run = Run(tmp_path / f"w{width}-s{seed}")
        run.path.mkdir()
        settings = RunConfig(seed=seed, width=width).to_dict()
        write_json(run.path / "config.json", {"settings": settings})
        speed = {"images_per_second": 80 - 40 * seed, "peak_memory_mib": 1024}
        write_json(run.path / "training.json", {**speed, "device": "a GPU"})
        run.save_table("history", pd.DataFrame({"seconds": [9.0, 3 + 3 * seed, 3 + 3 * seed]}))
        table = {"id": list("abc"), "class": POLYP}
        sizes = [
            pd.DataFrame({**table, "size": size, "dice": [0.5, 0.6, 0.7 + 0.3 * seed - less]})
            for size, less in ((ORIGINAL, 0.0), (NETWORK, 0.3))
        ]
        run.save_table("per_image", pd.concat(sizes))
        runs.append(run)
    return runs


def test_seeds_of_one_setting_stand_together(seeds):
    (line,) = tables.seed_table(seeds).splitlines()[2:]
    assert line.startswith(
        "| `card` | `random-800-s42` | trimap | 64 | 2 | 0.600, 0.700 | 0.071 | 0.650 [0."
    )
    assert line.endswith("], n = 3 |")


def test_a_gain_is_paired_by_seed_and_frame(seeds):
    wide = seeds[:2]
    assert str(run_tables.gain_over_seeds(wide, wide[::-1])) == "0.000 [0.000, 0.000]"
    table = wide[1].per_image
    wide[1].save_table("per_image", table.assign(dice=table["dice"] + 0.25))
    before = [SimpleNamespace(config=run.config, per_image=run.per_image) for run in wide]
    before[1].per_image = table
    assert run_tables.gain_over_seeds(wide, before).mean == pytest.approx(0.125)


def test_the_finding_is_the_mean_over_the_seeds_of_the_cards_recipe(seeds):
    said = tables.finding(seeds[::-1])
    assert re.search(
        r"Dice of 0\.650 \[0\.\d+, 0\.\d+\] on Kvasir-SEG\*\*: mean over 2 seeds", said
    )
    assert "(0.700, 0.600) and 3 test frames" in said
    assert re.search(r"256 px: 0\.550 \[.*\] \(0\.600, 0\.500\)", said)


def test_of_several_seeds_the_fastest_says_what_a_setting_costs(seeds):
    rows = tables.cost_table(seeds).splitlines()[2:]
    assert rows == [
        "| `w64-s0` | 2 | 20 | 1.0 | 80.0 | 1.0 | a GPU |",
        "| `w32-s0` | 1 | 20 | 1.0 | 80.0 | 1.0 | a GPU |",
    ]


def test_the_released_run_stands_beside_published_figures(tmp_path):
    run = Run(tmp_path / RELEASED)
    run.path.mkdir()
    settings = RunConfig(split="official-880").to_dict()
    write_json(run.path / "config.json", {"settings": settings})
    value = {"mean": 0.5, "low": 0.25, "high": None, "n": 2}
    rows = [
        {"protocol": protocol, "score": score, **value}
        for protocol in PROTOCOLS
        for score in ("dice", "iou")
    ]
    write_json(run.path / "summary.json", {"scores": [], "protocols": rows})
    said, _, *table = tables.literature_table([Run(tmp_path / "another"), run]).splitlines()
    same = sum("| yes |" in line for line in table)
    assert same == sum("official-880" in line for line in table) > 0
    assert f"that of {same} of these {len(table) - 2} figures" in said
    (line,) = (line for line in table if line.startswith("| SigLIP2 "))
    assert (
        "| yes | pretrained | 320 | at-network-size | Dice | 0.901 | 0.500 [0.250, nan] |" in line
    )


def test_render_fills_marked_tables_and_nothing_else(tmp_path):
    row = {"class": POLYP, "score": "dice", "mean": 0.5, "low": 0.4, "high": 0.6}
    scores = [{**row, "size": "original"}]
    run = Run(tmp_path / "a-run")
    run.path.mkdir()
    settings = {"scheme": "unused-third", "width": 32}
    (run.path / "config.json").write_text(json.dumps({"settings": settings}))
    summary = {"n": 7, "scores": scores, "card": dict.fromkeys(CARD, 0.25)}
    (run.path / "summary.json").write_text(json.dumps(summary))
    table = {"id": list("abcdefg"), "class": POLYP, "size": "original"}
    table["dice"] = [0.4] * 2 + [0.6] * 5
    run.save_table("per_image", pd.DataFrame(table))
    text = "before\n<!-- table: scores -->\nold\n<!-- end -->\nafter <!-- table: cost"
    once = tables.render(text, [run])
    assert "old" not in once
    assert once.startswith("before\n")
    assert once.endswith("\nafter <!-- table: cost")
    cells = "| `a-run` | Kvasir-SEG, `random-800-s42` | unused-third | 32 | **0.500** [0.400, "
    cells += "0.600] | – | – | 2 of 7 |"
    assert cells in once
    assert tables.render(once, [run]) == once
    card = tables.card_table([run])
    assert "| model card | not said | 0.9036 | 0.9169 | 0.3322 |" in card
    assert re.search(r"`a-run` \| unused-third \| 0\.2500 \| 0\.2500 \| 0\.2500 \| 0\.500", card)
