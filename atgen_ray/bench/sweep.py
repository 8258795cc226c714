"""Sweep of a suite: drives its runs on one Ray cluster, as many at once as fit, each with its own
controller.

The sweep keeps no state of its own. The journal says which runs are finished; the same command
after any crash continues the others, each at the step where it was.
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
from atgen_ray.store.changes import audited
from atgen_ray.store.journal import Journal, open_journal
from atgen_ray.store.run_folder import RunFolder


def fit_runs(nodes: Iterable[Mapping[str, float]], resources: ResourcesConfig) -> int:
    """Return how many runs fit on `nodes` (Ray resources of each), none split over two nodes; at
    least one.

    Runs that need a fraction of a GPU share it: three runs of 0.3 fit on one.
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
    """Return how often `demand` goes into `room`, with some tolerance for rounded fractions."""
    return math.floor(room / demand + 1e-6)


POLL_SECONDS = 1.0


@dataclass
class Sweep:
    """Result of a sweep: runs that finished, failed (with the reason), or were stopped or never
    started.
    """

    finished: list[Trial] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    left: list[Trial] = field(default_factory=list)


@dataclass
class _Active:
    trial: Trial
    controller: Any
    seen: int = 0


def run_sweep(suite: BenchConfig, trials: Sequence[Trial], screen: SweepScreen) -> Sweep:
    """Drive every run to its end. A run that fails is reported and does not stop the others.

    SIGINT and SIGTERM stop the runs under way; what they have committed is kept.

    Raises:
        UserError: a run exists with another configuration, or the preflight found a problem; no run
            is started then.
    """
    from atgen_ray.preflight import find_cluster_problems, find_problems
    from atgen_ray.ray_runtime.session import is_private, run_session
    from atgen_ray.runs.driver import check_entry, enter_run, stop_on_signal

    with closing(open_journal(suite.storage, trials[0].run.database_url)) as journal:
        for trial in trials:
            check_entry(trial.run, journal)
        waiting = deque(trial for trial in trials if not _is_finished(trial, journal))
        sweep = Sweep(finished=[trial for trial in trials if trial not in waiting])
        for trial in sweep.finished:
            _remove_adapters(suite, trial, journal)
        if waiting:
            # Before a private Ray starts, which takes seconds; a cluster checks its own machines.
            if is_private():
                _check(waiting, lambda run: find_problems(run, "measure"))
            with run_session(), stop_on_signal() as stop:
                if not is_private():
                    _check(waiting, lambda run: find_problems(run, "measure", cluster=True))
                    _check(waiting, lambda run: find_cluster_problems(run, "measure"))
                with audited(journal.database, "drive suite", target=suite.name) as said:
                    for trial in waiting:
                        enter_run(trial.run, journal)
                    said["runs"] = len(waiting)
                    _Driver(suite, waiting, sweep, journal, screen).drive(stop)
    return sweep


def _is_finished(trial: Trial, journal: Journal) -> bool:
    known = journal.find_run(trial.run.name)
    return known is not None and known.status == "finished"


def _check(trials: Iterable[Trial], find: Callable[[RunConfig], list[str]]) -> None:
    """Check one run of each task and model: the others differ by strategy and seed, whose values
    were checked already.

    Raises:
        UserError: there are problems; one line for each.
    """
    from atgen_ray.preflight import raise_problems

    tried = {(trial.task, trial.model): trial for trial in trials}
    raise_problems(
        f"{trial.task}, {trial.model}: {line}"
        for trial in tried.values()
        for line in find(trial.run)
    )


class _Driver:
    """Driver of the runs under way and of those that wait."""

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
        self._state.seconds = [_measure(journal, trial) for trial in sweep.finished]

    def drive(self, stop: threading.Event) -> None:
        """Drive until all runs have ended, or those under way once `stop` is set."""
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
                if ended := _poll(each, self._journal, self._state):
                    self._active.remove(each)
                    self._end(each.trial, *ended)
            self._screen.show_state(self._state)
            time.sleep(POLL_SECONDS)
        self._sweep.left += self._waiting

    def _start(self) -> None:
        """Start runs until the cluster, at its present size, is full."""
        import ray

        from atgen_ray.ray_runtime.session import is_private
        from atgen_ray.runs.driver import start_controller

        fits = fit_runs(
            [node["Resources"] for node in ray.nodes() if node["Alive"]], self._suite.resources
        )
        self._state.parallel = min(fits, self._suite.parallel or fits)
        while self._waiting and len(self._active) < self._state.parallel:
            trial = self._waiting.popleft()
            # A private Ray ends with this process anyway.
            controller = start_controller(trial.run, "measure", detached=not is_private())
            self._active.append(_Active(trial, controller))

    def _end(self, trial: Trial, status: str, message: str) -> None:
        from atgen_ray.runs.driver import dismiss_ended

        dismiss_ended(trial.run.name)
        if status == "finished":
            self._sweep.finished.append(trial)
            self._state.done += 1
            self._state.seconds.append(_measure(self._journal, trial))
            _remove_adapters(self._suite, trial, self._journal)
        elif status == "failed":
            self._sweep.failed[trial.run.name] = message
        else:
            self._sweep.left.append(trial)
        self._screen.show_end(trial, status, message, self._state)


def _poll(each: _Active, journal: Journal, state: SweepState) -> tuple[str, str] | None:
    """Return status and message of a run that has ended; None while it goes on."""
    import ray
    from ray.exceptions import ActorDiedError, ActorUnavailableError

    from atgen_ray.runs.driver import read_end

    name = each.trial.run.name
    try:
        snapshot = ray.get(each.controller.poll.remote(each.seen))
    except ActorUnavailableError:  # Ray restarts the actor, which replays the journal
        return None
    except ActorDiedError:
        snapshot = read_end(journal, name, each.seen, None)
    each.seen = max([each.seen, *(event.sequence for event in snapshot.events)])
    if snapshot.status != "running":
        return snapshot.status, snapshot.message
    state.active[name] = snapshot.activity
    return None


def _measure(journal: Journal, trial: Trial) -> float:
    """Return the seconds of all steps of a run."""
    return sum(event.seconds or 0.0 for event in journal.steps(trial.run.name))


def _remove_adapters(suite: BenchConfig, trial: Trial, journal: Journal) -> None:
    """Remove the adapters of a finished run unless the suite keeps them; they are most of its
    size.
    """
    if suite.keep_adapters:
        return
    folder = RunFolder(suite.storage, trial.run.name)
    adapters = [f"{path}/adapter" for path in folder.list("rounds")]
    if adapters := [path for path in adapters if folder.exists(path)]:
        journal.note_removed(trial.run.name, adapters)
    for path in adapters:
        folder.remove(path)
