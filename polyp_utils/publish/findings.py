"""What was found, in sentences whose numbers come from the published runs."""

from typing import Any

import pandas as pd

from polyp_utils.analyse.dice_drivers import FAILURE_DICE
from polyp_utils.common.files import read_csv
from polyp_utils.data.catalog import get_info
from polyp_utils.data.known import leaks
from polyp_utils.data.labels import SCHEMES
from polyp_utils.data.splits import load_split, split_names
from polyp_utils.publish.markdown import markdown_table
from polyp_utils.publish.run_tables import (
    dice_over_seeds,
    gain_over_seeds,
    of_several_kinds,
    protocol_rows,
    seeds_alike,
)
from polyp_utils.runs.published import published_path, released
from polyp_utils.runs.run import Run
from polyp_utils.score.intervals import Interval
from polyp_utils.score.literature import CARD, beside
from polyp_utils.score.protocols import NETWORK, polyp_scores


def _card_seeds(runs: list[Run]) -> list[Run]:
    """The seeds of the card's recipe as the card has it."""
    return next(alike for alike in seeds_alike(runs) if any(run.is_card for run in alike))


def _release_seeds(runs: list[Run]) -> tuple[list[Run], list[Run]]:
    """The seeds of the released weights' recipe; those of the card's in their place, or []."""
    settings = ("dataset", "split", "scheme", "width", "image_size")
    alike = seeds_alike(runs)
    (seeds,) = (found for found in alike if released(runs) in found)

    def place(found: list[Run]) -> list[object]:
        config = found[0].config
        return [{run.config.seed for run in found}, *(getattr(config, name) for name in settings)]

    card = (found for found in alike if found[0].config.recipe == "card")
    return seeds, next((found for found in card if place(found) == place(seeds)), [])


def _over_seeds(runs: list[Run]) -> str:
    """What several seeds of the released weights' recipe reach and gain; empty if there is one."""
    seeds, others = _release_seeds(runs)
    if len(seeds) < 2:
        return ""
    mean, _, each = dice_over_seeds(seeds)
    said = f" {len(seeds)} seeds of their recipe reach **{mean}** on average ({each})."
    if others:
        epochs, fewer = seeds[0].config.epochs, others[0].config.epochs
        said += (
            f" With the same network, split and seeds the card's recipe ({fewer} epochs instead of "
            f"{epochs}) reaches {dice_over_seeds(others)[0]}, so the gain is "
            f"**{gain_over_seeds(seeds, others):+.3f}**, paired by seed and frame."
        )
    return said


def summary_table(runs: list[Run]) -> str:
    """Markdown: the runs that matter, a row each, and where the released weights were tested."""
    best, (seeds, in_its_place) = released(runs), _release_seeds(runs)
    recipe, width = best.config.recipe, best.config.width
    small = [r for r in runs if r.config.recipe == recipe and r.config.width < width][:1]
    (kinds, *_), card = of_several_kinds(runs), _card_seeds(runs)
    away = read_csv(best.path / "generalise.csv", "tested_on").dropna().to_dict("records")
    rows = [
        _summary_row("released weights", [best]),
        *(_summary_row("released weights", [best], row) for row in away),
        *(
            _summary_row(what, found)
            for what, found in (
                ("recipe `release`", seeds if len(seeds) > 1 else []),
                ("recipe `release`, small", small),
                ("the card's recipe", in_its_place),
            )
            if found
        ),
        _summary_row("the card's recipe", card),
        _summary_row("recipe `neopolyp`, a real third class", [kinds]),
    ]
    head = ["weights", "width, px", "seeds", "tested on", "split", "n"]
    return markdown_table([*head, "polyp Dice, `image-mean` [95 %]"], rows)


def _summary_row(what: str, seeds: list[Run], away: Any = None) -> list[str]:
    config = seeds[0].config
    tested, split = get_info(config.dataset).title, f"`{config.split}`"
    if away:
        tested, split, dice = away["tested_on"], "all frames, none seen", Interval.of(away, "dice")
    elif len(seeds) > 1:
        dice, *_ = dice_over_seeds(seeds)
    else:
        dice = Interval.of(protocol_rows(seeds[0])["image-mean"])
    size = f"{config.width}, {config.image_size}"
    return [what, size, str(len(seeds)), tested, split, str(dice.n), str(dice)]


def findings(runs: list[Run]) -> str:
    """Markdown: what was found, a point each: how good, the card's figure, leaks of splits."""
    points = (_level_finding(runs), _third_class_finding(), _leak_finding())
    return "\n".join(f"- {point}" for point in points)


