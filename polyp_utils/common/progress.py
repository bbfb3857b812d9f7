"""Progress reports: a live bar in JupyterLab and terminals, plain lines elsewhere.

The output of a notebook run by papermill is read on the web, where widgets do not work, so it gets
plain lines only: one whenever nothing was printed for a while, few enough even for hours of work.
"""

import os
import sys
import time
from types import TracebackType

from polyp_utils.common.processes import rank

SILENCE = 8.0  # seconds without output before a line reports progress,
SHARE = 0.05  # or this share of the time since the start, if that is longer


def is_live_notebook() -> bool:
    """Whether this process is the kernel of a notebook in interactive use.

    Jupyter servers set ``JPY_SESSION_NAME`` for the kernels that they start; papermill does not.
    """
    return "ipykernel" in sys.modules and "JPY_SESSION_NAME" in os.environ


class Progress:
    """A bar over ``total`` units, of which ``done`` are complete; use as a context manager.

    The total is None where it is not known.
    """

    def __init__(self, title: str, total: int | None, done: int = 0, unit: str = "step") -> None:
        if is_live_notebook():
            from tqdm.auto import tqdm  # imports widgets
        else:
            from tqdm import tqdm
        self._plain = not is_live_notebook() and not sys.stderr.isatty()
        hidden = self._plain or rank() > 0
        self._bar = tqdm(desc=title, total=total, initial=done, unit=unit, disable=hidden)
        self._total, self._done, self._first = total, done, done
        self._start = self._said = time.perf_counter()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()

    def advance(self, what: str) -> None:
        """Counts one unit as done; ``what`` as in `beat`."""
        self._done += 1
        self._bar.update()
        self.beat(what)

    def beat(self, what: str) -> None:
        """Prints ``what`` is being done, if there is no bar and nothing was printed lately."""
        now = time.perf_counter()
        if self._plain and now - self._said >= max(SILENCE, SHARE * (now - self._start)):
            done = self._done - self._first
            todo = max(0, self._total - self._done) if self._total else 0
            left = (now - self._start) / done * todo if done else 0
            self.line(what + (f"  about {duration(left)} left" if left else ""))

    def line(self, text: str) -> None:
        """Prints a line above the bar."""
        self._bar.write(text, file=sys.stdout)
        sys.stdout.flush()
        self._said = time.perf_counter()


def duration(seconds: float) -> str:
    """Seconds as text, in the largest unit that they fill: ``3.2 min``."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
