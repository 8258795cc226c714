"""Time and threads of a run's code, and another machine in their place."""

import threading
from concurrent.futures import Future

from atgen_ray.core.machine import Machine, machine, running_on


def test_calls_that_are_done_come_in_their_order() -> None:
    pool = machine().pool(3, "test")
    gate = threading.Event()
    calls: list[Future[object]] = [
        pool.submit(lambda: 1),
        pool.submit(gate.wait),
        pool.submit(lambda: 3),
    ]
    for call in (calls[0], calls[2]):
        call.result()
    assert machine().wait_for_any(calls, 5.0) == [calls[0], calls[2]]
    assert machine().wait_for_any([calls[1]], 0.01) == []
    gate.set()
    pool.shutdown()


def test_another_machine_is_there_inside_the_block_alone() -> None:
    before = machine()
    other = Machine()
    with running_on(other):
        assert machine() is other
    assert machine() is before


def test_a_call_comes_later() -> None:
    called = machine().event()
    machine().call_later(0.01, called.set)
    assert called.wait(5.0)
