"""What goes wrong, by who can mend it; every message says what was seen and what to do."""

import difflib
from collections.abc import Iterable


class UserError(RuntimeError):
    """What the user can mend; the message says how, and the command line prints nothing else."""


class ExtraError(ImportError):
    """A package of an optional extra is not installed; the message says how to install it."""

    def __init__(self, package: str, extra: str) -> None:
        self.given = package, extra
        super().__init__(
            f"{package} is not installed: uv sync --extra {extra}, or pip install -e .[{extra}]"
        )

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), self.given  # it comes back from other processes


class DeviceError(UserError):
    """A GPU that cannot be used as asked; the message says what to change."""


class ProcessError(UserError):
    """Another process cannot start; the message is what it says."""


class DivergedError(UserError):
    """The loss is not finite; the message says since which step and what to try."""


class RunError(UserError):
    """A run folder that cannot be used as asked; the message says how to go on."""


class TakenError(RunError):
    """Another process trains the run."""


class DataError(ValueError):
    """A file or folder that cannot be used; the message names it and says what to do."""


class WeightsError(ValueError):
    """Weights that do not fit; the message says what they are and what was asked."""


class HubError(RuntimeError):
    """Weights that the Hub did not give; the message says why and how to get them by hand."""


def unknown(kind: str, value: object, valid: Iterable[str]) -> ValueError:
    """Error for a name that does not exist, with the nearest names that do."""
    names = sorted(valid)
    near = difflib.get_close_matches(str(value), names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return ValueError(f"unknown {kind} {value!r}: {hint}known are {', '.join(names)}")
