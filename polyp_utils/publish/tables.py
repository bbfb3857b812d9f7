"""The tables of results in the documents, made from the published runs' own files.

A document holds a pair of markers per table, and what stands between them is written by
``python -m polyp_utils report``: no number is typed by hand.
"""

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd
from scipy import stats

from polyp_utils.analyse.dice_drivers import FAILURE_DICE
from polyp_utils.analyse.false_alarms import RATES, false_alarm_rates
from polyp_utils.analyse.uncertainty import BAD_DICE, DOUBTS, auroc
from polyp_utils.bench.report import (
    equivalence_table,
    inference_dice,
    inference_speed,
    live_runtimes,
    training_speed,
    whole_frames,
)
from polyp_utils.common.config import RECIPES, RELEASED, RunConfig
from polyp_utils.common.files import atomic
from polyp_utils.common.paths import repo_root
from polyp_utils.data.catalog import get_info
from polyp_utils.data.duplicates import group, pairwise_agreement
from polyp_utils.data.known import known_pairs, known_sequences, leaks, listed_groups
from polyp_utils.data.labels import MISSED, POLYP, SCHEMES
from polyp_utils.data.split import PARTS
from polyp_utils.data.splits import load_split, split_names
from polyp_utils.runs.run import Run
from polyp_utils.score.comparison import over_seeds
from polyp_utils.score.intervals import Interval, mean_interval
from polyp_utils.score.literature import CARD, beside
from polyp_utils.score.protocols import NETWORK, ORIGINAL, PROTOCOLS, polyp_scores
from polyp_utils.train.ablation import comparisons, folder_of, load, shown

DOCUMENTS = (
    "README.md",
    "notebooks/README.md",
    "polyp_utils/README.md",
    *(f"results/{name}.md" for name in ("README", "metrics", "reproduce", "speed")),
)


def published() -> list[Run]:
    """The evaluated runs under ``results/published``, the most important first."""
    runs = [Run(path.parent) for path in _published("").glob("*/summary.json")]
    return sorted(runs, key=_importance)


def _importance(run: Run) -> tuple[int, ...]:
    """Sorts released weights before their recipe, then the card's recipes: wide before narrow."""
    config = run.config
    recipe, scheme = list(RECIPES).index(config.recipe), list(SCHEMES).index(config.scheme)
    others = run.name != RELEASED, config.recipe != "release"
    return *others, recipe, scheme, -config.width, config.seed


def _published(name: str) -> Path:
    return repo_root() / "results/published" / name


def released(runs: list[Run]) -> Run:
    """The run whose weights are meant for use."""
    (run,) = [run for run in runs if run.name == RELEASED]
    return run


def score_table(runs: list[Run]) -> str:
    """Markdown: polyp scores per run, with intervals, and how many frames fail (polyp Dice)."""
    rows = []
    for run in runs:
        summary = run.summary
        cells = [_score(summary, ORIGINAL, "dice", bold=True), _score(summary, ORIGINAL, "iou")]
        below = (polyp_scores(run.per_image) < FAILURE_DICE).sum()
        cells += [_score(summary, NETWORK, "dice"), f"{below} of {summary['n']}"]
        data = f"{get_info(run.config.dataset).title}, `{run.config.split}`"
        rows.append([_link(run), data, run.config.scheme, str(run.config.width), *cells])
    head = ["run", "data, split", "scheme", "width", "polyp Dice [95 %]", "polyp IoU [95 %]"]
    return _table([*head, "Dice at network size [95 %]", f"below {FAILURE_DICE}"], rows)


def _alike(runs: list[Run]) -> list[list[Run]]:
    """Runs by setting: those that differ in the seed alone stand together."""
    groups: dict[tuple[object, ...], list[Run]] = {}
    for run in runs:
        settings = run.config.to_dict()
        same = {k: v for k, v in settings.items() if k not in ("seed", "name", "device")}
        groups.setdefault(tuple(same.values()), []).append(run)
    return list(groups.values())


def _card_seeds(runs: list[Run]) -> list[Run]:
    """The seeds of the card's recipe as the card has it."""
    return next(alike for alike in _alike(runs) if any(run.is_card for run in alike))


