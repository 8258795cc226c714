"""Who gets to an engine, and with which adapter in place."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atgen_ray.serving.replicas.admission import AdmissionQueue


def play(story: Callable[[], Awaitable[Any]]) -> Any:
    return asyncio.run(asyncio.wait_for(story(), 20))


@given(
    visits=st.lists(
        st.tuples(st.sampled_from([None, "a", "b", "c"]), st.booleans(), st.integers(0, 3)),
        max_size=30,
    ),
    slots=st.integers(1, 4),
    turn=st.sampled_from([0.0, 0.001, 5.0]),
)
def test_everybody_gets_in_and_only_with_the_adapter_asked_for(
    visits: list[tuple[str | None, bool, int]], slots: int, turn: float
) -> None:
    async def story() -> None:
        engine: dict[str, Any] = {"adapter": None, "inside": 0}

        async def change(key: str | None) -> None:
            assert engine["inside"] == 0  # nobody is answered while the weights change
            await asyncio.sleep(0)
            engine["adapter"] = key

        gate = AdmissionQueue(slots, turn, change)

        async def visit(key: str | None, interactive: bool, steps: int) -> None:
            async with gate.enter(key, interactive):
                engine["inside"] += 1
                assert engine["inside"] <= slots
                for _ in range(steps):
                    assert engine["adapter"] == key
                    await asyncio.sleep(0)
                assert engine["adapter"] == key
                engine["inside"] -= 1

        await asyncio.gather(*(visit(*each) for each in visits))
        assert gate.waiting == 0

    play(story)


def test_callers_come_before_the_run_and_always_find_a_slot() -> None:
    async def story() -> list[str]:
        gate, order, hold = AdmissionQueue(4), [], asyncio.Event()

        async def visit(name: str, interactive: bool) -> None:
            async with gate.enter(None, interactive):
                order.append(name)
                await hold.wait()

        run = [asyncio.create_task(visit(f"run{index}", False)) for index in range(6)]
        await asyncio.sleep(0)
        assert order == ["run0", "run1", "run2"]  # three quarters of the slots
        caller = asyncio.create_task(visit("caller", True))
        await asyncio.sleep(0)
        assert order[-1] == "caller"
        later = asyncio.create_task(visit("later", True))
        await asyncio.sleep(0)
        hold.set()
        await asyncio.gather(*run, caller, later)
        return order

    order = play(story)
    assert order[4] == "later"  # before run3, which had waited longer


def test_those_with_the_present_adapter_go_first_but_not_for_ever() -> None:
    async def story() -> list[str | None]:
        changes: list[str | None] = []

        async def change(key: str | None) -> None:
            changes.append(key)

        gate = AdmissionQueue(2, 0.05, change)

        async def stay(key: str | None, seconds: float) -> None:
            async with gate.enter(key, True):
                await asyncio.sleep(seconds)

        async def keep_coming() -> None:
            for _ in range(30):
                await stay(None, 0.01)

        steady = [asyncio.create_task(keep_coming()) for _ in range(2)]
        await asyncio.sleep(0.01)
        await stay("a", 0)
        assert not all(task.done() for task in steady)
        await asyncio.gather(*steady)
        return changes

    assert play(story)[0] == "a"


def test_a_change_that_fails_is_told_and_tried_again() -> None:
    async def story() -> int:
        tried = 0

        async def change(key: str | None) -> None:
            nonlocal tried
            tried += 1
            if tried == 1:
                raise ValueError("broken adapter")

        gate = AdmissionQueue(2, 0, change)
        with pytest.raises(ValueError, match="broken"):
            async with gate.enter("a", True):
                pass
        async with gate.enter(
            None, True
        ):  # the engine may hold anything now, so the base model is loaded again
            pass
        async with gate.enter(None, True):
            pass
        return tried

    assert play(story) == 2


def test_one_who_leaves_the_queue_frees_its_place() -> None:
    async def story() -> None:
        gate = AdmissionQueue(1)

        async def visit() -> None:
            async with gate.enter(None, True):
                await asyncio.sleep(0.05)

        first, second, third = (asyncio.create_task(visit()) for _ in range(3))
        await asyncio.sleep(0.01)
        second.cancel()
        await asyncio.gather(first, third)
        assert gate.waiting == 0

    play(story)


def test_a_closed_gate_waits_until_all_are_out_and_lets_nobody_in() -> None:
    async def story() -> list[str]:
        gate, order = AdmissionQueue(2), []

        async def visit(name: str) -> None:
            async with gate.enter(None, True):
                await asyncio.sleep(0.05)
                order.append(name)

        first = asyncio.create_task(visit("before"))
        await asyncio.sleep(0)
        await gate.close()
        order.append("closed")
        second = asyncio.create_task(visit("after"))
        await asyncio.sleep(0.05)
        order.append("open")
        gate.reopen()
        await asyncio.gather(first, second)
        return order

    assert play(story) == ["before", "closed", "open", "after"]
