"""The notebooks' verbs without a notebook: ``python -m polyp_utils train --recipe seed``."""

import argparse
import sys
from dataclasses import fields
from typing import Any

from polyp_utils.config import RECIPES, RunConfig


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and runs the verb.

    Returns:
        0, or 2 after an error that the user can mend; its message is one line on stderr.
    """
    parser = argparse.ArgumentParser(prog="python -m polyp_utils", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    train = verbs.add_parser("train", help="train a recipe, or go on with it")
    train.add_argument("--recipe", default="seed", help=f"one of {', '.join(RECIPES)}")
    for field in fields(RunConfig):
        if field.name != "recipe":
            flag = "--" + field.name.replace("_", "-")
            kind = type(field.default)
            help_text = f"override the recipe's (default recipe: {field.default!r})"
            if kind is bool:
                action: Any = argparse.BooleanOptionalAction
                train.add_argument(flag, action=action, default=None, help=help_text)
            else:
                train.add_argument(flag, type=kind, default=None, help=help_text)
    options = vars(parser.parse_args(arguments))
    options.pop("verb")
    return _train(options.pop("recipe"), options)


def _train(recipe: str, overrides: dict[str, Any]) -> int:
    from polyp_utils.runs import RunError  # torch is slow to import: --help should not wait
    from polyp_utils.training import DivergedError, fit

    try:
        fit(RunConfig.from_recipe(recipe, **overrides))
    except (ValueError, FileNotFoundError, RunError, DivergedError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