def _over_seeds(seeds: list[Run], size: str = ORIGINAL) -> tuple[Interval, float, str]:
    """Polyp Dice over seeds and frames, its sd over seeds, and that of each seed in words."""
    tables = [run.per_image for run in seeds]
    ids = tables[0]["id"].unique().tolist()
    groups = listed_groups(seeds[0].config.dataset, ids)
    each = (f"{polyp_scores(table, size=size).mean():.3f}" for table in tables)
    return *over_seeds(tables, groups, size), ", ".join(each)


def seed_table(runs: list[Run]) -> str:
    """Markdown: polyp Dice over the seeds of one setting, where there are several."""
    rows = []
    for seeds in (alike for alike in _alike(runs) if len(alike) > 1):
        interval, spread, each = _over_seeds(seeds)
        config = seeds[0].config
        what = [f"`{config.recipe}`", config.scheme, str(config.width), str(len(seeds))]
        rows.append([*what, each, f"{spread:.3f}", f"{interval}, n = {interval.n}"])
    head = ["recipe", "scheme", "width", "seeds", "polyp Dice of each", "sd over seeds"]
    return _table([*head, "mean [95 %, seeds and images]"], rows)


def summary_table(runs: list[Run]) -> str:
    """Markdown: the runs that matter, a row each, and where the released weights were tested."""
    best = released(runs)
    small = next(r for r in runs if r.config.recipe == best.config.recipe and r is not best)
    (kinds, *_), card = _of_kinds(runs), _card_seeds(runs)
    away = pd.read_csv(best.path / "generalise.csv").dropna().to_dict("records")
    rows = [
        _summary_row("released weights", [best]),
        *(_summary_row("released weights", [best], row) for row in away),
        _summary_row("recipe `release`, small", [small]),
        _summary_row("the card's recipe", card),
        _summary_row("recipe `neopolyp`, a real third class", [kinds]),
    ]
    head = ["weights", "width, px", "seeds", "tested on", "split", "n"]
    return _table([*head, "polyp Dice, `image-mean` [95 %]"], rows)


def _summary_row(what: str, seeds: list[Run], away: Any = None) -> list[str]:
    config = seeds[0].config
    tested, split = get_info(config.dataset).title, f"`{config.split}`"
    if away:
        tested, split, dice = away["tested_on"], "all frames, none seen", Interval.of(away, "dice")
    elif len(seeds) > 1:
        dice, *_ = _over_seeds(seeds)
    else:
        dice = _interval_of(_protocols(seeds[0])["image-mean"])
    size = f"{config.width}, {config.image_size}"
    return [what, size, str(len(seeds)), tested, split, str(dice.n), str(dice)]


def findings(runs: list[Run]) -> str:
    """Markdown: what was found, a point each: how good, the card's figure, leaks of splits."""
    points = (_level_finding(runs), _third_class_finding(), _leak_finding())
    return "\n".join(f"- {point}" for point in points)


def _level_finding(runs: list[Run]) -> str:
    run, seeds = released(runs), _card_seeds(runs)
    dice, (card, *_) = _interval_of(_protocols(run)["image-mean"]), _over_seeds(seeds)
    table = beside(pd.DataFrame(run.summary["protocols"]), run.config.dataset, run.config.split)
    matched = table[table["difference"] != "–"]
    scratch = matched["encoder"] == "from scratch"
    below = matched["difference"].str.startswith("-")
    better = ", ".join(name.partition(" (")[0] for name in matched.loc[scratch & below, "system"])
    return (
        f"**How good.** The released weights reach a polyp Dice of **{dice}** on {dice.n} test "
        f"frames of {get_info(run.config.dataset).title} (split `{run.config.split}`), the card's "
        f"recipe {card} ({len(seeds)} seeds, `{seeds[0].config.split}`); split and width differ "
        "too, so the gap is not due to the recipe alone. Under each published figure's own "
        f"protocol, the released weights are above {(scratch & ~below).sum()} of {scratch.sum()} "
        f"figures of networks trained from scratch (below {better}) and below "
        f"{(~scratch & below).sum()} of {(~scratch).sum()} of pretrained ones; "
        f"{(table['same split'] == 'yes').sum()} of these are known to use the same split."
    )


