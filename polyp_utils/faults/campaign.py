"""The campaign: faults at every change of the disk and at random moments, in tables.

A part is a table, a row per fault, written after each: the same command goes on where it was
stopped. What may come of a fault: `polyp_utils.faults.trial`.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from polyp_utils.bench.run import describe_machine
from polyp_utils.common.device import get_compute
from polyp_utils.common.exceptions import RunError, unknown
from polyp_utils.common.files import write_csv, write_json
from polyp_utils.faults.commands import COMMANDS
from polyp_utils.faults.corrupted import AS_NAMED, TRIALS, try_corruptions
from polyp_utils.faults.disk import mounted
from polyp_utils.faults.inject import FULL, KILLED, READ_ONLY
from polyp_utils.faults.states import REFUSED, all_states, suffer_state
from polyp_utils.faults.trial import EQUAL, Trials
from polyp_utils.runs.run import make_folder

CORRUPTIONS = "corruptions"  # of inputs, see `polyp_utils.faults.corrupted`
PARTS = ("kills", "moments", "writes", "disk", "states", CORRUPTIONS)
MOMENTS = 200
GOOD = (EQUAL, REFUSED, AS_NAMED)
_SHARES = np.linspace(0, 0.95, 20)  # of the space that a command needs, on the small disk


class Campaign:
    """The faults of each part, and their tables in a folder."""

    def __init__(self, out: Path, trials: Trials) -> None:
        self.out, self.trials = out, trials

    def kills(self) -> Iterator[dict[str, Any]]:
        """The faults of the part ``kills``: SIGKILL before every change, and amid every write."""
        yield from self._at_changes((KILLED,))

    def writes(self) -> Iterator[dict[str, Any]]:
        """Those of ``writes``: the disk is full, or read-only, from each change on."""
        yield from self._at_changes((FULL, READ_ONLY))

    def moments(self, count: int) -> Iterator[dict[str, Any]]:
        """Those of ``moments``: SIGKILL at random, uniformly over the time of each command."""
        for seed in range(count):
            command = self.trials.commands[seed % len(self.trials.commands)]
            yield {"command": command.name, "fault": KILLED, "seed": seed}

    def _at_changes(self, kinds: tuple[str, ...]) -> Iterator[dict[str, Any]]:
        for command in self.trials.commands:
            for kind in kinds:
                for number, (what, file) in enumerate(self.trials.references[command.name].changes):
                    for middle in (False, True) if what == "write" and kind == KILLED else (False,):
                        key = {"command": command.name, "fault": kind, "number": number}
                        yield key | {"middle": middle, "what": what, "file": file}

    def disk(self) -> Iterator[dict[str, Any]]:
        """Those of ``disk``: a file system of its own, nearly full or read-only from the start."""
        for command in self.trials.commands:
            if not command.under:  # the cache has its own folder
                for share in _SHARES:
                    yield {"command": command.name, "fault": FULL, "share": round(float(share), 3)}
                yield {"command": command.name, "fault": READ_ONLY, "share": 0.0}

    def states(self) -> Iterator[dict[str, Any]]:
        """Those of ``states``, see `polyp_utils.faults.states`."""
        yield from all_states(self.trials)

    def run_part(self, name: str, count: int = 0) -> pd.DataFrame | None:
        """Suffers the faults of a part that its table does not hold yet.

        Args:
            name: a method's name in `PARTS`.
            count: so many of them, evenly spread; 0: all, of random moments `MOMENTS`.

        Returns:
            The table; None for ``disk`` where no file system can be mounted.
        """
        if name == "moments":
            rows = list(self.moments(count or MOMENTS))
        else:
            rows = list(getattr(self, name)())
            if count:
                chosen = np.linspace(0, len(rows) - 1, count).round().astype(int)
                rows = [rows[i] for i in np.unique(chosen)]
        path = self.out / f"{name}.csv"
        there = pd.read_csv(path, keep_default_na=False) if path.is_file() else pd.DataFrame()
        done = [{str(k): v for k, v in row.items()} for row in there.to_dict("records")]
        known = {_key(row) for row in done}
        todo = [row for row in rows if _key(row) not in known]
        print(f"{name}: {len(done)} faults are done, {len(todo)} to do", flush=True)
        own = mounted(self.trials.workspace.path) if name == "disk" else contextlib.nullcontext()
        with own as disk:
            if name == "disk" and disk is None:
                print("disk: no file system can be mounted here")
                return None
            for number, row in enumerate(todo, 1):
                if name == "states":
                    done.append(suffer_state(self.trials, row))
                else:
                    done.append(self.trials.suffer(row, disk))
                write_csv(path, done)
                if done[-1]["outcome"] not in GOOD or number % 50 == 0:
                    print(f"{name} {number} of {len(todo)}: {done[-1]}", flush=True)
        return pd.DataFrame(done)


def run_campaign(
    out: Path,
    main: Callable[[list[str]], int],
    parts: Iterable[str] = (),
    commands: Iterable[str] = (),
    count: int = 0,
) -> dict[str, pd.DataFrame]:
    """Runs parts of the campaign, or goes on with them; each has its table and record in ``out``.

    Args:
        out: the folder.
        main: the command line.
        parts: names in `PARTS`; none: all.
        commands: names in `COMMANDS`; none: all.
        count: see `Campaign.run_part`.

    Returns:
        The table of each part.

    Raises:
        ValueError: an unknown name.
        RunError: the folder holds tables of another version of the package, or this is Windows.
    """
    if not hasattr(os, "fork"):
        raise RunError("faults are made in forks of this process, which Windows does not have")
    parts, commands = list(parts) or list(PARTS), list(commands) or list(COMMANDS)
    for kind, names, known in (("part", parts, PARTS), ("command", commands, COMMANDS)):
        for name in names:
            if name not in known:
                raise unknown(kind, name, known)
    make_folder(out)
    facts = {"command": "python -m polyp_utils faults", "commands": commands}
    records = {name: describe_machine(get_compute("cpu"), **facts) for name in parts}
    for name, record in records.items():
        path = out / f"{name}.json"
        there = json.loads(path.read_text("utf-8")) if path.is_file() else record
        if there["commit"] != record["commit"]:
            raise RunError(
                f"{path} is of commit {there['commit']}, this is {record['commit']}: move it and "
                f"{name}.csv away, or name another folder with --out"
            )
        record["seconds"] = there.get("seconds", 0)
    tables, campaign = {}, None
    with tempfile.TemporaryDirectory() as folder:
        for name, record in records.items():
            write_json(out / f"{name}.json", record)
            start = time.perf_counter()
            table: pd.DataFrame | None
            if name == CORRUPTIONS:
                table = try_corruptions(out / f"{name}.csv", count or TRIALS)
            else:
                campaign = campaign or Campaign(out, Trials(main, commands, Path(folder).resolve()))
                table = campaign.run_part(name, count)
            record["seconds"] += round(time.perf_counter() - start)
            write_json(out / f"{name}.json", record)
            if table is not None:
                tables[name] = table
    return tables


def _key(row: dict[str, Any]) -> tuple[str, ...]:
    names = ("command", "fault", "number", "middle", "seed", "share")
    known = {name: row[name] for name in names if name in row}
    if "share" in known:  # 0.0 is written as 0
        known["share"] = float(known["share"])
    return tuple(map(str, known.values()))
