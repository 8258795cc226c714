"""The event loop: processes whose threads are greenlets, one clock, one source of chance.

- A process may be killed at any edge. Its threads are unwound at once, and every edge that they
  touch while they unwind raises `Killed` again: so nothing that a `finally` would write is written,
  as after SIGKILL.
- A paused process is not run until its time comes, as after SIGSTOP; nobody else notices.
- `edge` is called wherever the product touches the world. There another thread may come first, and
  there the faults are drawn.
"""

import heapq
import random
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from greenlet import greenlet

from atgen_ray.core.machine import Event, Lock, Machine, Pool

from .faults import Plan

BEGIN = 1_790_000_000.0  # seconds since 1970 at which each history begins
LATENCY = 0.004  # seconds that an edge takes at most
MOST_EVENTS = 200_000  # after which a history counts as endless


class Killed(BaseException):
    """The process of this thread is dead."""


class EndlessError(Exception):
    """A history did not come to its end."""


@dataclass(eq=False)
class Process:
    """A process of the operating system."""

    name: str
    mortal: bool = True
    alive: bool = True
    paused_until: float = 0.0
    was_paused: bool = False
    threads: "list[Thread]" = field(default_factory=list)
    host: str = "two"
    owner: str = ""  # the name under which it holds the lease of a run

    def __repr__(self) -> str:
        return self.name


class Thread:
    """A greenlet of a process."""

    def __init__(self, world: "World", process: Process, call: Callable[..., object], *args: Any):
        self.process = process
        self.turn = 0  # of its latest suspension: older entries of the queue are void
        self.greenlet = greenlet(lambda: self._run(call, args), parent=world.main)

    def _run(self, call: Callable[..., object], args: Iterable[Any]) -> None:
        with suppress(Killed):
            call(*args)


