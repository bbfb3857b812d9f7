"""Settings of a run, and the named recipes.

A recipe is complete: recipe, seed and data determine the result. ``RunConfig.from_recipe`` is the
single entry point for notebooks and the command line; every deviation from the recipe is an
explicit override, recorded in the run's ``config.json``.
"""

import ast
import hashlib
import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from polyp_utils.common.exceptions import unknown
from polyp_utils.common.names import unfit_title
from polyp_utils.common.paths import common_folder

_SCHEMES = "trimap, binary, unused-third, jpeg-levels or neopolyp (what the classes are)"
_DATASET = "name in the catalogue, a folder, or IMAGES::MASKS (patterns)"
_DICE_ABSENT = "a class absent from the batch, in the Dice loss"
_PRECISION = "auto: bf16 where the hardware has it"
MAX_WIDTH, MAX_IMAGE_SIZE = 512, 4096  # more takes memory that no machine has
_COMPILE_MODES = ("none", "default", "reduce-overhead", "max-autotune")


def _setting(default: Any, text: str, *choices: str) -> Any:
    """A field with its help text and, if they are few, its allowed values."""
    if choices:
        listed = f"{', '.join(choices[:-1])} or {choices[-1]}"
        text = f"{listed} ({text})" if text else listed
    return field(default=default, metadata={"help": text, "choices": choices})


