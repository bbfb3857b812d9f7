"""The package's exceptions and warnings; each says what was seen and what to do."""

import difflib
import functools
import warnings
from collections.abc import Iterable


class UserError(RuntimeError):
    """An error that the user can fix; the command line prints its message and no traceback."""


class ExtraError(ImportError):
    """A package of an optional extra is not installed; the message says how to install it."""

    def __init__(self, package: str, extra: str) -> None:
        self.given = package, extra
        super().__init__(
            f"{package} is not installed: uv sync --extra {extra}, or pip install -e .[{extra}]"
        )

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), self.given  # other processes send it back pickled


class DeviceError(UserError):
    """The GPU cannot be used as requested; the message says what to change."""


class ProcessError(UserError):
    """Another process failed to start; the message is its error."""


class DivergedError(UserError):
    """The loss is not finite; the message names the first such step and what to try."""


class WriteError(OSError):
    """A file cannot be written; the message names it and says why and what to do."""


class RunError(UserError):
    """The run folder cannot be used as requested; the message says what to do."""


class TakenError(RunError):
    """Another process is training the run."""


class DataError(ValueError):
    """A file or folder cannot be used; the message names it and says what to do."""


class WeightsError(ValueError):
    """The weights do not fit; the message says what they are and what was expected."""


class HubError(RuntimeError):
    """The Hub did not deliver the weights; the message says why and how else to get them."""


def few(names: Iterable[str], most: int = 6) -> str:
    """The first names, and how many more there are."""
    listed = [*names]
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more


def unknown(kind: str, value: object, valid: Iterable[str]) -> ValueError:
    """Error for a name that does not exist; it suggests the nearest valid name and lists all."""
    names = sorted(valid)
    near = difflib.get_close_matches(str(value), names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return ValueError(f"unknown {kind} {value!r}: {hint}known are {', '.join(names)}")


@functools.cache
def warn_once(text: str) -> None:
    """Warns of something once per process; Python's own rule forgets, as libraries reset it."""
    warnings.warn(text, stacklevel=3)
