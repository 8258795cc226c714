"""Where a run may be killed and what dies: drives a run through kill points and resumes it by the
same command.
"""

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

import psutil

from atgen_ray.ray_runtime.workers import run_batch
from atgen_ray.training.local_worker import train_in_task
from helpers.forks import list_descendants
from helpers.process_names import read_command
from helpers.projects import Project

Kind = Literal["event", "progress"]

# What is killed, as it shows in the list of processes; "driver" and "everything" are the command
# itself.
VICTIMS = {
    "controller": ("ray::ControllerActor",),
    "engine worker": ("ray::MapWorker", f"ray::MapBatches({run_batch.__name__})"),
    "train worker": ("TrainWorker", f"ray::{train_in_task.__name__}"),
    "node": ("raylet/raylet",),
    "head": ("gcs/gcs_server",),
}
PATIENCE = 120.0  # seconds that a worker may be in coming, on a machine that other tests keep busy
STARTS = 4  # how often a command that fails is given before it counts as failed
ENDS_THE_DRIVER = {"driver", "everything", "node", "head"}
# The steps of a run of two rounds, in the order of its journal.
STEPS = [(0, "pool"), (0, "embedding"), (0, "evaluation")]
STEPS += [
    (at, step)
    for at in (1, 2)
    for step in ("generation", "selection", "annotation", "training", "evaluation")
]


@dataclass(frozen=True)
class Point:
    """`victim` is killed `delay` seconds after the journal's event of a step, or after a sign of
    progress in it.

    What is not of the command's own processes is killed, and started again, by `strike`.
    """

    kind: Kind
    round: int
    step: str
    victim: str
    delay: float = 0.0
    strike: Callable[[], None] | None = None

    def __str__(self) -> str:
        when = "after" if self.kind == "event" else "in"
        return f"{self.victim} {when} {self.step} of round {self.round}" + (
            f" + {self.delay:.1f} s" * bool(self.delay)
        )


@dataclass
class Trial:
    """What became of one run: the points it reached (those of a victim that was there), and its
    last words.
    """

    killed: list[Point] = field(default_factory=list)
    missed: list[Point] = field(default_factory=list)
    starts: int = 0
    status: int | None = None
    err: str = ""


def list_points() -> list[Point]:
    """Every event of the journal with the command killed, and every step with each process that
    works in it.
    """
    points = [
        Point("event", at, step, victim)
        for at, step in STEPS
        for victim in ("everything", "controller")
    ]
    busy = {
        "generation": "engine worker",
        "evaluation": "engine worker",
        "training": "train worker",
    }
    points += [Point("progress", at, step, busy[step]) for at, step in STEPS if step in busy]
    points += [Point("progress", at, step, "driver") for at, step in STEPS if step in busy]
    return points + [
        Point("event", at, step, victim) for at, step in STEPS[2::3] for victim in ("node",)
    ]


def draw_points(chance: random.Random, count: int) -> list[Point]:
    """`count` points at random times and of random victims, in the order of a run."""
    victims = [
        "driver",
        "everything",
        "controller",
        "controller",
        "engine worker",
        "train worker",
        "node",
    ]
    picked = sorted(chance.sample(range(len(STEPS)), min(count, len(STEPS))))
    return [
        Point("event", *STEPS[at], chance.choice(victims), round(chance.uniform(0, 4), 2))
        for at in picked
    ]


def spread(points: Sequence[Point], runs: int) -> Iterator[list[Point]]:
    """The points shared out over runs, each in the order in which a run comes by them."""
    order = {step: at for at, step in enumerate(STEPS)}

    def place(point: Point) -> tuple[int, bool]:
        at = order[point.round, point.step]
        return (at, False) if point.kind == "progress" else (at, True)

    ordered = sorted(points, key=place)
    for run in range(runs):
        yield ordered[run::runs]


def try_points(
    project: Project,
    points: Sequence[Point],
    *arguments: str,
    limit: float = 300.0,
    **environment: str,
) -> Trial:
    """Runs `arguments`, kills at each of `points` in turn, and gives the same command again until
    it has ended.
    """
    trial = Trial()
    command = _Command(project, arguments, environment, trial, limit)
    for point in points:
        reached = command.wait_for(point)
        time.sleep(point.delay if reached else 0)
        (trial.killed if reached and command.kill(point) else trial.missed).append(point)
    command.finish()
    return trial


def wait_for(process: "subprocess.Popen[str]", kind: Kind, round: int, step: str) -> bool | None:
    """Whether the event of a step, or a sign of progress in it, is told by a command that prints
    JSON.

    False once the step is over, None once the command has said its last.
    """
    for line in process.stdout or ():
        value: dict[str, Any] = json.loads(line)
        if (value.get("round"), value.get("step")) == (round, step) and value["type"] in (
            "event",
            kind,
        ):
            return bool(value["type"] == kind)
    return None


class _Command:
    """A command line that is started again when it was killed."""

    def __init__(
        self,
        project: Project,
        arguments: Sequence[str],
        environment: dict[str, str],
        trial: Trial,
        limit: float,
    ) -> None:
        self._project, self._arguments, self._environment = project, arguments, environment
        self._trial, self._limit = trial, limit
        self._process: subprocess.Popen[str] | None = None

    def wait_for(self, point: Point) -> bool:
        """Whether the line that `point` waits for came, at once or after the command failed and was
        given again.
        """
        for _ in range(STARTS):
            reached = wait_for(self._running(), point.kind, point.round, point.step)
            if reached is not None or self._end() == 0:
                return bool(reached)
        return False

    def kill(self, point: Point) -> bool:
        """Whether there was anything of the kind to kill."""
        process = self._running()
        if process.poll() is not None:
            return False
        if point.strike is not None:
            point.strike()
            return True
        killed = self._find(process, point.victim)
        for pid in killed:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if killed and point.victim in ENDS_THE_DRIVER:
            self._end()
        return bool(killed)

    def finish(self) -> None:
        """To the end of the run. A command that lost its cluster says so and fails; it is given
        again.
        """
        for _ in range(STARTS):
            self._running()
            if self._end() == 0:
                return

    def _find(self, process: "subprocess.Popen[str]", victim: str) -> list[int]:
        """Whom to kill. A worker may be a while in coming."""
        if victim not in VICTIMS:
            family = list_descendants(process.pid) if victim == "everything" else []
            return [process.pid, *(each.pid for each in family)]
        deadline = time.monotonic() + PATIENCE
        while process.poll() is None and time.monotonic() < deadline:
            for each in list_descendants(process.pid):
                if any(title in _title(each) for title in VICTIMS[victim]):
                    return [each.pid]
            time.sleep(0.1)
        return []

    def _end(self) -> int:
        """The exit status of the command, which ends now."""
        assert self._process is not None
        _, self._trial.err = self._process.communicate(timeout=self._limit)
        self._trial.status, self._process = self._process.returncode, None
        return self._trial.status

    def _running(self) -> "subprocess.Popen[str]":
        if self._process is None:
            self._trial.starts += 1
            self._process = self._project.start(*self._arguments, "--json", **self._environment)
        return self._process


def _title(process: psutil.Process) -> str:
    return next(iter(read_command(process)), "")
