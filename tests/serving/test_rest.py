"""An engine sleeps while runs train on its device, and wakes after the last of them, however it
ended.
"""

import asyncio

import pytest

from atgen_ray.serving.replicas.admission import AdmissionQueue
from atgen_ray.serving.replicas.sleep import SleepCoordinator


class Engine:
    """A gate, and what it was told."""

    def __init__(self, driven: set[str]) -> None:
        self.calls: list[str] = []
        self.gate = AdmissionQueue(4)
        self.rest = SleepCoordinator(
            self._sleep, self._wake, driven.__contains__, poll_seconds=0.01
        )

    async def _sleep(self) -> None:
        await self.gate.close()
        self.calls.append("sleep")

    async def _wake(self) -> None:
        self.calls.append("wake")
        self.gate.reopen()


async def enter(engine: Engine) -> str:
    async with engine.gate.enter(None, interactive=True):
        return "in"


def test_it_sleeps_once_for_two_runs_and_wakes_after_both() -> None:
    async def scene() -> None:
        engine = Engine({"a", "b"})
        await engine.rest.begin("a")
        await engine.rest.begin("a")  # a controller that was restarted
        await engine.rest.begin("b")
        await engine.rest.end("nobody")
        caller = asyncio.create_task(enter(engine))
        await engine.rest.end("a")
        await asyncio.sleep(0.05)
        assert (engine.calls, caller.done()) == (["sleep"], False)
        await engine.rest.end("b")
        assert await asyncio.wait_for(caller, 5) == "in"
        assert engine.calls == ["sleep", "wake"]
        await engine.rest.begin("a")
        assert engine.calls == ["sleep", "wake", "sleep"]

    asyncio.run(scene())


def test_it_wakes_when_the_run_has_no_controller_any_more() -> None:
    async def scene() -> None:
        driven = {"a"}
        engine = Engine(driven)
        await engine.rest.begin("a")
        caller = asyncio.create_task(enter(engine))
        await asyncio.sleep(0.05)
        assert not caller.done()
        driven.clear()
        assert await asyncio.wait_for(caller, 5) == "in"

    asyncio.run(scene())


def test_an_engine_that_fails_to_sleep_says_so_and_is_not_taken_to_sleep() -> None:
    async def scene() -> None:
        engine = Engine({"a"})

        async def fail() -> None:
            raise RuntimeError("no memory")

        engine.rest._sleep = fail
        with pytest.raises(RuntimeError, match="no memory"):
            await engine.rest.begin("a")
        await engine.rest.end("a")
        assert engine.calls == ["wake"]  # it may be half asleep
        assert await enter(engine) == "in"

    asyncio.run(scene())


def test_a_caller_that_goes_away_while_the_engine_falls_asleep_leaves_it_awake() -> None:
    """The controller of a run may die while the engine waits for its callers to leave."""

    async def scene() -> None:
        engine, leave = Engine({"a"}), asyncio.Event()

        async def stay() -> None:
            async with engine.gate.enter(None, interactive=True):
                await leave.wait()

        inside = asyncio.create_task(stay())
        await asyncio.sleep(0)
        falling = asyncio.create_task(engine.rest.begin("a"))
        await asyncio.sleep(0.05)
        falling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await falling
        leave.set()
        await inside
        assert await asyncio.wait_for(enter(engine), 5) == "in"

    asyncio.run(scene())
