"""Tables of the published runs: scores, seeds, protocols, published figures, costs."""

import json
from typing import Any

import pandas as pd

from polyp_utils.analyse.dice_drivers import FAILURE_DICE
from polyp_utils.analyse.false_alarms import RATES, false_alarm_rates
from polyp_utils.analyse.uncertainty import BAD_DICE, DOUBTS, auroc
from polyp_utils.common.config import RECIPES
from polyp_utils.common.files import read_csv
from polyp_utils.data.known import listed_groups
from polyp_utils.data.labels import MISSED
from polyp_utils.data.naming import title_of
from polyp_utils.publish.markdown import (
    markdown_table,
    run_name,
    score_row,
    score_text,
    whole_table,
)
from polyp_utils.runs.published import published_path, released
from polyp_utils.runs.run import Run
from polyp_utils.score.comparison import over_seeds
from polyp_utils.score.intervals import Interval, mean_interval, seeds_interval
from polyp_utils.score.literature import CARD, beside
from polyp_utils.score.protocols import NETWORK, ORIGINAL, PROTOCOLS, polyp_scores


def score_table(runs: list[Run]) -> str:
    """Markdown: polyp scores per run, with intervals, and how many frames fail (polyp Dice)."""
    rows = []
    for run in runs:
        summary = run.summary
        cells = [
            score_text(summary, ORIGINAL, "dice", bold=True),
            score_text(summary, ORIGINAL, "iou"),
        ]
        below = (polyp_scores(run.per_image) < FAILURE_DICE).sum()
        cells += [score_text(summary, NETWORK, "dice"), f"{below} of {summary['n']}"]
        data = f"{title_of(run.config.dataset)}, `{run.config.split}`"
        rows.append([run_name(run), data, run.config.scheme, str(run.config.width), *cells])
    head = ["run", "data, split", "scheme", "width", "polyp Dice [95 %]", "polyp IoU [95 %]"]
    return markdown_table([*head, "Dice at network size [95 %]", f"below {FAILURE_DICE}"], rows)


def seeds_alike(runs: list[Run]) -> list[list[Run]]:
    """Runs by setting: those that differ in the seed alone stand together."""
    groups: dict[tuple[object, ...], list[Run]] = {}
    for run in runs:
        settings = run.config.to_dict()
        same = {k: v for k, v in settings.items() if k not in ("seed", "name", "device")}
        groups.setdefault(tuple(same.values()), []).append(run)
    return list(groups.values())


def dice_over_seeds(seeds: list[Run], size: str = ORIGINAL) -> tuple[Interval, float, str]:
    """Polyp Dice over seeds and frames, its sd over seeds, and that of each seed in words."""
    tables = [run.per_image for run in seeds]
    ids = tables[0]["id"].unique().tolist()
    groups = listed_groups(seeds[0].config.dataset, ids)
    each = (f"{polyp_scores(table, size=size).mean():.3f}" for table in tables)
    return *over_seeds(tables, groups, size), ", ".join(each)


def gain_over_seeds(runs: list[Run], others: list[Run]) -> Interval:
    """Gain in polyp Dice over other runs with the same seeds and frames, paired by both."""
    one, other = (
        pd.concat({run.config.seed: polyp_scores(run.per_image) for run in side}, axis=1)
        for side in (runs, others)
    )
    groups = listed_groups(runs[0].config.dataset, one.index.tolist())
    return seeds_interval((one - other[one.columns]).to_numpy().T, [groups[i] for i in one.index])


def seed_table(runs: list[Run]) -> str:
    """Markdown: polyp Dice over the seeds of one setting, where there are several."""
    rows = []
    for seeds in (alike for alike in seeds_alike(runs) if len(alike) > 1):
        interval, spread, each = dice_over_seeds(seeds)
        config = seeds[0].config
        what = [f"`{config.recipe}`", f"`{config.split}`", config.scheme, str(config.width)]
        rows.append(
            [*what, str(len(seeds)), each, f"{spread:.3f}", f"{interval}, n = {interval.n}"]
        )
    head = ["recipe", "split", "scheme", "width", "seeds", "polyp Dice of each", "sd over seeds"]
    return markdown_table([*head, "mean [95 %, seeds and images]"], rows)


