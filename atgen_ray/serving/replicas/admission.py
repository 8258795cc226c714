"""Admission queue in front of an engine. Interactive requests go before prompts of runs; if the
engine holds one adapter at a time, requests are grouped by adapter.

Invariants:
- The queue belongs to one event loop and uses no timers: every entry and exit advances it.
- At most `slots` requests are inside, and at most `RUN_SHARE` of them are prompts of runs.
- With `change`, all requests inside have the same key; the key changes while nobody is inside.

Example:
    async with queue.enter(adapter.key, interactive=True):
        ...  # the engine holds the adapter
"""

import asyncio
import itertools
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

# Share of the slots that prompts of runs may take, so that a caller finds a free one at once.
RUN_SHARE = 0.75


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
    """Queue that admits at most `slots` requests at once.

    With `change`, all requests inside share one key (an adapter; None is the base model). When the
    first request in the queue has another key and has waited `turn_seconds`, or no other request
    can use the present key, the queue waits until all have left, and awaits `change` with the new
    key. An error of `change` goes to every request that waits for that key.
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
        self._known = True  # whether the engine holds `_key`; False after a change that failed
        self._inside = 0
        self._changing: asyncio.Task[None] | None = None
        self._open = True

    @property
    def is_open(self) -> bool:
        """Return whether requests are admitted."""
        return self._open

    @property
    def waiting(self) -> int:
        """Return the number of requests that wait."""
        return len(self._waiting)

    @asynccontextmanager
    async def enter(self, key: str | None, interactive: bool) -> AsyncIterator[None]:
        """Wait for admission; inside the block the request may use the engine, which holds
        `key`.
        """
        entry = _Entry(key, interactive, next(self._numbers))
        self._waiting.append(entry)
        self._advance()
        try:
            # A cancelled caller must not cancel the queue's decision, which `_forget` looks at.
            await asyncio.shield(entry.admitted)
        except asyncio.CancelledError:
            self._forget(entry)
            raise
        try:
            yield
        finally:
            self._inside -= 1
            self._advance()

    async def close(self) -> None:
        """Admit nobody any more, and wait until all have left."""
        self._open = False
        while self._inside or self._changing:
            await asyncio.sleep(0.05)

    def reopen(self) -> None:
        """Admit requests again."""
        self._open = True
        self._advance()

    def _advance(self) -> None:
        while self._open and self._changing is None and (entry := self._next()) is not None:
            if self._change is not None and not self._holds(entry.key):
                self._changing = asyncio.get_running_loop().create_task(self._change_key(entry.key))
                return
            self._waiting.remove(entry)
            self._inside += 1
            entry.admitted.set_result(None)

    def _next(self) -> _Entry | None:
        """Return the entry to admit next; one with another key only when nobody is inside."""
        eligible = [
            entry
            for entry in self._waiting
            if self._inside < (self._slots if entry.interactive else self._run_slots)
        ]
        if not eligible:
            return None
        first = min(eligible, key=lambda entry: entry.order)
        if self._change is None or self._holds(first.key):
            return first
        # Changing the key costs time: requests with the present key go first, but only until the
        # first one in the queue has waited its turn.
        same = [entry for entry in eligible if self._holds(entry.key)]
        if same and time.monotonic() - first.since < self._turn_seconds:
            return min(same, key=lambda entry: entry.order)
        return None if self._inside else first

    def _holds(self, key: str | None) -> bool:
        return self._known and key == self._key

    async def _change_key(self, key: str | None) -> None:
        try:
            if self._change is not None:
                await self._change(key)
        except Exception as error:  # raised in every request that waits for the key
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
        """Remove an entry whose caller was cancelled while it waited."""
        if entry in self._waiting:
            self._waiting.remove(entry)
        elif (
            entry.admitted.done()
            and not entry.admitted.cancelled()
            and entry.admitted.exception() is None
        ):
            self._inside -= 1  # it was admitted just before its caller was cancelled
        self._advance()
