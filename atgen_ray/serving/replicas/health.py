"""Health of a replica's engine, as Serve asks for it."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

# Interval and timeout of Serve's health checks; after three failures in a row Serve replaces the
# replica.
HEALTH_CHECKS: dict[str, Any] = {"health_check_period_s": 2.0, "health_check_timeout_s": 15.0}


class EngineStuckError(RuntimeError):
    """The engine of a replica has ended, or makes no steps any more."""


class Probe:
    """Probe of an engine, which is sent again whenever it was answered. It belongs to one event
    loop.
    """

    def __init__(self, ask: Callable[[], Awaitable[object]]) -> None:
        """Prepare the probe; the first `check` sends it.

        Args:
            ask: returns once the engine answers, and raises if it never will.
        """
        self._ask = ask
        self._asked: asyncio.Future[object] | None = None
        self._since = 0.0

    def check(self, stall_seconds: float) -> None:
        """Raise the error of `ask`, or EngineStuckError if the probe is unanswered for longer than
        `stall_seconds`.
        """
        if self._asked is not None and self._asked.done():
            answered = self._asked
            self._asked = None
            answered.result()
        if self._asked is None:
            self._since = time.monotonic()
            self._asked = asyncio.ensure_future(self._ask())
        elif time.monotonic() - self._since > stall_seconds:
            raise EngineStuckError(f"the engine has made no step for more than {stall_seconds:g} s")
