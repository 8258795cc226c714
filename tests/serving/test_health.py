"""A question to an engine that is asked again and again: what is slow is waited for, what hangs or
fails is told.
"""

import asyncio

import pytest

from atgen_ray.serving.replicas.health import EngineStuckError, Probe


def test_an_engine_that_does_not_answer_is_noticed_and_may_recover() -> None:
    async def scene() -> None:
        go, asked = asyncio.Event(), 0

        async def ask() -> None:
            nonlocal asked
            asked += 1
            await go.wait()

        probe = Probe(ask)
        probe.check(60)
        await asyncio.sleep(0.05)
        probe.check(60)  # it is slow, and was asked once
        with pytest.raises(EngineStuckError, match="no step for more than"):
            probe.check(0.01)
        go.set()
        await asyncio.sleep(0.01)
        assert asked == 1
        probe.check(0.01)
        await asyncio.sleep(0.01)
        probe.check(0.01)
        assert asked == 2

    asyncio.run(scene())


def test_an_engine_that_is_dead_says_why() -> None:
    async def scene() -> None:
        async def ask() -> None:
            raise ConnectionError("the engine has ended")

        probe = Probe(ask)
        probe.check(60)
        await asyncio.sleep(0.01)
        with pytest.raises(ConnectionError, match="has ended"):
            probe.check(60)

    asyncio.run(scene())