@dataclass(frozen=True)
class RunConfig:
    """All settings of a run; the defaults are exactly the model card's.

    Each field's metadata (``help``) says what the setting means; the command line, the notebooks'
    parameter cells and the documents show it.

    Raises:
        ValueError: a value out of range; the message says what is allowed.
    """

    recipe: str = _setting("card", "named settings to start from")
    dataset: str = _setting("kvasir-seg", _DATASET)
    split: str = _setting("random-800-s42", "name of a split, or a file or folder with your own")
    scheme: str = _setting("trimap", _SCHEMES)
    image_size: int = _setting(256, "side of the network's input in pixels, a multiple of 16")
    width: int = _setting(64, "channels of the first stage")
    epochs: int = _setting(20, "passes over the training part")
    batch_size: int = _setting(8, "frames per step, over all processes")
    micro_batches: int = _setting(0, "micro-batches per step; 0: one per process")
    init: str = _setting("", "run or safetensors file to start from; empty: random weights")
    optimizer: str = _setting("adam", "", "adam", "adamw", "sgd")
    lr: float = _setting(1e-4, "learning rate, at its highest")
    weight_decay: float = _setting(0.0, "on the convolutions, by adamw and sgd")
    clip_norm: float = _setting(0.0, "norm that gradients are clipped to; 0: they are not")
    ema_decay: float = _setting(0.0, "of the moving average of the weights; 0: no average")
    schedule: str = _setting("plateau", "of the learning rate", "plateau", "linear", "cosine")
    lr_factor: float = _setting(0.5, "plateau: the learning rate is multiplied by it")
    lr_patience: int = _setting(3, "plateau: epochs without a lower validation loss before that")
    min_lr: float = _setting(1e-6, "plateau: lowest learning rate")
    warmup: float = _setting(0.05, "linear, cosine: share of the steps in which the rate rises")
    keep: str = _setting("best", "epoch that is kept; best on validation", "best", "last")
    ce_weight: float = _setting(0.5, "weight of the cross-entropy in the loss")
    dice_weight: float = _setting(0.5, "weight of the Dice loss")
    dice_absent: str = _setting("include", _DICE_ABSENT, "include", "exclude")
    class_weights: str = _setting("none", "in the cross-entropy", "none", "inverse-sqrt")
    augment: str = _setting("none", "", "none", "mirror", "light", "strong")
    seed: int = _setting(0, "of weights, order and augmentation; the split never depends on it")
    limit: int = _setting(0, "first n frames of each part, for a smoke run; 0: all")
    score_test: bool = _setting(True, "predict and score the test part")
    device: str = _setting("auto", "", "auto", "cuda", "mps", "cpu")
    precision: str = _setting("auto", _PRECISION, "auto", "bf16", "fp32")
    compile_mode: str = _setting("none", "of torch.compile", *_COMPILE_MODES)
    deterministic: bool = _setting(
        False, "repeatable to the bit on CUDA, slower; the CPU always is"
    )
    name: str = _setting("", "run folder; empty: derived from the settings")

    def __post_init__(self) -> None:
        for name, value in self.to_dict().items():
            if isinstance(value, str) and (why := unfit_title(value)):
                raise ValueError(f"{name} is {value!r}; it {why}: use another name")
        for name in ("width", "epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name, most in (("width", MAX_WIDTH), ("image_size", MAX_IMAGE_SIZE)):
            if getattr(self, name) > most:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at most {most}")
        if self.width % 2:
            raise ValueError(f"width is {self.width}; it must be even (the head halves it)")
        if self.image_size < 32 or self.image_size % 16:
            nearest = max(32, round(self.image_size / 16) * 16)
            raise ValueError(
                f"image_size is {self.image_size}; it must be a multiple of 16 and at least 32 "
                f"(four poolings): use {nearest}"
            )
        for name in ("lr", "min_lr"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must lie between 0 and 1")
        if not 0 < self.lr_factor < 1:
            raise ValueError(f"lr_factor is {self.lr_factor}; it must lie between 0 and 1")
        for name, hint in (
            ("warmup", ": it is a share of the run's steps"),
            ("weight_decay", ""),
            ("ema_decay", ": 0 means no average, 0.999 one over about 1000 steps"),
        ):
            if not 0 <= getattr(self, name) < 1:
                value = getattr(self, name)
                raise ValueError(f"{name} is {value}; it must be at least 0 and less than 1{hint}")
        if self.weight_decay and self.optimizer == "adam":
            raise ValueError(
                f"weight_decay is {self.weight_decay} but optimizer adam has none: use adamw"
            )
        if not 0 <= self.clip_norm < math.inf:
            raise ValueError(f"clip_norm is {self.clip_norm}; it must be finite and at least 0")
        weights = (self.ce_weight, self.dice_weight)
        if not all(0 <= weight < math.inf for weight in weights) or sum(weights) == 0:
            raise ValueError(
                f"ce_weight {self.ce_weight} and dice_weight {self.dice_weight}: neither may be "
                "negative or infinite and one must be positive"
            )
        for name in ("limit", "lr_patience", "micro_batches", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must not be negative")
        if self.batch_size % max(1, self.micro_batches):
            raise ValueError(
                f"micro_batches is {self.micro_batches} but batch_size is {self.batch_size}: use a "
                "number that divides it"
            )
        for name, choices in ((f.name, f.metadata["choices"]) for f in fields(self)):
            if choices and getattr(self, name) not in choices:
                raise unknown(name, getattr(self, name), choices)
        if self.name != Path(self.name).name or self.name in {".", ".."}:
            raise ValueError(f"name is {self.name!r}; it must be a plain folder name")

    @classmethod
    def from_recipe(cls, recipe: str = "card", **overrides: Any) -> "RunConfig":
        """A recipe's settings with explicit overrides; ``None`` means "as in the recipe".

        For a data set other than the recipe's, the default split is ``grouped`` (``phantom-240``
        for phantoms). Former recipe names (``seed``, ``seed-binary``, ``seed-small``) also work.

        Raises:
            ValueError: unknown recipe or parameter (with the nearest valid name), or a value
                that is out of range or of the wrong type.
        """
        recipe = _FORMER_NAMES.get(recipe, recipe)
        if recipe not in RECIPES:
            raise unknown("recipe", recipe, RECIPES)
        given = {key: value for key, value in overrides.items() if value is not None}
        if "dataset" in given:
            given.setdefault("split", _usual_split(RECIPES[recipe], given["dataset"]))
        return replace(RECIPES[recipe], **_of_known_types(given))

    @classmethod
    def from_notebook(cls, namespace: dict[str, Any]) -> "RunConfig":
        """The settings in a notebook's variables: ``from_notebook(globals())``.

        Raises:
            ValueError: as in `from_recipe`.
        """
        names = [f.name for f in fields(cls)]
        return cls.from_recipe(**{name: namespace[name] for name in names if name in namespace})

    @classmethod
    def from_record(cls, settings: dict[str, Any]) -> "RunConfig":
        """The settings in a run's record, see `to_dict`.

        Raises:
            ValueError: a setting or recipe that this version does not know, or a value that is out
                of range or of the wrong type.
        """
        given = {**settings}
        recipe = given.pop("recipe", cls.recipe)
        recipe = _FORMER_NAMES.get(str(recipe), recipe)
        if recipe not in [*RECIPES]:
            raise unknown("recipe", recipe, RECIPES)
        return cls(recipe=recipe, **_of_known_types(given))

    @property
    def run_name(self) -> str:
        """Folder name of the run under the results folder."""
        return self._run_name(self.recipe)

    @property
    def former_run_name(self) -> str:
        """The run's name under the recipe's former name, see `from_recipe`; empty if none."""
        former = [old for old, recipe in _FORMER_NAMES.items() if recipe == self.recipe]
        return "" if self.name or not former else self._run_name(former[0])

    def _run_name(self, recipe: str) -> str:
        if self.name:
            return self.name
        usual = RECIPES.get(self.recipe, self)
        place = common_folder(*self.dataset.split("::")) if "::" in self.dataset else self.dataset
        data = f"-{Path(place).name}" if self.dataset != usual.dataset else ""
        file, _, fold = Path(self.split).name.rpartition("#")  # `splits_final.json#2`
        split = (
            f"{Path(file).stem}-fold{fold}" if file and fold.isalnum() else Path(self.split).stem
        )
        split = split if self.split != _usual_split(usual, self.dataset) else ""
        middle = "".join(f"-{part}" for part in (split, self.scheme) if part)
        limit = f"-n{self.limit}" if self.limit else ""
        name = f"{recipe}{data}{middle}-w{self.width}-s{self.seed}{limit}"
        for key, value in self.to_dict().items():
            if key not in _NAMED and value != getattr(usual, key):
                word = f"{value:g}" if isinstance(value, float) else str(value)
                if key == "init":
                    path = Path(word.removesuffix("/model.safetensors"))
                    word = path.name.removesuffix(".safetensors")
                name += f"-{key.replace('_', '-')}-{word}"
        if len(name) > _LONGEST_NAME:
            rest = hashlib.sha256(name.encode()).hexdigest()[:8]
            name = f"{name[: _LONGEST_NAME - 9]}-{rest}"
        return name

    @property
    def held_out(self) -> tuple[str, ...]:
        """The parts that a finished run has predictions for."""
        return ("val", "test") if self.score_test else ("val",)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as written to ``config.json``."""
        return asdict(self)


def _of_known_types(given: dict[str, Any]) -> dict[str, Any]:
    """Settings but the recipe, whole numbers made floats where those are meant.

    Raises:
        ValueError: an unknown name, or a value of the wrong type.
    """
    types = {f.name: type(f.default) for f in fields(RunConfig) if f.name != "recipe"}
    for key, value in given.items():
        if key not in types:
            raise unknown("parameter", key, types)
        if type(value) not in (types[key], int if types[key] is float else types[key]):
            raise ValueError(f"{key} is {value!r}; it must be of type {types[key].__name__}")
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise ValueError(f"{key} has more than 64 bits; use a smaller number")
    return {key: float(v) if types[key] is float else v for key, v in given.items()}


def check_parameters(cells: Sequence[str] | None = None) -> None:
    """Rejects ``-p`` names that the notebook does not have; papermill accepts them silently.

    Papermill adds a cell with the given values after the cell with the defaults.

    Args:
        cells: sources of the cells that have run so far; None: those of the calling notebook.

    Raises:
        ValueError: no such parameter; the message suggests the nearest one.
    """
    if cells is None:
        from IPython import get_ipython  # may not be installed

        shell = get_ipython()
        cells = shell.user_ns["In"] if shell else []
    for defaults, given in itertools.pairwise(cells):
        if given.startswith("# Parameters\n"):
            known = _assigned(defaults)
            for name in _assigned(given):
                if name not in known:
                    raise unknown("parameter", name, known)


def _assigned(cell: str) -> list[str]:
    """Names assigned by the top-level statements of a cell."""
    targets = (
        getattr(line, "targets", None) or [getattr(line, "target", None)]
        for line in ast.parse(cell).body
    )
    return [t.id for group in targets for t in group if isinstance(t, ast.Name)]


def _usual_split(recipe: RunConfig, dataset: str) -> str:
    """The recipe's split on its own data set, elsewhere the data set's default split."""
    if dataset == recipe.dataset:
        return recipe.split
    return "phantom-240" if dataset == "phantom" else "grouped"


# Settings that add no suffix to a run's name: it holds them in another form, they do not change the
# run, or a run of that name refuses to change them once begun, so that nobody retrains by accident
# what should be resumed.
_NAMED = {"recipe", "dataset", "split", "scheme", "width", "seed", "limit", "device", "name"}
_NAMED |= {"compile_mode", "epochs", "schedule", "warmup", "lr_factor", "lr_patience", "min_lr"}
_LONGEST_NAME = 120  # characters; file systems take 255

_CARD = RunConfig()  # the card mentions no augmentation

RECIPES: dict[str, RunConfig] = {
    "card": _CARD,
    # The card's binary sibling: one logit, BCE instead of CE.
    "card-binary": replace(_CARD, recipe="card-binary", scheme="binary"),
    # The card's recipe at 1/64 of the computation, for machines without a GPU.
    "card-small": replace(_CARD, recipe="card-small", width=16, image_size=128, lr=1e-3),
    # The card's network at half its width, trained as well as possible; the last epoch is kept, so
    # nothing is selected during training.
    "release": replace(
        _CARD,
        recipe="release",
        split="grouped",
        width=32,
        epochs=160,
        batch_size=16,
        optimizer="adamw",
        lr=1e-3,
        weight_decay=0.05,
        clip_norm=1.0,
        ema_decay=0.999,
        schedule="cosine",
        keep="last",
        augment="strong",
    ),
    # A real third class. The classes are imbalanced (training part at 256 px: background 94.7 %,
    # neoplastic 4.6 %, non-neoplastic 0.7 %), so the cross-entropy is weighted by 1/√frequency
    # (0.8, 3.7, 9.6), and a kind absent from a batch is left out of the Dice loss, which would only
    # suppress it: not even a third of the frames show a non-neoplastic polyp.
    "neopolyp": replace(
        _CARD,
        recipe="neopolyp",
        dataset="neopolyp",
        split="grouped",
        scheme="neopolyp",
        class_weights="inverse-sqrt",
        dice_absent="exclude",
        augment="light",
    ),
    # No GPU, no data: a narrow network on phantoms, in about a minute. So few steps call for a high
    # learning rate, averaged weights, mirror images, and a loss that is mostly Dice (chosen on
    # validation, with several seeds).
    "quick": replace(
        _CARD,
        recipe="quick",
        dataset="phantom",
        split="phantom-240",
        image_size=64,
        width=8,
        epochs=24,
        batch_size=8,
        optimizer="sgd",
        lr=0.3,
        weight_decay=1e-3,
        ema_decay=0.97,
        schedule="linear",
        warmup=0.2,
        ce_weight=0.1,
        dice_weight=0.9,
        augment="mirror",
    ),
}

# Recipe names of earlier versions: still accepted, and found in the records of their runs.
_FORMER_NAMES = {"seed": "card", "seed-binary": "card-binary", "seed-small": "card-small"}

RELEASED = "release-trimap-w32-s0"  # the published run whose weights are meant for use