def _level_finding(runs: list[Run]) -> str:
    run, card = released(runs), _card_seeds(runs)
    dice, data = Interval.of(protocol_rows(run)["image-mean"]), get_info(run.config.dataset).title
    wide, *_ = dice_over_seeds(card)
    table = beside(pd.DataFrame(run.summary["protocols"]), run.config.dataset, run.config.split)
    matched = table[table["difference"] != "–"]
    scratch = matched["encoder"] == "from scratch"
    below = matched["difference"].str.startswith("-")
    better = ", ".join(name.partition(" (")[0] for name in matched.loc[scratch & below, "system"])
    return (
        f"**How good.** The released weights reach a polyp Dice of **{dice}** on {dice.n} test "
        f"frames of {data} (split `{run.config.split}`).{_over_seeds(runs)} At the card's full "
        f"width, on a random split, its recipe reaches {wide} ({len(card)} seeds, "
        f"`{card[0].config.split}`). Under each published figure's own protocol, the released "
        f"weights are above {(scratch & ~below).sum()} of {scratch.sum()} figures of networks "
        f"trained from scratch (below {better}) and below {(~scratch & below).sum()} of "
        f"{(~scratch).sum()} of pretrained ones; {(table['same split'] == 'yes').sum()} of these "
        "are known to use the same split."
    )


def _third_class_finding() -> str:
    table = pd.read_csv(published_path("headline") / "verdicts.csv")
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
    scores, dice = protocol_rows(run), polyp_scores(run.per_image)
    data = get_info(config.dataset).title
    validation = (
        f"{other.training['kept_val_polyp_dice']:.3f} (seed {other.config.seed})"
        for other in _release_seeds(runs)[0]
    )
    made = run.record.get("note") or f"Commit {run.record['commit'][:7]}; {run.training['device']}."
    return (
        f"**The released weights reach a polyp Dice of {Interval.of(scores['image-mean'])} on "
        f"{data}**: `{run.name}`, the card's network at width {config.width}, trained from scratch "
        f"on {data} alone; {summary['n']} test frames of `{config.split}`, which no near-duplicate "
        "pair crosses, per image at the original size, 95 % interval over frames. "
        f"Median {dice.median():.3f}; {(dice < FAILURE_DICE).sum()} frames are "
        f"below {FAILURE_DICE}. With all pixels pooled: {Interval.of(scores['pooled'])}.\n\n"
        f"On validation, at network size: {', '.join(validation)}.{_over_seeds(runs)} {made}"
    )


def finding(runs: list[Run]) -> str:
    """Markdown: what the card's recipe comes to over its seeds, in two sentences."""
    seeds = _card_seeds(runs)
    config = seeds[0].config
    found, _, each = dice_over_seeds(seeds)
    at_network_size, _, each_there = dice_over_seeds(seeds, NETWORK)
    data, devices = get_info(config.dataset).title, {run.training["device"] for run in seeds}
    return (
        f"**The card's recipe reaches a polyp Dice of {found} on {data}**: mean over {len(seeds)} "
        f"seeds ({each}) and {found.n} test frames of `{config.split}`, per image at the original "
        "size, with a 95 % interval over seeds and frames. At network size, "
        f"{config.image_size} px: {at_network_size} ({each_there}). Full width, scheme "
        f"`{config.scheme}`, trained by `python -m polyp_utils train --recipe {config.recipe} "
        f"--seed {seeds[0].config.seed}` and so on; {' and '.join(sorted(devices))}."
    )


def headline_table(_: list[Run]) -> str:
    """Markdown: of each scheme and width the average and loss nearest to the card's figures."""
    table = pd.read_csv(published_path("headline") / "verdicts.csv")
    rows = [["model card", "", "not said", "not said", *map(str, CARD.values()), "", "not said"]]
    nearest = table.groupby(["scheme", "width"]).head(1)
    for row in nearest.to_dict("records"):
        cells = [row["scheme"], str(row["width"]), row["average"], row["loss rule"]]
        polyp = "–" if row["polyp"].startswith("nan") else row["polyp"]
        rows.append([*cells, *(row[figure] for figure in CARD), f"{row['p']:.3f}", polyp])
    head = ["scheme", "width", "Dice averaged over", "loss", *CARD, "p", "polyp Dice behind 0.9169"]
    return markdown_table(head, rows)
