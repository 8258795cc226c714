"""Progress of a sweep on standard output: a bar for the suite with a line for each run under way,
plain lines, or JSON lines.
"""

import statistics
import time
from dataclasses import dataclass, field
from typing import Any, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from atgen_ray.bench.grid import Trial
from atgen_ray.reporting.formats import format_seconds
from atgen_ray.runs.console import JsonLines, Pacer, describe_activity


@dataclass
class SweepState:
    """State of a sweep. `active` maps the name of a run to its step under way; `seconds` holds the
    duration of each run that is done.
    """

    total: int
    done: int = 0
    parallel: int = 1
    active: dict[str, dict[str, Any]] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    @property
    def seconds_left(self) -> float | None:
        """Return the time to the end at the mean duration of the runs done; None before the first
        ends.
        """
        if not self.seconds:
            return None
        return (self.total - self.done) * statistics.mean(self.seconds) / self.parallel


class SweepScreen(Protocol):
    """Screen that shows the progress of a sweep."""

    def show_end(self, trial: Trial, status: str, message: str, state: SweepState) -> None: ...

    def show_state(self, state: SweepState) -> None: ...

    def close(self) -> None: ...


class PlainSweep:
    """A line for each run that ended, with the time left, and every `PLAIN_SECONDS` one for the
    runs under way.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._pacer = Pacer()

    def show_end(self, trial: Trial, status: str, message: str, state: SweepState) -> None:
        self._pacer.reset()
        self._console.print(describe_end(trial, status, message, state), highlight=False)

    def show_state(self, state: SweepState) -> None:
        if state.active and self._pacer.is_due():
            self._pacer.reset()
            steps = "; ".join(
                f"{name}: {describe_activity(step)}" for name, step in state.active.items()
            )
            self._console.print(f"  {steps}", highlight=False)

    def close(self) -> None:
        """Do nothing: lines stay."""


class LiveSweep(PlainSweep):
    """Lines of `PlainSweep` above a bar for the suite and the runs under way."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._bar = Progress(
            TextColumn("runs"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[left]}")
        )
        self._task = self._bar.add_task("", total=None, left="")
        self._live = Live(console=console, transient=True, refresh_per_second=2)
        self._live.start()

    def show_state(self, state: SweepState) -> None:
        left = "" if state.seconds_left is None else f"{format_seconds(state.seconds_left)} left"
        self._bar.update(self._task, completed=state.done, total=state.total, left=left)
        lines = [
            Text(f"  {name}  {describe_activity(step)}") for name, step in state.active.items()
        ]
        self._live.update(Group(self._bar, *lines))

    def close(self) -> None:
        self._live.stop()


class JsonSweep(JsonLines):
    """Every end of a run, and every change, as a JSON line."""

    def show_end(self, trial: Trial, status: str, message: str, state: SweepState) -> None:
        end = {"type": "run", "name": trial.run.name, "status": status, "message": message}
        self.write(end | _count(state))

    def show_state(self, state: SweepState) -> None:
        found = {"type": "progress", "active": state.active} | _count(state)
        if self.is_new(found):
            self.write(found)


def choose_sweep_screen(as_json: bool, console: Console) -> SweepScreen:
    """Return the screen for where the output goes: a program, a terminal or a file."""
    if as_json:
        return JsonSweep()
    return LiveSweep(console) if console.is_terminal else PlainSweep(console)


def describe_end(trial: Trial, status: str, message: str, state: SweepState) -> str:
    """Return one line on a run that ended, with the last line of its message if it failed."""
    why = f": {message.strip().splitlines()[-1]}" if status == "failed" and message.strip() else ""
    left = state.seconds_left
    rest = f", {format_seconds(left)} left" if left else ""
    return f"  {state.done}/{state.total} {trial.describe()} {status}{why}{rest}"


def _count(state: SweepState) -> dict[str, Any]:
    return {"done": state.done, "total": state.total, "seconds_left": state.seconds_left}
