"""Weights that training starts from, instead of random ones: ``init`` of a run.

What they have seen counts: a frame that they were trained on is no test frame any more.
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
from polyp_utils.data.splits import split_of
from polyp_utils.model.unet import UNet
from polyp_utils.model.weights import read_header, read_tensors
from polyp_utils.runs.run import find_run


@dataclass(frozen=True)
class Initial:
    """Given weights, and what is known of them.

    Attributes:
        path: of the safetensors file.
        fingerprint: SHA-256 of the file, 16 hex digits.
        metadata: what training wrote into its header; empty if another program wrote it.
        new_head: whether the last layer is drawn anew, as its classes are others.
        leak: what these weights have seen of the test part, in words.
    """

    path: Path
    fingerprint: str
    metadata: dict[str, Any]
    new_head: bool
    leak: str

    def load(self, model: UNet) -> str:
        """Gives a new network these weights; what was done, in words."""
        tensors = read_tensors(self.path)
        own = model.state_dict()
        tensors |= {name: own[name] for name in own if _of_head(name) and self.new_head}
        model.load_state_dict(tensors)
        head = "; the last layer is drawn anew, as the classes are others" if self.new_head else ""
        return f"starting from the weights of {self.path} ({self.fingerprint}){head}. {self.leak}"


def find_initial(config: RunConfig) -> Initial | None:
    """The weights that ``config.init`` names: a finished run by name or path, or a file.

    Raises:
        RunError, ValueError: no such run.
        FileNotFoundError: a run without weights.
        WeightsError: not ours, of another width, or not complete.
    """
    if not config.init:
        return None
    given = Path(config.init).expanduser()
    found = next((p for p in (given, repo_root() / given) if p.is_file()), None)
    if found is None and given.suffix == ".safetensors":
        raise FileNotFoundError(f"init {given} does not exist: name a file or a finished run")
    path = found or find_run(config.init).weights
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: init needs a run with its weights")
    header, scheme = read_header(path), get_scheme(config.scheme)
    width = header.width
    if width != config.width:
        raise WeightsError(
            f"init {path} is of width {width} but width is {config.width}: take width {width}"
        )
    other_classes = header.classes not in ((), scheme.classes)  # not said: as many must do
    new_head = header.logits != scheme.logits or other_classes
    with torch.device("meta"):
        expected = UNet(3, header.logits, width).state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in expected.items()}
    there = {name: tuple(tensor.shape) for name, tensor in read_tensors(path).items()}
    if there != shapes:
        wrong = sorted(n for n in there.keys() | shapes if there.get(n) != shapes.get(n))
        raise WeightsError(f"init {path} is no complete U-Net of width {width}: {wrong[0]} differs")
    fingerprint = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    return Initial(path, fingerprint, header.metadata, new_head, _leak(config, header.metadata))


def _of_head(name: str) -> bool:
    return name.startswith("output.")


def _leak(config: RunConfig, metadata: dict[str, Any]) -> str:
    """What given weights have seen of a run's test part, in words."""
    try:
        theirs = RunConfig.from_record(metadata["settings"])
        seen_split = split_of(theirs)
    except (KeyError, TypeError, ValueError, OSError):  # not said, or no longer here
        return "Which frames they have seen is not known: none of them should be in the test part"
    test = split_of(config).test
    seen = seen_split.train + seen_split.val
    same, alike = seen_before(seen, theirs.dataset, test, config.dataset)
    text = f"Of {len(test)} test frames they have seen {same} in training or validation"
    if alike is None:
        text += " by their ids; whether others are near-duplicates of seen ones is not known"
    else:
        text += f", and near-duplicates of {alike} more"
    if theirs.init:
        text += f"; what {theirs.init} had seen, from which they started, is not counted"
    return text