def _third_class_finding() -> str:
    table = pd.read_csv(_published("headline") / "verdicts.csv")
    best = max(table.to_dict("records"), key=lambda row: row["p"])
    figure = CARD["test Dice"]
    others = table.loc[table["scheme"] != best["scheme"], "p"].max()
    return (
        f"**The card's {figure}** is best explained by its average. Of the label schemes tried "
        f"for its unnamed third class only `{best['scheme']}` ({SCHEMES[best['scheme']].note}) "
        f"gives figures compatible with the card's, averaged as *{best['average']}*: "
        f"{best['test Dice']} at width {best['width']}, p = {best['p']:.2f}, against p ≤ "
        f"{others:.3f} for every other scheme. The polyp Dice behind {figure} would then be "
        f"{best['polyp']}."
    )


def _leak_finding() -> str:
    return (
        "**Leaks.** Published and random splits show the same place in several parts: of "
        f"{_crossed('kvasir-seg', 'near-duplicate pairs')}; of "
        f"{_crossed('cvc-clinicdb', 'video sequences')}. None crosses `grouped`."
    )


def _crossed(dataset: str, what: str) -> str:
    found = {name: leaks(load_split(name, dataset), dataset)[what] for name in split_names(dataset)}
    counts = sorted(((crossing, name) for name, (crossing, _) in found.items()), reverse=True)
    (_, total), title = found["grouped"], get_info(dataset).title
    crossed = ", ".join(f"{n} cross `{name}`" for n, name in counts if n)
    return f"the {total} {what} in {title}, {crossed}"


def released_finding(runs: list[Run]) -> str:
    """Markdown: what the released weights come to, and who made them."""
    run = released(runs)
    config, summary = run.config, run.summary
    scores, dice = _protocols(run), polyp_scores(run.per_image)
    data = get_info(config.dataset).title
    note = f" {run.record['note']}" if "note" in run.record else ""
    return (
        f"**The released weights reach a polyp Dice of {_interval_of(scores['image-mean'])} on "
        f"{data}**: `{run.name}`, the card's network at width {config.width}, trained from scratch "
        f"on {data} alone; {summary['n']} test frames of `{config.split}`, which no near-duplicate "
        "pair crosses, per image at the original size, 95 % interval over frames (one seed). "
        f"Median {dice.median():.3f}; {(dice < FAILURE_DICE).sum()} frames are "
        f"below {FAILURE_DICE}. With all pixels pooled: {_interval_of(scores['pooled'])}.{note}"
    )


def _protocols(run: Run) -> dict[str, dict[str, Any]]:
    """Dice under each protocol that the run was scored by."""
    rows = run.summary.get("protocols", [])
    return {row["protocol"]: row for row in rows if row["score"] == "dice"}


def _interval_of(row: dict[str, Any]) -> Interval:
    return Interval(*(row[key] for key in Interval._fields))


def finding(runs: list[Run]) -> str:
    """Markdown: what the card's recipe comes to over its seeds, in two sentences."""
    seeds = _card_seeds(runs)
    config = seeds[0].config
    found, _, each = _over_seeds(seeds)
    at_network_size, _, each_there = _over_seeds(seeds, NETWORK)
    data, devices = get_info(config.dataset).title, {run.training["device"] for run in seeds}
    return (
        f"**The card's recipe reaches a polyp Dice of {found} on {data}**: mean over {len(seeds)} "
        f"seeds ({each}) and {found.n} test frames of `{config.split}`, per image at the original "
        "size, with a 95 % interval over seeds and frames. At network size, "
        f"{config.image_size} px: {at_network_size} ({each_there}). Full width, scheme "
        f"`{config.scheme}`, trained by `python -m polyp_utils train --recipe {config.recipe} "
        f"--seed {seeds[0].config.seed}` and so on; {' and '.join(sorted(devices))}."
    )


def card_table(runs: list[Run]) -> str:
    """Markdown: the card's three figures, and those of each run on the card's data set."""
    rows = [["model card", "not said", *(f"{value:.4f}" for value in CARD.values()), "not said"]]
    for run in (run for run in runs if run.config.dataset == RECIPES["card"].dataset):
        summary = run.summary
        figures = [f"{summary['card'][key]:.4f}" for key in CARD]
        rows.append([_link(run), run.config.scheme, *figures, _score(summary, ORIGINAL, "dice")])
    return _table(["run", "scheme", *CARD, "polyp Dice behind it"], rows)


