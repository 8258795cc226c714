"""What a replica tells Serve about its engine: whether it still answers."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

# How often Serve asks, and how long it waits: after three failures in a row it replaces the
# replica.
HEALTH_CHECKS: dict[str, Any] = {"health_check_period_s": 2.0, "health_check_timeout_s": 15.0}


class EngineStuckError(RuntimeError):
    """The engine of a replica answers nobody any more: it has ended, or makes no step."""


class Probe:
    """One question to an engine, asked again whenever it was answered; lives in one event loop."""

    def __init__(self, ask: Callable[[], Awaitable[object]]) -> None:
        """`ask` returns once the engine answers, and raises when it never will."""
        self._ask = ask
        self._asked: asyncio.Future[object] | None = None
        self._since = 0.0

    def check(self, stall_seconds: float) -> None:
        """Raises EngineStuckError when the question has stood for longer than `stall_seconds`, or
        what `ask` raised.
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
