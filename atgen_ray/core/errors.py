"""Errors that a user can mend. The command line prints them as one line and exits with status 2."""

import difflib
import re
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in the input: names the key, the value, what was expected and the nearest valid
    choice.
    """


class StorageUnavailableError(UserError):
    """Something that we keep things in, a database or a disk, cannot be used now: full, read-only,
    locked or away.
    """


class StorageFullError(StorageUnavailableError):
    """A disk or store has no room left."""


class RunBusyError(UserError):
    """Another controller drives this run."""


class NobodyDrivesError(UserError):
    """What was asked of a run's controller finds none: it died, and left the run as
    `interrupted`.
    """


class OutputMissingError(UserError):
    """The journal says that a step was done, and what it left in the run's folder is gone."""


class RunFailedError(Exception):
    """A run ended on something else than a mistake in the input; what it had committed is safe.

    `run` is the run's name. The text is one line, or a traceback of the run's controller.
    """

    def __init__(self, run: str, message: str) -> None:
        super().__init__(message)
        self.run = run


class RunStopped(Exception):
    """Somebody asked for the run to stop; everything committed so far stays."""


class RunPaused(RunStopped):
    """Something outside, such as a provider's quota, keeps the run from going on; everything
    committed so far stays.
    """


class BudgetSpent(Exception):
    """What is left of the run's budget buys not one more label."""


class PoolExhausted(Exception):
    """Nothing is left in the pool to select."""


def nearest(name: str, choices: Iterable[str]) -> str:
    """The closest of `choices` as a hint (``"; did you mean 'x'?"``), or all of them when none is
    close.
    """
    known = sorted(choices)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else f"; known: {', '.join(known)}"


def notify(error: BaseException) -> str:
    """The text of an error; of its cause where a task or an actor of Ray raised it, whose own text
    is a traceback.
    """
    while isinstance(cause := getattr(error, "cause", None), BaseException):
        error = cause
    return str(error)


def printable(text: str) -> str:
    """`text` for a terminal: control characters, which may come out of a row and could rewrite the
    screen, escaped.
    """
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", lambda found: f"\\x{ord(found[0]):02x}", text)