def prototype_table(_: list[Run]) -> str:
    """Markdown: the prototypes of recipe ``release``, from their own records."""
    rows = []
    for path in sorted(_published("prototypes").glob("*.json"), key=lambda p: p.stem, reverse=True):
        made = json.loads(path.read_text(encoding="utf-8"))
        (*_, last), dice = made["hist"], [made[k] for k in ("val", "val_mirrored", "test")]
        cells = [str(made["width"]), made["aug"], f"{last['epoch']} of {made['epochs']}"]
        cells += [f"{value:.3f}" for value in (*dice, made["test_mirrored"])]
        rows.append([f"`{path.stem}`", *cells, f"{made['images_per_second']:.0f}"])
    head = ["prototype", "width", "augmentation", "epochs", "validation", "mirrored"]
    return _table([*head, "test", "test, mirrored", "images/s"], rows)


def headline_table(_: list[Run]) -> str:
    """Markdown: of each scheme and width the average and loss nearest to the card's figures."""
    table = pd.read_csv(_published("headline") / "verdicts.csv")
    rows = [["model card", "", "not said", "not said", *map(str, CARD.values()), "", "not said"]]
    nearest = table.groupby(["scheme", "width"]).head(1)
    for row in nearest.to_dict("records"):
        cells = [row["scheme"], str(row["width"]), row["average"], row["loss rule"]]
        polyp = "–" if row["polyp"].startswith("nan") else row["polyp"]
        rows.append([*cells, *(row[figure] for figure in CARD), f"{row['p']:.3f}", polyp])
    head = ["scheme", "width", "Dice averaged over", "loss", *CARD, "p", "polyp Dice behind 0.9169"]
    return _table(head, rows)


def away_table(runs: list[Run]) -> str:
    """Markdown: how runs do on data that they were not trained on."""
    rows = []
    for run in (run for run in runs if (run.path / "generalise.csv").is_file()):
        for row in pd.read_csv(run.path / "generalise.csv").to_dict("records"):
            dice = Interval.of(row, "dice")
            drop = "–"
            if not pd.isna(row["drop"]):
                drop = str(Interval(row["drop"], row["drop_low"], row["drop_high"], row["n"]))
            below = f"{100 * row['below_half']:.0f} %"
            rows.append([_link(run), row["tested_on"], str(row["n"]), str(dice), drop, below])
    return _table(["run", "tested on", "n", "polyp Dice [95 %]", "drop [95 %]", "below 0.5"], rows)


def mirror_table(runs: list[Run]) -> str:
    """Markdown: what mirrored copies gain and cost, and whether their disagreement finds errors."""
    rows = []
    for run in (run for run in runs if (run.path / "mirrored.csv").is_file()):
        gain = pd.read_csv(run.path / "mirrored.csv").set_index("score").loc["dice"]
        doubts = pd.read_csv(run.path / "uncertainty.csv")
        bad = doubts["dice"] < BAD_DICE
        areas = [str(auroc(doubts[name], bad, doubts["group"])) for name in DOUBTS]
        cells = [str(Interval.of(gain, "difference")), f"{gain['p']:.3f}"]
        cells += [f"{gain['detectable']:.3f}", f"{gain['cost']:.1f}", str(bad.sum())]
        rows.append([_link(run), *cells, *areas])
    head = ["run", "gain in polyp Dice [95 %]", "p", "detectable", "times as long"]
    return _table([*head, f"frames under {BAD_DICE}", *(f"AUROC, {d}" for d in DOUBTS)], rows)


def false_alarm_table(runs: list[Run]) -> str:
    """Markdown: what each run marks where there is no polyp, see `analyse.false_alarms`."""
    rows = []
    for run in (run for run in runs if (run.path / "false_alarms.csv").is_file()):
        found = false_alarm_rates(pd.read_csv(run.path / "false_alarms.csv"))
        for frames, of in found.items():
            n = of[RATES[0]].n
            rows.append([_link(run), frames, str(n), *(str(of[rate]) for rate in RATES)])
    if not rows:
        return "None of the published runs holds `false_alarms.csv`: that takes weights."
    return _table(["run", "frames", "n", *(f"{rate} [95 %]" for rate in RATES)], rows)


