"""For which runs an engine sleeps: they train on the device that it would use."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

logger = logging.getLogger(__name__)


class SleepCoordinator:
    """Lets an engine sleep while at least one run asks for it and is driven; lives in one event
    loop.
    """

    def __init__(
        self,
        sleep: Callable[[], Awaitable[None]],
        wake: Callable[[], Awaitable[None]],
        is_driven: Callable[[str], bool],
        look_seconds: float = 10.0,
    ) -> None:
        """`has_live_controller` says whether a run still has a controller; it is called in a thread
        every `look_seconds`.
        """
        self._sleep = sleep
        self._wake = wake
        self._has_live_controller = is_driven
        self._look_seconds = look_seconds
        self._runs: set[str] = set()
        self._turning = asyncio.Lock()
        self._watch: asyncio.Task[None] | None = None

    async def begin(self, run: str) -> None:
        """Returns once the engine sleeps; it does so until every run has ended its rest."""
        async with self._turning:
            if not self._runs:
                try:
                    await self._sleep()
                except (
                    BaseException
                ):  # a caller that goes away too: nobody would wake what is half asleep
                    await self._wake()
                    raise
            self._runs.add(run)
            if self._watch is None or self._watch.done():
                self._watch = asyncio.create_task(self._wake_for_the_dead())

    async def end(self, run: str) -> None:
        """The engine wakes where no other run needs its device; nothing happens when `run` had no
        rest.
        """
        async with self._turning:
            if run in self._runs:
                self._runs.remove(run)
                if not self._runs:
                    await self._wake()

    async def _wake_for_the_dead(self) -> None:
        """A run whose controller died in the middle of its training would leave callers waiting for
        ever.
        """
        while self._runs:
            await asyncio.sleep(self._look_seconds)
            for run in sorted(self._runs):
                try:
                    driven = await asyncio.to_thread(self._has_live_controller, run)
                except (
                    Exception
                ):  # the journal is away, however: waking would take memory that a training may use
                    logger.exception(
                        "whether run '%s' still trains cannot be told now: the engine sleeps on",
                        run,
                    )
                    continue
                if not driven:
                    logger.warning(
                        "run '%s' trains no more and did not say so: the engine wakes", run
                    )
                    await self.end(run)
