"""Who may use an engine now: callers before the run's own prompts, and one adapter at a time where
it must be so.

The gate lives in one event loop; nothing in it waits for a clock.
"""

import asyncio
import itertools
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

RUN_SHARE = (
    0.75  # of the slots, at most, for the run's own prompts: a caller finds a free one at once
)


@dataclass(eq=False)
class _Entry:
    key: str | None
    interactive: bool
    number: int
    since: float = field(default_factory=time.monotonic)
    admitted: "asyncio.Future[None]" = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    @property
    def order(self) -> tuple[bool, int]:
        return not self.interactive, self.number


class AdmissionQueue:
    """Admits at most `slots` at once.

    With `change`, all who are inside share one key (an adapter, None the base model): when the
    first in the queue has another one and has waited `turn_seconds`, or nobody else can use the
    present key, all leave and `change` is awaited with the new key. What it raises goes to
    everybody who waits for that key.
    """

    def __init__(
        self,
        slots: int,
        turn_seconds: float = 0.0,
        change: Callable[[str | None], Awaitable[Any]] | None = None,
    ) -> None:
        self._slots = slots
        self._run_slots = max(1, math.floor(slots * RUN_SHARE))
        self._turn_seconds = turn_seconds
        self._change = change
        self._waiting: list[_Entry] = []
        self._numbers = itertools.count()
        self._key: str | None = None
        self._known = (
            True  # whether `_key` is what the engine holds; not after a change that failed
        )
        self._inside = 0
        self._changing: asyncio.Task[None] | None = None
        self._open = True

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    @asynccontextmanager
    async def enter(self, key: str | None, interactive: bool) -> AsyncIterator[None]:
        """Inside the block the engine is the caller's to use, with `key` in place."""
        entry = _Entry(key, interactive, next(self._numbers))
        self._waiting.append(entry)
        self._advance()
        try:
            await asyncio.shield(
                entry.admitted
            )  # cancelling us must not cancel what the gate decided
        except asyncio.CancelledError:
            self._forget(entry)
            raise
        try:
            yield
        finally:
            self._inside -= 1
            self._advance()

    async def close(self) -> None:
        """Lets nobody in any more, and waits until all are out."""
        self._open = False
        while self._inside or self._changing:
            await asyncio.sleep(0.05)

    def reopen(self) -> None:
        """Lets them in again."""
        self._open = True
        self._advance()

    def _advance(self) -> None:
        while self._open and self._changing is None and (entry := self._next()) is not None:
            if self._change is not None and not self._holds(entry.key):
                self._changing = asyncio.get_running_loop().create_task(self._turn(entry.key))
                return
            self._waiting.remove(entry)
            self._inside += 1
            entry.admitted.set_result(None)

    def _next(self) -> _Entry | None:
        """Who comes in now; one with another key only when nobody is inside."""
        free = [
            e
            for e in self._waiting
            if self._inside < (self._slots if e.interactive else self._run_slots)
        ]
        if not free:
            return None
        first = min(free, key=lambda entry: entry.order)
        if self._change is None or self._holds(first.key):
            return first
        same = [entry for entry in free if self._holds(entry.key)]
        if same and time.monotonic() - first.since < self._turn_seconds:
            return min(same, key=lambda entry: entry.order)
        return None if self._inside else first

    def _holds(self, key: str | None) -> bool:
        return self._known and key == self._key

    async def _turn(self, key: str | None) -> None:
        try:
            if self._change is not None:
                await self._change(key)
        except Exception as error:
            self._known = False
            for entry in [entry for entry in self._waiting if entry.key == key]:
                self._waiting.remove(entry)
                entry.admitted.set_exception(error)
        else:
            self._key = key
            self._known = True
        self._changing = None
        self._advance()

    def _forget(self, entry: _Entry) -> None:
        """Somebody who waited has gone."""
        if entry in self._waiting:
            self._waiting.remove(entry)
        elif (
            entry.admitted.done()
            and not entry.admitted.cancelled()
            and entry.admitted.exception() is None
        ):
            self._inside -= 1  # let in at the moment in which it went
        self._advance()