def _frame(table: pd.DataFrame) -> str:
    return _table([str(c) for c in table], table.astype(str).to_numpy().tolist())


def class_table(runs: list[Run]) -> str:
    """Markdown: scores per class of the runs whose scheme knows several kinds of polyp."""
    rows = []
    for run in _of_kinds(runs):
        summary = run.summary
        for name in run.scheme.classes:
            cells = [_score(summary, ORIGINAL, score, name) for score in ("dice", "iou")]
            scored = _row(summary, ORIGINAL, "dice", name)
            table = run.per_image
            there = (table["class"] == name) & (table["size"] == ORIGINAL)
            shown = table[there & (table["tp"] + table["fn"] > 0)]
            cells += [str(scored["n"]) if scored else "0", str(mean_interval(shown["dice"]))]
            rows.append([_link(run), name, *cells, str(len(shown))])
    head = ["run", "class", "Dice [95 %]", "IoU [95 %]", "n"]
    return _table([*head, "Dice where it is shown [95 %]", "n"], rows)


def polyp_kind_table(runs: list[Run]) -> str:
    """Markdown: what becomes of each true polyp of the test part, by kind."""
    rows = []
    for run in _of_kinds(runs):
        table = pd.read_csv(run.path / "test_kinds.csv")
        names = list(run.scheme.kinds)
        for kind, part in [
            *((kind, table[table["kind"] == kind]) for kind in names),
            ("all", table),
        ]:
            found = part[part["predicted"] != MISSED]
            counts = [str((part["predicted"] == name).sum()) for name in (*names, MISSED)]
            right = str(mean_interval(found["kind"] == found["predicted"]))
            rows.append([_link(run), kind, str(len(part)), *counts, right])
    given_as = [f"given as {name}" for name in names] if rows else []
    head = ["run", "true kind", "polyps", *given_as, MISSED, "right kind if found [95 %]"]
    return _table(head, rows)


def _of_kinds(runs: list[Run]) -> list[Run]:
    return [run for run in runs if len(run.scheme.kinds) > 1]


def run_protocol_table(runs: list[Run]) -> str:
    """Markdown: Dice of the same predictions under each protocol (``card``: of all classes)."""
    rows = []
    for run in runs:
        found = _protocols(run)
        cells = [str(Interval.of(found[name])) if name in found else "–" for name in PROTOCOLS]
        rows.append([_link(run), *cells])
    return _table(["run", *(f"`{name}`" for name in PROTOCOLS)], rows)


def literature_table(runs: list[Run]) -> str:
    """Markdown: published figures on the released run's data set, and its score beside each."""
    run = released(runs)
    config = run.config
    table = beside(pd.DataFrame(run.summary["protocols"]), config.dataset, config.split)
    alike = (table["same split"] == "yes").sum()
    return (
        f"Ours: `{run.name}`, one seed, {config.image_size} px, split `{config.split}` of "
        f"{get_info(config.dataset).title}, which is known to be that of {alike} of these "
        f"{len(table)} figures.\n\n{_frame(table)}"
    )


def cost_table(runs: list[Run]) -> str:
    """Markdown: what each setting took, and on what; of several seeds the fastest.

    Other jobs can only slow a run down.
    """
    rows = []
    for seeds in _alike([run for run in runs if (run.path / "history.csv").is_file()]):
        run = min(seeds, key=lambda run: run.history["seconds"].median())
        training = run.training
        minutes = run.history["seconds"].median() * run.config.epochs / 60
        memory = training["peak_memory_mib"] / 1024
        cells = [f"{minutes:.{0 if minutes >= 10 else 1}f}", f"{training['images_per_second']:.1f}"]
        cells += [f"{memory:.1f}", training["device"]]
        rows.append([_link(run), str(len(seeds)), str(run.config.epochs), *cells])
    head = ["run", "fastest of so many seeds", "epochs", "minutes (median epoch × epochs)"]
    return _table([*head, "training images/s (median)", "peak memory (GiB)", "hardware"], rows)


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
    return _table(head, rows)


