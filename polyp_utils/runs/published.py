"""The published runs, in the order of their importance."""

from pathlib import Path

from polyp_utils.common.config import RECIPES, RELEASED
from polyp_utils.common.paths import repo_root
from polyp_utils.data.labels import SCHEMES
from polyp_utils.runs.run import Run


def published() -> list[Run]:
    """The evaluated runs under ``results/published``, the most important first."""
    runs = [Run(path.parent) for path in published_path("").glob("*/summary.json")]
    return sorted(runs, key=_importance)


def _importance(run: Run) -> tuple[int, ...]:
    """Sorts released weights before their recipe, then the card's recipes: wide before narrow."""
    config = run.config
    recipe, scheme = list(RECIPES).index(config.recipe), list(SCHEMES).index(config.scheme)
    others = run.name != RELEASED, config.recipe != "release"
    return *others, recipe, scheme, -config.width, config.seed


def published_path(name: str) -> Path:
    """A path below ``results/published``."""
    return repo_root() / "results/published" / name


def released(runs: list[Run]) -> Run:
    """The run whose weights are meant for use."""
    (run,) = [run for run in runs if run.name == RELEASED]
    return run
