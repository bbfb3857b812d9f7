"""Polyp segmentation research that anyone can rerun: the package computes, the notebooks explain.

Rooms, ground floor first; each imports from itself and from those before it: `common`, `data`,
`model`, `runs`, `score`, `train`, `analyse`, `study`, `deploy`, `bench`, `plots`, `publish`. What
users write comes from here, and is loaded when it is first asked for.
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