def card_table(runs: list[Run]) -> str:
    """Markdown: the card's three figures, and those of each run on the card's data set."""
    rows = [["model card", "not said", *(f"{value:.4f}" for value in CARD.values()), "not said"]]
    for run in (run for run in runs if run.config.dataset == RECIPES["card"].dataset):
        summary = run.summary
        figures = [f"{summary['card'][key]:.4f}" for key in CARD]
        rows.append(
            [run_name(run), run.config.scheme, *figures, score_text(summary, ORIGINAL, "dice")]
        )
    return markdown_table(["run", "scheme", *CARD, "polyp Dice behind it"], rows)


def prototype_table(_: list[Run]) -> str:
    """Markdown: the prototypes of recipe ``release``, from their own records."""
    rows = []
    for path in sorted(
        published_path("prototypes").glob("*.json"), key=lambda p: p.stem, reverse=True
    ):
        made = json.loads(path.read_text(encoding="utf-8"))
        (*_, last), dice = made["hist"], [made[k] for k in ("val", "val_mirrored", "test")]
        cells = [str(made["width"]), made["aug"], f"{last['epoch']} of {made['epochs']}"]
        cells += [f"{value:.3f}" for value in (*dice, made["test_mirrored"])]
        rows.append([f"`{path.stem}`", *cells, f"{made['images_per_second']:.0f}"])
    head = ["prototype", "width", "augmentation", "epochs", "validation", "mirrored"]
    return markdown_table([*head, "test", "test, mirrored", "images/s"], rows)


def away_table(runs: list[Run]) -> str:
    """Markdown: how runs do on data that they were not trained on."""
    rows = []
    for run in (run for run in runs if (run.path / "generalise.csv").is_file()):
        for row in read_csv(run.path / "generalise.csv", "tested_on").to_dict("records"):
            dice = Interval.of(row, "dice")
            drop = "–"
            if not pd.isna(row["drop"]):
                drop = str(Interval(row["drop"], row["drop_low"], row["drop_high"], row["n"]))
            below = f"{100 * row['below_half']:.0f} %"
            rows.append([run_name(run), row["tested_on"], str(row["n"]), str(dice), drop, below])
    return markdown_table(
        ["run", "tested on", "n", "polyp Dice [95 %]", "drop [95 %]", "below 0.5"], rows
    )


def mirror_table(runs: list[Run]) -> str:
    """Markdown: what mirrored copies gain and cost, and whether their disagreement finds errors."""
    rows = []
    for run in (run for run in runs if (run.path / "mirrored.csv").is_file()):
        gain = read_csv(run.path / "mirrored.csv").set_index("score").loc["dice"]
        doubts = read_csv(run.path / "uncertainty.csv", "id")
        bad = doubts["dice"] < BAD_DICE
        areas = [str(auroc(doubts[name], bad, doubts["group"])) for name in DOUBTS]
        cells = [str(Interval.of(gain, "difference")), f"{gain['p']:.3f}"]
        cells += [f"{gain['detectable']:.3f}", f"{gain['cost']:.1f}", str(bad.sum())]
        rows.append([run_name(run), *cells, *areas])
    head = ["run", "gain in polyp Dice [95 %]", "p", "detectable", "times as long"]
    return markdown_table(
        [*head, f"frames under {BAD_DICE}", *(f"AUROC, {d}" for d in DOUBTS)], rows
    )


def false_alarm_table(runs: list[Run]) -> str:
    """Markdown: what each run marks where there is no polyp, see `analyse.false_alarms`."""
    rows = []
    for run in (run for run in runs if (run.path / "false_alarms.csv").is_file()):
        found = false_alarm_rates(read_csv(run.path / "false_alarms.csv", "id"))
        for frames, of in found.items():
            n = of[RATES[0]].n
            rows.append([run_name(run), frames, str(n), *(str(of[rate]) for rate in RATES)])
    if not rows:
        return "None of the published runs holds `false_alarms.csv`: that takes weights."
    return markdown_table(["run", "frames", "n", *(f"{rate} [95 %]" for rate in RATES)], rows)


