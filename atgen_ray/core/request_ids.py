"""Ids of HTTP requests, which lead from a page or program to log lines, events and providers.

A request keeps its id in a context variable, which threads of the pool inherit. A process that
works for one request alone, as the controller of a run, takes it as its origin.
"""

import re
from contextvars import ContextVar
from uuid import uuid4

HEADER = "X-Request-Id"
_PATTERN = re.compile(r"[A-Za-z0-9._-]{8,64}")

_current: ContextVar[str | None] = ContextVar("request_id", default=None)
_origin: list[str] = []


def take_id(given: str | None) -> str:
    """Return `given` where it is an id (8 to 64 letters, digits, dots, hyphens, underscores), else
    a new one; it is the current one from now on.
    """
    taken = given if given is not None and _PATTERN.fullmatch(given) else uuid4().hex
    _current.set(taken)
    return taken


def set_origin(request: str | None) -> None:
    """Say for which request this process works."""
    _origin[:] = [request] if request else []


def find_id() -> str | None:
    """Return the id of the request that is being answered, or for which this process works."""
    return _current.get() or (_origin[0] if _origin else None)


def trace(own: str) -> str:
    """Return the id `own` of something sent on, after that of the request that caused it."""
    cause = find_id()
    return f"{cause}.{own}" if cause else own
