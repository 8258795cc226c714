"""Work in threads for callers who may go away in the middle of it."""

import asyncio
import threading

import pytest

from atgen_ray.serving.replicas.selector import Checkpoint, SelectionAbandonedError, run_cancellable

LIMIT = 20.0


def test_work_ends_at_its_next_part_when_its_caller_has_gone_and_keeps_its_place_until_then() -> (
    None
):
    begun, go, ended = threading.Event(), threading.Event(), []

    def work(check: Checkpoint) -> str:
        begun.set()
        assert go.wait(LIMIT)
        try:
            check()
        except SelectionAbandonedError:
            ended.append("abandoned")
            raise
        return "done"

    async def scene() -> None:
        caller = asyncio.create_task(run_cancellable(work))
        assert await asyncio.to_thread(begun.wait, LIMIT)
        caller.cancel()
        await asyncio.sleep(0.05)
        assert not caller.done()
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await caller
        assert ended == ["abandoned"]
        assert await run_cancellable(work) == "done"

    asyncio.run(scene())
