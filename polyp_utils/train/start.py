"""How training comes to a run folder: made anew or gone on with, and held by one process.

``config.json`` records under which circumstances: device, processes, commit, versions.
"""

import contextlib
import importlib.metadata
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import torch

import polyp_utils
from polyp_utils.common.config import RunConfig
from polyp_utils.common.exceptions import RunError
from polyp_utils.common.files import write_json
from polyp_utils.common.paths import repo_root
from polyp_utils.common.processes import rank, size
from polyp_utils.runs.run import Run, run_of


@contextlib.contextmanager
def open_run(
    config: RunConfig, fingerprints: dict[str, str], device: str, **remarks: str
) -> Iterator[Run]:
    """The folder for a run, held for this process: made anew, or the one that is there.

    A finished run is only looked at, and not held. Of several processes the first holds the run
    for all; the others are given its path.

    Args:
        config: the settings asked for.
        fingerprints: of data and split.
        device: description, for the record.
        remarks: ``note`` (of weights that were trained elsewhere, who made them) and ``init_leak``
            (what the weights at the start have seen of the test part), for the record.

    Raises:
        RunError: the folder holds a run with other settings or data, another process trains it,
            or it cannot be written.
    """
    run = run_of(config)
    if rank():
        yield run
        return
    given = {**fingerprints, "note": remarks.get("note", "")}
    if run.finished:
        _is_same(run, config, given)
        yield run
        return
    with run.lock():
        if (run.path / "config.json").is_file() and _is_same(run, config, given):
            if not run.finished:
                _note_change(run, device)
        else:
            record: dict[str, Any] = {"settings": config.to_dict(), "fingerprints": fingerprints}
            record |= {name: text for name, text in remarks.items() if text}
            write_json(run.path / "config.json", {**record, **_circumstances(device)})
        yield run


def _is_same(run: Run, config: RunConfig, given: dict[str, str]) -> bool:
    """Whether the folder holds the run that is asked for; False for another without an epoch yet.

    ``given``: fingerprints, and the note of an adopted run (empty for one that is trained).

    Raises:
        RunError: another, with epochs.
    """
    record = run.record
    there = {**run.config.to_dict(), **record["fingerprints"], "note": record.get("note", "")}
    asked = {**config.to_dict(), **given}
    ignored = {"device", "name"}  # noted, not refused
    different = [
        f"{key} is {there.get(key)!r} there and {value!r} now"
        for key, value in asked.items()
        if key not in ignored
        and there.get(key) != value
        and not (key == "split_ids" and there["split"] != asked["split"])
    ]
    if different and (run.finished or (run.path / "history.csv").is_file()):
        longer = ""
        if there["epochs"] != asked["epochs"] and there.get("schedule", "plateau") != "plateau":
            longer = (
                f"; its schedule {there['schedule']!r} ends with its {there['epochs']} epochs, so "
                "to train its weights for longer start another run from them (init)"
            )
        raise RunError(
            f"{run.path} holds a run with other settings: {'; '.join(different)}. Nothing was "
            "changed. To go on with that run ask for its settings; to keep both give this one "
            f"another name (-p name …, --name …); or move the folder away{longer}"
        )
    return not different


def _note_change(run: Run, device: str) -> None:
    """Adds to the record that the run goes on with another commit, version or device."""
    record, now = run.record, _circumstances(device)
    before = (record.get("resumed") or [record])[-1]
    changed = [key for key in ("device", "commit", "versions") if before[key] != now[key]]
    if changed:
        print(f"{run.name}: goes on with another {' and '.join(changed)}; config.json says so")
        resumed = [*record.get("resumed", []), now]
        write_json(run.path / "config.json", {**record, "resumed": resumed})


def _circumstances(device: str) -> dict[str, Any]:
    return {
        "device": device,
        "processes": size(),
        "commit": git_commit(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {
            "polyp_utils": polyp_utils.__version__,
            "python": sys.version.split()[0],
            "torch": torch.__version__,
            "torchvision": importlib.metadata.version("torchvision"),  # its import is slow
        },
    }


def git_commit() -> str:
    """The repository's commit, with ``+`` if the package has changed; "unknown" without git."""
    git = ["git", "-C", str(repo_root())]
    try:
        commit = _output(*git, "rev-parse", "HEAD")
        changed = _output(*git, "status", "--porcelain", "-uno", "polyp_utils")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + ("+" if changed else "")


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
