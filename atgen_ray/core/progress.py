"""Progress of a run, shared between its loop and the threads that show it or stop it."""

import threading
from dataclasses import asdict, dataclass, field
from typing import Any

from atgen_ray.core.errors import RunStopped
from atgen_ray.core.machine import machine


@dataclass
class Activity:
    """The step under way. `done` and `total` count rows or optimiser steps; `started` is in seconds
    since 1970.
    """

    round: int = 0
    step: str = "starting"
    done: int = 0
    total: int = 0
    started: float = field(default_factory=lambda: machine().time())
    # What Ray cannot place, and what is free, while the step stands; or what a provider waits for.
    waiting: str | None = None


class ProgressTracker:
    """Holds the step under way and the request to stop; safe to use from several threads.

    It is itself a `Progress` function: the loop calls it, and it raises RunStopped once somebody
    has called `stop`.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._activity = Activity()
        self._stop = threading.Event()
        self._advanced = False  # since the last call of `wait`
        self._outside: str | None = None  # what somebody outside the cluster lets the step wait for

    def start_step(self, round: int, step: str) -> None:
        """Start a step.

        Raises:
            RunStopped: the run was asked to stop.
        """
        self._check()
        with self._lock:
            self._activity = Activity(round, step)
            self._outside = None

    def __call__(self, done: int, total: int) -> None:
        self.update(done, total)
        self._check()

    def update(self, done: int, total: int) -> None:
        """Set the progress that another process reports, which cannot be interrupted from here."""
        with self._lock:
            self._activity.done = done
            self._activity.total = total
            self._activity.waiting = None
            self._advanced = True

    def wait(self, waiting: str | None) -> None:
        """Set what the cluster cannot place now; it is not shown if the step advanced since the
        last call.
        """
        with self._lock:
            self._activity.waiting = None if self._advanced else waiting
            self._advanced = False

    def wait_outside(self, waiting: str | None) -> None:
        """Set what somebody outside the cluster, such as a provider, lets the step wait for; it is
        shown until it is taken back, or the step ends.
        """
        with self._lock:
            self._outside = waiting

    def stop(self) -> None:
        """Ask the run to stop; it does so at the next call from its loop."""
        self._stop.set()

    @property
    def is_stopping(self) -> bool:
        """Return whether the work was told to stop."""
        return self._stop.is_set()

    def snapshot(self) -> dict[str, Any]:
        """Return the activity as plain data."""
        with self._lock:
            return asdict(self._activity) | {"waiting": self._activity.waiting or self._outside}

    def _check(self) -> None:
        if self._stop.is_set():
            raise RunStopped("stopped on request")
