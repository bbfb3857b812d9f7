"""Progress that suits the place: a live bar in JupyterLab and terminals, plain lines elsewhere.

A notebook run headless by papermill keeps its output for readers on the web, where a widget is
dead: there the lines alone appear.
"""

import os
import sys
from types import TracebackType

from tqdm.auto import tqdm as tqdm_auto
from tqdm.std import tqdm as tqdm_text

from polyp_utils.distributed import rank


def is_live_notebook() -> bool:
    """Whether this process is a kernel with a person in front of it.

    Jupyter servers name the notebook in ``JPY_SESSION_NAME`` for the kernels that they start; a
    kernel started by papermill has no such name.
    """
    return "ipykernel" in sys.modules and "JPY_SESSION_NAME" in os.environ


class Progress:
    """A bar over ``total`` steps, of which ``done`` are behind us; use as a context manager."""

    def __init__(self, title: str, total: int, done: int = 0) -> None:
        live = is_live_notebook()
        bar = tqdm_auto if live else tqdm_text
        hidden = rank() > 0 or (not live and not sys.stderr.isatty())
        self._bar = bar(desc=title, total=total, initial=done, unit="step", disable=hidden)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()

    def advance(self) -> None:
        """One step done."""
        self._bar.update()

    def line(self, text: str) -> None:
        """Prints a line above the bar."""
        self._bar.write(text, file=sys.stdout)
        sys.stdout.flush()
