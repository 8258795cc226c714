"""Errors of a run, and hints for the user.

    UserError                     the input or the environment is wrong, and the user can correct it
      StorageUnavailableError     a database or file system cannot be used now
        StorageFullError
      RunBusyError                another controller drives the run
      OutputMissingError          a file of a finished step is gone
    RunStopped                    the run was asked to stop
      RunPaused                   something outside keeps the run from going on
    LeaseLostError                another controller drives the run now
    BudgetSpent, PoolExhausted    the run ends because nothing is left

The command line prints a UserError as one line and exits with status 2.
"""

import difflib
import re
from collections.abc import Iterable


class UserError(Exception):
    """The input is wrong. The message names the key, the value, what was expected and the nearest
    valid choice.
    """


class StorageUnavailableError(UserError):
    """The database or file system is full, read-only, locked or unreachable."""


class StorageFullError(StorageUnavailableError):
    """A disk, database or object store has no room left."""


class RunBusyError(UserError):
    """Another controller drives this run.

    Attributes:
        expires: when its lease ends unless renewed, by the clock of the database in seconds; None
            where the lease was not asked for.
    """

    expires: float | None = None


class OutputMissingError(UserError):
    """A file of a step that the journal lists as done is missing in the run's folder."""


class LeaseLostError(Exception):
    """Another controller has taken the run, or the lease was released; the former holder must
    stop.
    """


class RunFailedError(Exception):
    """A run ended on something else than a mistake in the input; what it had committed is safe.

    `run` is the run's name. The text is one line, or a traceback of the run's controller.
    """

    def __init__(self, run: str, message: str) -> None:
        super().__init__(message)
        self.run = run


class RunStopped(Exception):
    """The run was asked to stop; everything committed so far stays."""


class RunPaused(RunStopped):
    """Something outside, such as a provider's quota, keeps the run from going on; everything
    committed so far stays, and the same command continues the run later.
    """


class BudgetSpent(Exception):
    """The rest of the run's budget does not buy one more label."""


class PoolExhausted(Exception):
    """No example is left in the pool to select."""


def nearest(name: str, choices: Iterable[str]) -> str:
    """Return the closest of `choices` as a hint (``"; did you mean 'x'?"``), or all of them when
    none is close.
    """
    known = sorted(choices)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else f"; known: {', '.join(known)}"


def root_message(error: BaseException) -> str:
    """Return the text of an error; that of its cause if a task or an actor of Ray raised it, since
    Ray's own text is a traceback.
    """
    while isinstance(cause := getattr(error, "cause", None), BaseException):
        error = cause
    return str(error)


def printable(text: str) -> str:
    """Return `text` for a terminal, with control characters escaped: those from a row of data could
    rewrite the screen.
    """
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", lambda found: f"\\x{ord(found[0]):02x}", text)
