"""What a sweep looks like: a bar for the suite and a line for each run under way, plain lines, or
JSON lines.
"""

import json
import statistics
import sys
import time
from dataclasses import dataclass, field
from typing import Any, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from atgen_ray.bench.grid import Trial
from atgen_ray.reporting.formats import write_seconds
from atgen_ray.run.console import PLAIN_SECONDS, describe_activity


@dataclass
class SweepState:
    """How a sweep stands. `active` has the step under way by run; `seconds` those of each run that
    is done.
    """

    total: int
    done: int = 0
    parallel: int = 1
    active: dict[str, dict[str, Any]] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    @property
    def seconds_left(self) -> float | None:
        """Time to the end at the mean of the runs done so far; None before the first."""
        if not self.seconds:
            return None
        return (self.total - self.done) * statistics.mean(self.seconds) / self.parallel


class SweepScreen(Protocol):
    """Where the progress of a sweep is shown."""

    def show_end(self, cell: Trial, status: str, message: str, state: SweepState) -> None: ...

    def show_state(self, state: SweepState) -> None: ...

    def close(self) -> None: ...


class PlainSweep:
    """A line for each run that ended, with the time left, and now and then one for those under
    way.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._told = time.monotonic()

    def show_end(self, cell: Trial, status: str, message: str, state: SweepState) -> None:
        self._told = time.monotonic()
        self._console.print(describe_end(cell, status, message, state), highlight=False)

    def show_state(self, state: SweepState) -> None:
        if state.active and time.monotonic() - self._told >= PLAIN_SECONDS:
            self._told = time.monotonic()
            steps = "; ".join(
                f"{name}: {describe_activity(step)}" for name, step in state.active.items()
            )
            self._console.print(f"  {steps}", highlight=False)

    def close(self) -> None:
        """Nothing to take away."""


class LiveSweep(PlainSweep):
    """The same lines above a bar for the suite."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._bar = Progress(
            TextColumn("runs"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[left]}")
        )
        self._task = self._bar.add_task("", total=None, left="")
        self._live = Live(console=console, transient=True, refresh_per_second=2)
        self._live.start()

    def show_state(self, state: SweepState) -> None:
        left = "" if state.seconds_left is None else f"{write_seconds(state.seconds_left)} left"
        self._bar.update(self._task, completed=state.done, total=state.total, left=left)
        lines = [
            Text(f"  {name}  {describe_activity(step)}") for name, step in state.active.items()
        ]
        self._live.update(Group(self._bar, *lines))

    def close(self) -> None:
        self._live.stop()


class JsonSweep:
    """Every end, and every change, as one JSON object a line on standard output."""

    def __init__(self) -> None:
        self._last: dict[str, Any] = {}

    def show_end(self, cell: Trial, status: str, message: str, state: SweepState) -> None:
        self._write(
            {"type": "run", "name": cell.run.name, "status": status, "message": message}
            | _count(state)
        )

    def show_state(self, state: SweepState) -> None:
        found = {"type": "progress", "active": state.active} | _count(state)
        if found != self._last:
            self._last = found
            self._write(found)

    def close(self) -> None:
        """Nothing to take away."""

    def _write(self, value: Any) -> None:
        sys.stdout.write(json.dumps(value) + "\n")
        sys.stdout.flush()


def choose_sweep_screen(as_json: bool, console: Console) -> SweepScreen:
    """The screen that fits where the output goes."""
    if as_json:
        return JsonSweep()
    return LiveSweep(console) if console.is_terminal else PlainSweep(console)


def describe_end(cell: Trial, status: str, message: str, state: SweepState) -> str:
    """A run that ended, as one line."""
    why = f": {message.strip().splitlines()[-1]}" if status == "failed" and message.strip() else ""
    left = state.seconds_left
    rest = f", {write_seconds(left)} left" if left else ""
    return f"  {state.done}/{state.total} {cell.describe()} {status}{why}{rest}"


def _count(state: SweepState) -> dict[str, Any]:
    return {"done": state.done, "total": state.total, "seconds_left": state.seconds_left}