def class_table(runs: list[Run]) -> str:
    """Markdown: scores per class of the runs whose scheme knows several kinds of polyp."""
    rows = []
    for run in of_several_kinds(runs):
        summary = run.summary
        for name in run.scheme.classes:
            cells = [score_text(summary, ORIGINAL, score, name) for score in ("dice", "iou")]
            scored = score_row(summary, ORIGINAL, "dice", name)
            table = run.per_image
            there = (table["class"] == name) & (table["size"] == ORIGINAL)
            shown = table[there & (table["tp"] + table["fn"] > 0)]
            cells += [str(scored["n"]) if scored else "0", str(mean_interval(shown["dice"]))]
            rows.append([run_name(run), name, *cells, str(len(shown))])
    head = ["run", "class", "Dice [95 %]", "IoU [95 %]", "n"]
    return markdown_table([*head, "Dice where it is shown [95 %]", "n"], rows)


def polyp_kind_table(runs: list[Run]) -> str:
    """Markdown: what becomes of each true polyp of the test part, by kind."""
    rows = []
    for run in of_several_kinds(runs):
        table = read_csv(run.path / "test_kinds.csv", "id")
        names = list(run.scheme.kinds)
        parts = {kind: table[table["kind"] == kind] for kind in names} | {"all": table}
        for kind, part in parts.items():
            found = part[part["predicted"] != MISSED]
            counts = [str((part["predicted"] == name).sum()) for name in (*names, MISSED)]
            right = str(mean_interval(found["kind"] == found["predicted"]))
            rows.append([run_name(run), kind, str(len(part)), *counts, right])
    given_as = [f"given as {name}" for name in names] if rows else []
    head = ["run", "true kind", "polyps", *given_as, MISSED, "right kind if found [95 %]"]
    return markdown_table(head, rows)


def of_several_kinds(runs: list[Run]) -> list[Run]:
    """The runs that tell several kinds of polyp apart."""
    return [run for run in runs if len(run.scheme.kinds) > 1]


def run_protocol_table(runs: list[Run]) -> str:
    """Markdown: Dice of the same predictions under each protocol (``card``: of all classes)."""
    rows = []
    for run in runs:
        found = protocol_rows(run)
        cells = [str(Interval.of(found[name])) if name in found else "–" for name in PROTOCOLS]
        rows.append([run_name(run), *cells])
    return markdown_table(["run", *(f"`{name}`" for name in PROTOCOLS)], rows)


def literature_table(runs: list[Run]) -> str:
    """Markdown: published figures on the released run's data set, and its score beside each."""
    run = released(runs)
    config = run.config
    table = beside(pd.DataFrame(run.summary["protocols"]), config.dataset, config.split)
    alike = (table["same split"] == "yes").sum()
    return (
        f"Ours: `{run.name}`, one seed, {config.image_size} px, split `{config.split}` of "
        f"{title_of(config.dataset)}, which is known to be that of {alike} of these "
        f"{len(table)} figures.\n\n{whole_table(table)}"
    )


def cost_table(runs: list[Run]) -> str:
    """Markdown: what each setting took, and on what; of several seeds the fastest.

    Other jobs can only slow a run down.
    """
    rows = []
    for seeds in seeds_alike([run for run in runs if (run.path / "history.csv").is_file()]):
        run = min(seeds, key=lambda run: run.history["seconds"].median())
        training = run.training
        minutes = run.history["seconds"].median() * run.config.epochs / 60
        memory = training["peak_memory_mib"] / 1024
        cells = [f"{minutes:.{0 if minutes >= 10 else 1}f}", f"{training['images_per_second']:.1f}"]
        cells += [f"{memory:.1f}", training["device"]]
        rows.append([run_name(run), str(len(seeds)), str(run.config.epochs), *cells])
    head = ["run", "fastest of so many seeds", "epochs", "minutes (median epoch × epochs)"]
    return markdown_table(
        [*head, "training images/s (median)", "peak memory (GiB)", "hardware"], rows
    )


def times_table(runs: list[Run]) -> str:
    """Markdown: what was timed on the machine of the published runs; needs no run."""
    table = pd.read_csv(published_path("times.csv"), dtype=str, keep_default_na=False)
    rows = [
        [r["what"], r["measured"], r["bar"] or "–", f"`{r['command']}`"]
        for r in table.to_dict("records")
    ]
    return markdown_table(["what", "measured", "target", "how"], rows)


def protocol_rows(run: Run) -> dict[str, dict[str, Any]]:
    """Dice under each protocol that the run was scored by."""
    rows = run.summary.get("protocols", [])
    return {row["protocol"]: row for row in rows if row["score"] == "dice"}