def _crossing(found: dict[str, tuple[int, int]], what: str) -> str:
    return "{} of {}".format(*found[what]) if what in found else "–"


def eye_table(runs: list[Run]) -> str:
    """Markdown: what the flagged pairs of Kvasir-SEG are, looked at one by one; needs no run."""
    table = pd.read_csv(_published("kvasir-seg/pairs_by_eye.csv"))
    counts = table["by_eye"].value_counts()
    same, n = int(counts["same"]), len(table)
    low, high = stats.binomtest(same, n).proportion_ci(method="wilson")
    row = [str(n), *(str(counts.get(kind, 0)) for kind in ("same", "unsure", "different"))]
    row.append(str(Interval(same / n, low, high, n)))
    head = ["pairs flagged", "the same place", "unsure", "different", "precision [95 %]"]
    return _table(head, [row])


def duplicate_recall_table(runs: list[Run]) -> str:
    """Markdown: how many known copies of Kvasir-SEG's frames are flagged; needs no run."""
    table = pd.read_csv(_published("kvasir-seg/recall.csv"))
    rows = []
    for _, alike in table.groupby(["found", "n"], sort=False):
        first = alike.iloc[0]
        cells = [f"{first['found']} of {first['n']}", str(Interval.of(first, "recall"))]
        rows.append(["; ".join(alike["copy"]), *cells])
    return _table(["copies", "flagged of each", "recall [95 %]"], rows)


def times_table(runs: list[Run]) -> str:
    """Markdown: what was timed on the machine of the published runs; needs no run."""
    table = pd.read_csv(_published("times.csv"), dtype=str, keep_default_na=False)
    rows = [
        [r["what"], r["measured"], r["bar"] or "–", f"`{r['command']}`"]
        for r in table.to_dict("records")
    ]
    return _table(["what", "measured", "target", "how"], rows)


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
    return _table([f"{total} pairs of frames in 29 sequences", "precision", "recall"], rows)


def recipe_table(_: list[Run]) -> str:
    """What each recipe changes in the settings of the model card."""
    card = RECIPES["card"].to_dict()
    rows = []
    for name, recipe in RECIPES.items():
        changes = [
            f"{setting} {_value(value)}"
            for setting, value in recipe.to_dict().items()
            if value != card[setting] and setting != "recipe"
        ]
        rows.append([f"`{name}`", ", ".join(changes) or "–"])
    return _table(["recipe", "differs from `card` in"], rows)


def _value(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value) or "empty"


def setting_table(_: list[Run]) -> str:
    """Every setting of a run, what it means, and its value in the model card's recipe."""
    rows = [
        [f"`{setting.name}`", setting.metadata["help"], _value(setting.default)]
        for setting in fields(RunConfig)
    ]
    return _table(["setting", "meaning", "in `card`"], rows)


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
    "training speed": lambda _: _frame(training_speed()),
    "inference speed": lambda _: _frame(inference_speed()),
    "whole frames": lambda _: _frame(whole_frames()),
    "inference Dice": lambda _: _frame(inference_dice()),
    "live": lambda _: live_runtimes(),
    "equivalence": lambda _: _frame(equivalence_table()),
    "classes": class_table,
    "kinds": polyp_kind_table,
    "ablation": lambda _: _frame(shown(comparisons(load(folder_of(16, 128))))),
    "cost": cost_table,
    "times": times_table,
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
        old = path.read_text(encoding="utf-8")
        new = render(old, published())
        if new != old:
            with atomic(path) as temporary:
                temporary.write_text(new, encoding="utf-8")
            changed.append(path)
    return changed


def _row(summary: dict[str, Any], size: str, score: str, name: str) -> dict[str, Any] | None:
    for row in summary["scores"]:
        if (row["size"], row["class"], row["score"]) == (size, name, score):
            return row
    return None


def _score(
    summary: dict[str, Any], size: str, score: str, name: str = POLYP, bold: bool = False
) -> str:
    row = _row(summary, size, score, name)
    if row is None:
        return "–"
    text = str(Interval.of(row))
    return re.sub(r"^\S+", r"**\g<0>**", text) if bold else text


def _link(run: Run) -> str:
    return f"`{run.name}`"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
