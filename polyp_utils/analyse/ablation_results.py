"""What the ablation says: its runs against each other, on validation, with paired intervals."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from polyp_utils.common.files import read_csv
from polyp_utils.score.intervals import NONE, Interval, seeds_interval
from polyp_utils.train.ablation import ALL, MIRRORED, NOISE, PLAIN, SETTINGS, UNAVERAGED


class AblationResults(NamedTuple):
    """The stored runs of a folder.

    Attributes:
        records: the JSON of each run, by setting and seed.
        scores: the table of each run, by setting and seed, indexed by ``id``.
    """

    records: dict[tuple[str, int], dict[str, Any]]
    scores: dict[tuple[str, int], pd.DataFrame]


def load(folder: Path) -> AblationResults:
    """Reads the stored runs of a folder whose settings are in `SETTINGS`."""
    records, scores = {}, {}
    for name in SETTINGS:
        for path in sorted(folder.glob(f"{name}-s*.json")):
            seed = int(path.stem.removeprefix(f"{name}-s"))
            records[name, seed] = json.loads(path.read_text(encoding="utf-8"))
            table = read_csv(path.with_suffix(".csv"), "id", "group")
            scores[name, seed] = table.set_index("id")
    return AblationResults(records, scores)


def comparisons(results: AblationResults) -> pd.DataFrame:
    """Compares each choice with its baseline, on validation.

    A trained setting is compared with its ``against`` over the seeds that both have, and
    ``release`` with the card's recipe as well; weight averaging and mirrored copies are compared
    with the same runs of ``release`` without them.

    Returns:
        One row per choice: ``choice``; ``setting`` and ``way``, `PLAIN` except in the last row;
        ``against``, the baseline's setting (empty: none); ``seeds``, those in common if there is a
        baseline; ``dice``, an `Interval` over seeds and frames (n = 0 without a run); ``gain``, the
        same for the paired differences; ``seconds`` per run, see `seconds_of`, and ``times``, their
        ratio to the baseline's.
    """
    rows = [
        _row(results, name, PLAIN, setting.against, PLAIN, setting.choice)
        for name, setting in SETTINGS.items()
    ]
    rows += [
        _row(results, "release", PLAIN, "card", PLAIN, ALL),
        _row(results, "release", PLAIN, "release", UNAVERAGED, "averaged weights"),
        _row(results, "release", MIRRORED, "release", PLAIN, "mirrored copies (inference)"),
    ]
    return pd.DataFrame(rows)


def shown(found: pd.DataFrame) -> pd.DataFrame:
    """`comparisons` formatted for reading, all columns text."""
    return pd.DataFrame(
        {
            "choice": found["choice"],
            "against": found["against"].replace("", "–"),
            "seeds": found["seeds"].astype(str),
            "validation Dice [95 %]": [_said(i, "not run yet") for i in found["dice"]],
            "gain [95 %]": [_said(i, "–", "+") for i in found["gain"]],
            "seconds": ["–" if np.isnan(s) else f"{s:.0f}" for s in found["seconds"]],
            "times as long": ["–" if np.isnan(t) else f"{t:.1f}" for t in found["times"]],
        }
    )


def _said(found: Interval, missing: str, sign: str = "") -> str:
    if not found.n:
        return missing
    return f"{found:{sign}.3f}{' (one seed)' if np.isnan(found.low) else ''}"


def ablation_findings(found: pd.DataFrame) -> list[str]:
    """What `comparisons` say, in sentences."""
    sentences = []
    for row in found.to_dict("records"):
        gain = row["gain"]
        if not gain.n:
            continue
        verdict = "a gain" if gain.low > 0 else "a loss" if gain.high < 0 else "no clear difference"
        if abs(gain.mean) < NOISE and not gain.low <= 0 <= gain.high:
            verdict += f", but less than the {NOISE} that another seed may make"
        verdict = "" if np.isnan(gain.low) else f", {verdict}"  # of one seed there is no interval
        what = f"{row['choice']} (`{row['setting']}` against `{row['against']}`)"
        sentences.append(f"{what[0].upper()}{what[1:]}: {_said(gain, '', '+')}{verdict}.")
    missing = found.loc[found["seeds"] == 0, "choice"].tolist()
    if missing:
        sentences.append(f"Not run yet: {', '.join(missing)}.")
    return sentences


def _row(
    results: AblationResults, name: str, way: str, against: str, other: str, choice: str
) -> dict[str, Any]:
    own = _values(results, name, way)
    base = _values(results, against, other)
    both = sorted(own.keys() & base.keys())
    groups = next((table["group"].tolist() for table in results.scores.values()), [])
    dice = _over([own[seed] for seed in sorted(own)], groups)
    gain = _over([own[seed] - base[seed] for seed in both], groups)
    seconds = seconds_of(results, name)
    row: dict[str, Any] = {"choice": choice, "setting": name, "way": way, "against": against}
    row |= {"seeds": len(both if against else own), "dice": dice, "gain": gain}
    return row | {"seconds": seconds, "times": seconds / seconds_of(results, against)}


def _values(results: AblationResults, name: str, way: str) -> dict[int, pd.Series]:
    return {
        seed: table[way]
        for (setting, seed), table in results.scores.items()
        if setting == name and way in table
    }


def _over(columns: list[pd.Series], groups: list[str]) -> Interval:
    if not columns:
        return Interval(np.nan, np.nan, np.nan, 0, NONE)
    return seeds_interval(np.stack([column.to_numpy() for column in columns]), groups)


def seconds_of(results: AblationResults, name: str) -> float:
    """Seconds that a run of a setting takes in `quiet_session`; NaN if it has none.

    Fastest epoch times all epochs, validation included: other jobs can only slow an epoch down.
    """
    session = quiet_session(results)
    runs = [
        record["seconds_per_epoch"]
        for (setting, _), record in results.records.items()
        if setting == name and _session(record) == session
    ]
    return min((min(epochs) * len(epochs) for epochs in runs), default=np.nan)


def quiet_session(results: AblationResults) -> tuple[str, str]:
    """Device and commit of the runs whose times are comparable; empty texts without a run.

    Of the sessions with the most settings it is the one in which epochs differ least from the
    fastest of their run, since work beside it shows so.
    """
    settings: dict[tuple[str, str], set[str]] = {}
    slowdowns: dict[tuple[str, str], list[float]] = {}
    for (setting, _), record in results.records.items():
        epochs, session = record["seconds_per_epoch"], _session(record)
        settings.setdefault(session, set()).add(setting)
        slowdowns.setdefault(session, []).append(float(np.median(epochs)) / min(epochs))
    return min(
        settings,
        key=lambda session: (-len(settings[session]), float(np.mean(slowdowns[session]))),
        default=("", ""),
    )


def _session(record: dict[str, Any]) -> tuple[str, str]:
    return record["device"], record["commit"]
