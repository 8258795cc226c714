"""What a run is doing right now, shared between its loop and whoever watches it."""

import threading
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from atgen_ray.core.errors import RunStopped


@dataclass
class Activity:
    """The step under way: rows (or optimiser steps) done of how many, and since when."""

    round: int = 0
    step: str = "starting"
    done: int = 0
    total: int = 0
    started: float = field(default_factory=time.time)
    waiting: str | None = None  # what Ray cannot place, and what is free, while nothing gets done


class ProgressTracker:
    """Counts progress and carries the wish to stop; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._activity = Activity()
        self._stop = threading.Event()
        self._moved = False  # since somebody last told what is waited for

    def begin(self, round: int, step: str) -> None:
        """A step starts.

        Raises:
            RunStopped: somebody asked for the run to stop.
        """
        self._check()
        with self._lock:
            self._activity = Activity(round, step)

    def __call__(self, done: int, total: int) -> None:
        self.note(done, total)
        self._check()

    def note(self, done: int, total: int) -> None:
        """Progress told by another process, which cannot be interrupted from here."""
        with self._lock:
            self._activity.done = done
            self._activity.total = total
            self._activity.waiting = None
            self._moved = True

    def wait(self, waiting: str | None) -> None:
        """What the cluster cannot place now; left out of the activity while the step gets on all
        the same.
        """
        with self._lock:
            self._activity.waiting = None if self._moved else waiting
            self._moved = False

    def stop(self) -> None:
        """Asks the run to stop at its next chance."""
        self._stop.set()

    def snapshot(self) -> dict[str, Any]:
        """The activity as plain data."""
        with self._lock:
            return asdict(self._activity)

    def _check(self) -> None:
        if self._stop.is_set():
            raise RunStopped("stopped on request")
