"""Polyp segmentation research that anyone can rerun: the package computes, the notebooks explain.

Subpackages, lowest layer first; each imports only from itself and those before it: `common`,
`data`, `model`, `runs`, `score`, `train`, `analyse`, `study`, `deploy`, `bench`, `plots`,
`publish`. The names that users need can be imported from here and are loaded on first use.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "RunConfig": "common.config",
    "evaluate": "score.evaluation",
    "fit": "train.fit",
    "load_model": "deploy.load",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