class World(Machine):
    """One history. It is the `Machine` of all its processes."""

    def __init__(self, seed: str, plan: Plan) -> None:
        self.chance = random.Random(f"{seed}/order")
        self.plan = plan
        self.now = 0.0
        self.jumped = 0.0  # seconds by which the clock was set
        self.main = greenlet.getcurrent()
        self.current: Thread | None = None
        self.events = 0
        self.trace: list[str] = []
        self.changed: Callable[[], None] = lambda: None  # called when a process died or was paused
        self._queue: list[tuple[float, float, int, Thread, int]] = []
        self._number = 0
        self._dying: list[Thread] = []
        self._still = 0
        self._waiting: dict[int, list[tuple[Thread, int]]] = {}

    # Time and threads, as the product asks for them.

    def time(self) -> float:
        return BEGIN + self.now + self.jumped

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.check_alive()
        if self.current is not None:
            self._suspend(max(0.0, seconds))

    def event(self) -> Event:
        return Flag(self)

    def lock(self) -> Lock:
        return Mutex(self)

    def start(self, call: Callable[..., object], *arguments: Any, name: str) -> None:
        thread = self._here()
        self.spawn(thread.process, call, *arguments)

    def call_later(self, seconds: float, call: Callable[[], object]) -> None:
        self.spawn(self._here().process, call, delay=seconds)

    def pool(self, threads: int, name: str) -> Pool:
        return Threads(self, self._here().process)

    def wait_for_any(self, calls: "Iterable[Future[Any]]", seconds: float) -> "list[Future[Any]]":
        calls = [*calls]
        deadline = self.now + seconds
        while not (done := [call for call in calls if call.done()]) and self.now < deadline:
            self.wait_on(calls, deadline - self.now)
        return done

    # The loop.

    def spawn(
        self,
        process: Process,
        call: Callable[..., object],
        *arguments: Any,
        delay: float = 0.0,
    ) -> None:
        """Start a thread of `process`."""
        thread = Thread(self, process, call, *arguments)
        process.threads.append(thread)
        self._schedule(thread, delay)

    def run(self, until: Callable[[], bool]) -> None:
        """Let events happen until `until` says that it is enough."""
        while not until():
            if not self._queue:
                raise EndlessError("nobody does anything any more")
            at, _, _, thread, turn = heapq.heappop(self._queue)
            process = thread.process
            if not process.alive or turn != thread.turn or thread.greenlet.dead:
                continue
            if process.paused_until > max(at, self.now):
                self._schedule(thread, process.paused_until - self.now, turn)
                continue
            self.now = max(self.now, at)
            self.events += 1
            if self.events > MOST_EVENTS:
                raise EndlessError(f"{MOST_EVENTS} events and no end")
            self._switch(thread)
            while self._dying:
                self._unwind(self._dying.pop(0))

    def end(self) -> None:
        """Unwind all threads that are left."""
        for _, _, _, thread, _ in self._queue:
            thread.process.alive = False
            self._unwind(thread)
        self._queue.clear()

    def edge(self, name: str, *can: str, detail: str = "") -> str | None:
        """Let others come first, and draw a fault: death or a pause of this process, a step of the
        clock, or one of those that `can` happen here, which is returned for the caller to do.
        """
        fault = self.strike(name, *can, detail=detail)
        if self.current is not None and not self._still:
            self._suspend(self.chance.uniform(0.0, LATENCY))
        return fault

    def strike(self, name: str, *can: str, detail: str = "") -> str | None:
        """Draw a fault as `edge` does, with nobody between; a pause comes at the next edge."""
        self.check_alive()
        if self.current is None or self._still:
            return None
        process = self.current.process
        fault = self.plan.draw(name, detail, can, process.mortal)
        self.note(f"{name}{f' {detail}' if detail else ''}{f'  !! {fault}' if fault else ''}")
        if fault == "kill":
            self.kill(process)
            raise Killed
        if fault == "pause":
            process.was_paused = True
            process.paused_until = self.now + self.plan.chance.uniform(15.0, 90.0)
            self.changed()
        if fault == "clock":
            self.jumped += self.plan.chance.choice([-40.0, -5.0, 30.0, 4000.0])
        return fault if fault in can else None

    def kill(self, process: Process) -> None:
        """End a process at once."""
        if not process.alive:
            return
        process.alive = False
        self._dying += [each for each in process.threads if each is not self.current]
        self.changed()

    def check_alive(self) -> None:
        """Raise `Killed` in a thread of a dead process."""
        if self.current is not None and not self.current.process.alive:
            raise Killed

    def note(self, text: str) -> None:
        """Add a line to the trace."""
        who = self.current.process if self.current else "world"
        self.trace.append(f"{self.now:12.6f} {who}: {text}")

    @contextmanager
    def still(self) -> Iterator[None]:
        """Let nobody come between inside the block, and let nothing fail."""
        self._still += 1
        try:
            yield
        finally:
            self._still -= 1

    def wait_on(self, things: Iterable[Any], seconds: float | None) -> None:
        """Suspend this thread until `notify` is called with one of `things`, or for `seconds`."""
        self.check_alive()
        thread = self._here()
        for thing in things:
            self._waiting.setdefault(id(thing), []).append((thread, thread.turn + 1))
        self._suspend(seconds)

    def notify(self, thing: object) -> None:
        """Wake those who wait on `thing`."""
        for thread, turn in self._waiting.pop(id(thing), ()):
            if thread.turn == turn:
                self._schedule(thread, 0.0, turn)

    def _here(self) -> Thread:
        assert self.current is not None, "only a simulated process waits"
        return self.current

    def _suspend(self, seconds: float | None) -> None:
        thread = self._here()
        thread.turn += 1
        if seconds is not None:
            self._schedule(thread, seconds, thread.turn)
        self.main.switch()
        self.check_alive()

    def _schedule(self, thread: Thread, seconds: float, turn: int | None = None) -> None:
        self._number += 1
        turn = thread.turn if turn is None else turn
        entry = (self.now + seconds, self.chance.random(), self._number, thread, turn)
        heapq.heappush(self._queue, entry)

    def _switch(self, thread: Thread) -> None:
        self.current = thread
        try:
            thread.greenlet.switch()
        finally:
            self.current = None

    def _unwind(self, thread: Thread) -> None:
        if not thread.greenlet.dead:
            self.current = thread
            try:
                with suppress(Killed):
                    thread.greenlet.throw(Killed)
            finally:
                self.current = None


class Flag:
    """An event of the simulated machine."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._set = False

    def set(self) -> None:
        self._set = True
        self._world.notify(self)

    def is_set(self) -> bool:
        return self._set

    def wait(self, timeout: float | None = None) -> bool:
        world = self._world
        world.check_alive()
        deadline = None if timeout is None else world.now + timeout
        while not self._set and (deadline is None or world.now < deadline):
            world.wait_on([self], None if deadline is None else deadline - world.now)
        return self._set


class Mutex:
    """A lock of the simulated machine."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._held = False

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        while self._held:
            self._world.wait_on([self], None)
        self._held = True
        return True

    def release(self) -> None:
        self._held = False
        self._world.notify(self)

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *error: object) -> None:
        self.release()


class Threads:
    """A pool of threads of the simulated machine."""

    def __init__(self, world: World, process: Process) -> None:
        self._world = world
        self._process = process

    def submit(self, call: Callable[..., Any], /, *arguments: Any) -> "Future[Any]":
        future = Future[Any]()

        def work() -> None:
            try:
                result = call(*arguments)
            except Exception as error:
                future.set_exception(error)
            else:
                future.set_result(result)
            self._world.notify(future)

        self._world.spawn(self._process, work)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None: ...
