"""Opens the folder of a run for training: makes or resumes it, and locks it for one process.

``config.json`` records the circumstances: device, processes, commit, versions.
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
from polyp_utils.common.files import write_json, write_text
from polyp_utils.common.paths import repo_root
from polyp_utils.common.processes import rank, size
from polyp_utils.data.catalog import CATALOG
from polyp_utils.data.split import Split
from polyp_utils.runs.run import Run, run_of


@contextlib.contextmanager
def open_run(
    config: RunConfig,
    fingerprints: dict[str, str],
    device: str,
    split: Split | None = None,
    **remarks: str,
) -> Iterator[Run]:
    """The folder of a run, new or existing, locked for this process.

    A finished run is only read, not locked. Of several processes the first holds the lock for all;
    the others only get the path.

    Args:
        config: the requested settings.
        fingerprints: of data and split.
        device: description, for the record.
        split: cut to the limit in the settings; its ids are stored.
        remarks: for the record: ``note`` (who made weights that were trained elsewhere),
            ``init_leak`` (how much of the test part the initial weights have seen) and ``doubts``
            (about the masks, see `polyp_utils.data.plausibility`).

    Raises:
        RunError: the folder holds a run with other settings or data, another process is training
            it, or it cannot be written.
    """
    run = run_of(config)
    if rank():
        yield run
        return
    given = {**fingerprints, "note": remarks.get("note", "")}
    if run.finished:
        _is_same(run, config, given)
        _note_place(run, config)
        yield run
        return
    with run.lock():
        if (run.path / "config.json").is_file() and _is_same(run, config, given):
            _note_place(run, config)
            if not run.finished:
                _note_change(run, device)
        else:
            record: dict[str, Any] = {"settings": config.to_dict(), "fingerprints": fingerprints}
            remarks["split_remark"] = split.remark if split else ""
            record |= {name: text for name, text in remarks.items() if text}
            write_json(run.path / "config.json", {**record, **_circumstances(device)})
        if split:
            write_text(run.stored_split, split.to_csv())
        yield run


def _is_same(run: Run, config: RunConfig, given: dict[str, str]) -> bool:
    """Whether the folder holds the requested run; False: another, without a finished epoch.

    ``given``: fingerprints, and the note of an adopted run (empty for one that is trained).

    Raises:
        RunError: it holds another run, with finished epochs.
    """
    record = run.record
    there = {**run.config.to_dict(), **record["fingerprints"], "note": record.get("note", "")}
    asked = {**config.to_dict(), **given}
    ignored = {"device", "name"}  # these may differ
    if there["data"] == asked["data"] and not {there["dataset"], asked["dataset"]} & CATALOG.keys():
        ignored.add("dataset")  # the same files at another place
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
                f"; its schedule {there['schedule']!r} ends with its {there['epochs']} epochs: to "
                "train its weights for longer, start another run from them (init)"
            )
        raise RunError(
            f"{run.path} holds a run with other settings: {'; '.join(different)}. Nothing was "
            "changed. To resume that run, use its settings; to keep both, give this one another "
            f"name (-p name …, --name …); or move the folder away{longer}"
        )
    return not different


def _note_place(run: Run, config: RunConfig) -> None:
    """Records that the run's data lie elsewhere now."""
    record = run.record
    if record["settings"]["dataset"] != config.dataset:
        settings = {**record["settings"], "dataset": config.dataset}
        write_json(run.path / "config.json", {**record, "settings": settings})
        print(f"{run.name}: its data are recorded as being at {config.dataset} now")


def _note_change(run: Run, device: str) -> None:
    """Records that the run resumes with another commit, version or device."""
    record, now = run.record, _circumstances(device)
    before = (record.get("resumed") or [record])[-1]
    changed = [key for key in ("device", "commit", "versions") if before[key] != now[key]]
    if changed:
        print(f"{run.name}: resuming with another {' and '.join(changed)}, see config.json")
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
    """The repository's commit, with ``+`` if the package has changes; "unknown" without git."""
    git = ["git", "-C", str(repo_root())]
    try:
        commit = _output(*git, "rev-parse", "HEAD")
        changed = _output(*git, "status", "--porcelain", "-uno", "polyp_utils")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + ("+" if changed else "")


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
