"""Weights that training starts from instead of random ones: the ``init`` of a run.

Their own training data matter: a frame that they were trained on is no longer a test frame.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from polyp_utils.common.config import RunConfig
from polyp_utils.common.exceptions import WeightsError
from polyp_utils.common.paths import repo_root
from polyp_utils.data.known import seen_before
from polyp_utils.data.labels import get_scheme
from polyp_utils.model.unet import UNet
from polyp_utils.model.weights import read_header, read_tensors
from polyp_utils.runs.run import Run, find_run, split_of


@dataclass(frozen=True)
class Initial:
    """Initial weights, and what is known about them.

    Attributes:
        path: the safetensors file.
        fingerprint: first 16 hex digits of the file's SHA-256.
        metadata: what training wrote into the file's header; empty if another program wrote it.
        new_head: whether the last layer stays random, because its classes differ.
        leak: how much of the test part these weights have seen, in words.
    """

    path: Path
    fingerprint: str
    metadata: dict[str, Any]
    new_head: bool
    leak: str

    def load(self, model: UNet) -> str:
        """Loads these weights into a new network; returns a sentence that says so."""
        tensors = read_tensors(self.path)
        own = model.state_dict()
        tensors |= {name: own[name] for name in own if _of_head(name) and self.new_head}
        model.load_state_dict(tensors)
        head = "; the last layer starts at random, as its classes differ" if self.new_head else ""
        return f"starting from the weights of {self.path} ({self.fingerprint}){head}. {self.leak}"


def find_initial(config: RunConfig) -> Initial | None:
    """The weights that ``config.init`` names: a finished run by name or path, or a file.

    Raises:
        RunError, ValueError: no such run.
        FileNotFoundError: no such file, or a run without weights.
        WeightsError: not our U-Net, of another width, or incomplete.
    """
    if not config.init:
        return None
    given = Path(config.init).expanduser()
    found = next((p for p in (given, repo_root() / given) if p.is_file()), None)
    if found is None and given.suffix == ".safetensors":
        raise FileNotFoundError(f"init {given} does not exist: name a file or a finished run")
    path = found or find_run(config.init).weights
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: init needs a run that has its weights")
    header, scheme = read_header(path), get_scheme(config.scheme)
    width = header.width
    if width != config.width:
        raise WeightsError(
            f"init {path} has width {width} but width is {config.width}: use width {width}"
        )
    other_classes = header.classes not in ((), scheme.classes)  # (): unknown, the number decides
    new_head = header.logits != scheme.logits or other_classes
    with torch.device("meta"):
        expected = UNet(3, header.logits, width).state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in expected.items()}
    there = {name: tuple(tensor.shape) for name, tensor in read_tensors(path).items()}
    if there != shapes:
        wrong = sorted(n for n in there.keys() | shapes if there.get(n) != shapes.get(n))
        raise WeightsError(
            f"init {path} is not a complete U-Net of width {width}: {wrong[0]} differs"
        )
    fingerprint = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    return Initial(
        path, fingerprint, header.metadata, new_head, _leak(config, path, header.metadata)
    )


def _of_head(name: str) -> bool:
    return name.startswith("output.")


def _leak(config: RunConfig, path: Path, metadata: dict[str, Any]) -> str:
    """How much of a run's test part the initial weights have seen, in words."""
    try:
        theirs = RunConfig.from_record(metadata["settings"])
        beside, fingerprint = Run(path.parent), metadata.get("split_ids", "")
        stored = beside.stored_split.is_file() and beside.config == theirs
        seen_split = beside.split if stored else split_of(theirs, fingerprint)
    except (KeyError, TypeError, ValueError, OSError):  # not recorded, or no longer available
        return "The frames they were trained on are not known: none should be in the test part"
    test = split_of(config).test
    seen = seen_split.train + seen_split.val
    same, alike = seen_before(seen, theirs.dataset, test, config.dataset)
    text = f"Of {len(test)} test frames they have seen {same} in training or validation"
    if alike is None:
        text += " (same id); whether they have seen near-duplicates of others is not known"
    else:
        text += f", and near-duplicates of {alike} more"
    if theirs.init:
        text += f"; frames seen by {theirs.init}, which they started from, are not counted"
    return text
