"""Time, threads and locks, as the code that drives a run has them of its machine.

Controller, dispatcher, database and the waiting for people take all of these from here and none
from `time` or `threading`. So a simulation runs the same code on one seeded event loop, where time
costs nothing and every order of events can be repeated (`tests/simulation`). For example

    machine().sleep(0.5)
    ended = machine().event()
    machine().start(renew, lease, name="lease")
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Event(Protocol):
    """A flag that threads wait for, as `threading.Event`."""

    def set(self) -> None: ...

    def is_set(self) -> bool: ...

    def wait(self, timeout: float | None = None) -> bool: ...


class Lock(Protocol):
    """A lock, as `threading.Lock`."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool: ...

    def release(self) -> None: ...

    def __enter__(self) -> bool: ...

    def __exit__(self, *error: Any) -> None: ...


class Pool(Protocol):
    """Threads that work calls off, as `ThreadPoolExecutor`."""

    def submit(self, call: Callable[..., T], /, *arguments: Any) -> "Future[T]": ...

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None: ...


class Machine:
    """The machine that this process runs on."""

    def time(self) -> float:
        """Return the seconds since 1970 by this machine's clock, which may be set."""
        return time.time()

    def monotonic(self) -> float:
        """Return seconds that only ever grow."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Let other threads work for a while."""
        time.sleep(seconds)

    def event(self) -> Event:
        """Return a flag that is not set."""
        return threading.Event()

    def lock(self) -> Lock:
        """Return a lock that is free."""
        return threading.Lock()

    def start(self, call: Callable[..., object], *arguments: Any, name: str) -> None:
        """Start a thread that ends with the process."""
        threading.Thread(target=call, args=arguments, name=name, daemon=True).start()

    def call_later(self, seconds: float, call: Callable[[], object]) -> None:
        """Make a call in a thread of its own, unless the process ends before."""
        timer = threading.Timer(seconds, call)
        timer.daemon = True
        timer.start()

    def pool(self, threads: int, name: str) -> Pool:
        """Return at most so many `threads`, which are started as they are needed."""
        return ThreadPoolExecutor(threads, thread_name_prefix=name)

    def wait_for_any(self, calls: Iterable["Future[T]"], seconds: float) -> list["Future[T]"]:
        """Return those of the `calls` of a pool that are done, in their order, as soon as one is,
        or after `seconds`.
        """
        calls = [*calls]
        done = wait(calls, timeout=seconds, return_when=FIRST_COMPLETED).done
        return [call for call in calls if call in done]


_machine = Machine()


def machine() -> Machine:
    """Return the machine that this process runs on."""
    return _machine


@contextmanager
def running_on(simulated: Machine) -> Iterator[None]:
    """Have another machine in this process's place inside the block; for simulations."""
    global _machine
    before = _machine
    _machine = simulated
    try:
        yield
    finally:
        _machine = before
