"""How many runs go at once.

Drives the runs of a suite over one Ray cluster: as many at once as fit, each with a controller of
its own.

Nothing is kept here that matters. Which runs are finished stands in their journal; so the same
command again, after any death, goes on with the others, and each of those with the step where it
was.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from atgen_ray.bench.config import BenchConfig, ResourcesConfig
from atgen_ray.bench.console import SweepScreen, SweepState
from atgen_ray.bench.grid import Trial
from atgen_ray.config import RunConfig
from atgen_ray.store.journal import Journal, open_journal
from atgen_ray.store.run_folder import RunFolder


def fit_runs(nodes: Iterable[Mapping[str, float]], resources: ResourcesConfig) -> int:
    """Runs that fit on `nodes` (Ray resources of each), none of them split over two; at least one.

    A fraction of a GPU counts as often as it goes into one: three runs of 0.3 share a GPU.
    """
    total = 0
    for node in nodes:
        fits = [_times(node.get("CPU", 0.0), resources.cpus)]
        if resources.gpus >= 1:
            fits.append(_times(node.get("GPU", 0.0), resources.gpus))
        elif resources.gpus:
            fits.append(int(node.get("GPU", 0.0)) * _times(1.0, resources.gpus))
        total += min(fits)
    return max(1, total)


def _times(room: float, demand: float) -> int:
    """How often `demand` goes into `room`, with a little allowed for the rounding of fractions."""
    return math.floor(room / demand + 1e-6)


POLL_SECONDS = 1.0


@dataclass
class Sweep:
    """How a sweep ended: runs finished, failed (with the reason) and never begun or cut short."""

    finished: list[Trial] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    left: list[Trial] = field(default_factory=list)


@dataclass
class _Active:
    cell: Trial
    controller: Any
    seen: int = 0


def run_sweep(suite: BenchConfig, cells: Sequence[Trial], screen: SweepScreen) -> Sweep:
    """Brings every run to its end; one that fails is told and keeps no other from going on.

    SIGINT and SIGTERM stop the runs under way; what they have committed stays.

    Raises:
        UserError: a run exists with another configuration, or the preflight found what would end
            runs; then none is entered.
    """
    from atgen_ray.preflight import find_cluster_problems, find_problems
    from atgen_ray.ray_runtime.session import is_private, run_session
    from atgen_ray.run.driver import check_entry, enter_run, stop_on_signal

    with closing(open_journal(suite.storage, cells[0].run.database_url)) as journal:
        for cell in cells:
            check_entry(cell.run, journal)
        waiting = deque(cell for cell in cells if not _is_finished(cell, journal))
        sweep = Sweep(finished=[cell for cell in cells if cell not in waiting])
        for cell in sweep.finished:
            _tidy(suite, cell)
        if waiting:
            if is_private():
                _check(waiting, lambda run: find_problems(run, "measure"))
            with run_session(), stop_on_signal() as stop:
                if not is_private():
                    _check(waiting, lambda run: find_problems(run, "measure", cluster=True))
                    _check(waiting, lambda run: find_cluster_problems(run, "measure"))
                for cell in waiting:
                    enter_run(cell.run, journal)
                _Driver(suite, waiting, sweep, journal, screen).drive(stop)
    return sweep


def _is_finished(cell: Trial, journal: Journal) -> bool:
    known = journal.find_run(cell.run.name)
    return known is not None and known.status == "finished"


def _check(cells: Iterable[Trial], find: Callable[[RunConfig], list[str]]) -> None:
    """Tries one run of each task and model: the others differ by strategy and seed, which are
    checked already.

    Raises:
        UserError: with a line for each problem.
    """
    from atgen_ray.preflight import raise_problems

    tried = {(cell.task, cell.model): cell for cell in cells}
    raise_problems(
        f"{cell.task}, {cell.model}: {line}" for cell in tried.values() for line in find(cell.run)
    )


class _Driver:
    """The runs under way, and those that wait."""

    def __init__(
        self,
        suite: BenchConfig,
        waiting: deque[Trial],
        sweep: Sweep,
        journal: Journal,
        screen: SweepScreen,
    ) -> None:
        self._suite = suite
        self._waiting = waiting
        self._sweep = sweep
        self._journal = journal
        self._screen = screen
        self._active: list[_Active] = []
        self._state = SweepState(total=len(waiting) + len(sweep.finished), done=len(sweep.finished))
        self._state.seconds = [_measure(journal, cell) for cell in sweep.finished]

    def drive(self, stop: threading.Event) -> None:
        """To the end of all runs, or of those under way once `stop` is set."""
        asked = False
        while self._active or (self._waiting and not stop.is_set()):
            if not stop.is_set():
                self._start()
            elif not asked:
                asked = True
                for each in self._active:
                    each.controller.stop.remote()
            self._state.active = {}
            for each in list(self._active):
                if ended := _look(each, self._journal, self._state):
                    self._active.remove(each)
                    self._end(each.cell, *ended)
            self._screen.show_state(self._state)
            time.sleep(POLL_SECONDS)
        self._sweep.left += self._waiting

    def _start(self) -> None:
        """Fills the cluster, as large as it is now."""
        import ray

        from atgen_ray.ray_runtime.session import is_private
        from atgen_ray.run.driver import start_controller

        fits = fit_runs(
            [node["Resources"] for node in ray.nodes() if node["Alive"]], self._suite.resources
        )
        self._state.parallel = min(fits, self._suite.parallel or fits)
        while self._waiting and len(self._active) < self._state.parallel:
            cell = self._waiting.popleft()
            # A Ray of our own ends with us anyway.
            controller = start_controller(cell.run, "measure", detached=not is_private())
            self._active.append(_Active(cell, controller))

    def _end(self, cell: Trial, status: str, message: str) -> None:
        from atgen_ray.run.driver import dismiss_ended

        dismiss_ended(cell.run.name)
        if status == "finished":
            self._sweep.finished.append(cell)
            self._state.done += 1
            self._state.seconds.append(_measure(self._journal, cell))
            _tidy(self._suite, cell)
        elif status == "failed":
            self._sweep.failed[cell.run.name] = message
        else:
            self._sweep.left.append(cell)
        self._screen.show_end(cell, status, message, self._state)


def _look(each: _Active, journal: Journal, state: SweepState) -> tuple[str, str] | None:
    """How a run ended, and why; None while it goes on."""
    import ray
    from ray.exceptions import ActorDiedError, ActorUnavailableError

    from atgen_ray.run.driver import read_end

    name = each.cell.run.name
    try:
        snapshot = ray.get(each.controller.poll.remote(each.seen))
    except ActorUnavailableError:  # Ray is restarting it, and it will replay the journal
        return None
    except ActorDiedError:
        snapshot = read_end(journal, name, each.seen, None)
    each.seen = max([each.seen, *(event.sequence for event in snapshot.events)])
    if snapshot.status != "running":
        return snapshot.status, snapshot.message
    state.active[name] = snapshot.activity
    return None


def _measure(journal: Journal, cell: Trial) -> float:
    """Seconds of all steps of a run."""
    return sum(
        event.seconds or 0.0 for event in journal.events(cell.run.name) if event.kind == "step"
    )


def _tidy(suite: BenchConfig, cell: Trial) -> None:
    """Removes the adapters of a finished run, which nobody asks again; they are most of its
    size.
    """
    if suite.keep_adapters:
        return
    folder = RunFolder(suite.storage, cell.run.name)
    for path in folder.list("rounds"):
        if folder.exists(f"{path}/adapter"):
            folder.remove(f"{path}/adapter")
