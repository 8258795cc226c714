"""Sleep of an engine: it frees its GPU while a run trains there, and wakes when the last such run
has finished or lost its controller.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

logger = logging.getLogger(__name__)


class SleepCoordinator:
    """Puts an engine to sleep while at least one run asks for it and has a controller. It belongs
    to one event loop.
    """

    def __init__(
        self,
        sleep: Callable[[], Awaitable[None]],
        wake: Callable[[], Awaitable[None]],
        has_live_controller: Callable[[str], bool],
        poll_seconds: float = 10.0,
    ) -> None:
        """Prepare an engine that is awake.

        Args:
            sleep, wake: put the engine to sleep and wake it.
            has_live_controller: returns whether a run has a controller; called in a thread every
                `poll_seconds`.
        """
        self._sleep = sleep
        self._wake = wake
        self._has_live_controller = has_live_controller
        self._poll_seconds = poll_seconds
        self._runs: set[str] = set()
        self._turning = asyncio.Lock()
        self._watch: asyncio.Task[None] | None = None

    async def begin(self, run: str) -> None:
        """Return once the engine sleeps. It sleeps until `end` was called for every run."""
        async with self._turning:
            if not self._runs:
                try:
                    await self._sleep()
                # A cancellation too: nobody else would wake an engine that is half asleep.
                except BaseException:
                    await self._wake()
                    raise
            self._runs.add(run)
            if self._watch is None or self._watch.done():
                self._watch = asyncio.create_task(self._wake_after_deaths())

    async def end(self, run: str) -> None:
        """Wake the engine unless another run needs its device; nothing happens if it did not sleep
        for `run`.
        """
        async with self._turning:
            if run in self._runs:
                self._runs.remove(run)
                if not self._runs:
                    await self._wake()

    async def _wake_after_deaths(self) -> None:
        """End the sleep for runs whose controller died while they trained: callers would wait for
        ever.
        """
        while self._runs:
            await asyncio.sleep(self._poll_seconds)
            for run in sorted(self._runs):
                try:
                    alive = await asyncio.to_thread(self._has_live_controller, run)
                # Whatever keeps the journal from answering: waking now would take memory that a
                # training may use.
                except Exception:
                    logger.exception(
                        "whether run '%s' still trains cannot be told now: the engine sleeps on",
                        run,
                    )
                    continue
                if not alive:
                    logger.warning(
                        "run '%s' trains no more and did not say so: the engine wakes", run
                    )
                    await self.end(run)
