"""Drives the runs of a suite over one Ray cluster: as many at once as fit, each with a controller of its own.

Nothing is kept here that matters. Which runs are finished stands in their journal; so the same command again, after
any death, goes on with the others, and each of those with the step where it was.
"""

import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from atgen_ray.bench.cells import Cell
from atgen_ray.bench.config import BenchConfig
from atgen_ray.bench.packing import fit_runs
from atgen_ray.bench.screen import SweepScreen, SweepState
from atgen_ray.journal import Journal, open_journal
from atgen_ray.storage import RunFolder

POLL_SECONDS = 1.0


@dataclass
class Sweep:
    """How a sweep ended: runs finished, failed (with the reason) and never begun or cut short."""

    finished: list[Cell] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    left: list[Cell] = field(default_factory=list)


@dataclass
class _Active:
    cell: Cell
    controller: Any
    seen: int = 0


def run_sweep(suite: BenchConfig, cells: Sequence[Cell], screen: SweepScreen) -> Sweep:
    """Brings every run to its end; one that fails is told and keeps no other from going on.

    SIGINT and SIGTERM stop the runs under way; what they have committed stays.

    Raises:
        UserError: a run exists with another configuration.
    """
    from atgen_ray.driver import enter_run, ray_session, stop_on_signal

    with closing(open_journal(suite.storage, cells[0].run.database_url)) as journal:
        for cell in cells:
            enter_run(cell.run, journal)
        waiting = deque(cell for cell in cells if journal.run(cell.run.name).status != "finished")
        sweep = Sweep(finished=[cell for cell in cells if cell not in waiting])
        for cell in sweep.finished:
            _tidy(suite, cell)
        if waiting:
            with ray_session(), stop_on_signal() as stop:
                _drive(suite, waiting, sweep, journal, screen, stop)
    return sweep


def _drive(
    suite: BenchConfig,
    waiting: deque[Cell],
    sweep: Sweep,
    journal: Journal,
    screen: SweepScreen,
    stop: threading.Event,
) -> None:
    import ray

    from atgen_ray.driver import dismiss_ended, start_controller

    state = SweepState(total=len(waiting) + len(sweep.finished), done=len(sweep.finished))
    state.seconds = [_measure(journal, cell) for cell in sweep.finished]
    active: list[_Active] = []
    asked = False
    while active or (waiting and not stop.is_set()):
        state.parallel = fit_runs([node["Resources"] for node in ray.nodes() if node["Alive"]], suite.resources)
        state.parallel = min(state.parallel, suite.parallel or state.parallel)
        while waiting and len(active) < state.parallel and not stop.is_set():
            cell = waiting.popleft()
            active.append(_Active(cell, start_controller(cell.run, "measure")))
        if stop.is_set() and not asked:
            asked = True
            for each in active:
                each.controller.stop.remote()
        state.active = {}
        for each in list(active):
            ended = _look(each, journal, state)
            if ended is None:
                continue
            active.remove(each)
            status, message = ended
            dismiss_ended(each.cell.run.name)
            if status == "finished":
                sweep.finished.append(each.cell)
                state.done += 1
                state.seconds.append(_measure(journal, each.cell))
                _tidy(suite, each.cell)
            elif status == "failed":
                sweep.failed[each.cell.run.name] = message.strip().splitlines()[-1] if message.strip() else "no reason"
            else:
                sweep.left.append(each.cell)
            screen.show_end(each.cell, status, message, state)
        screen.show_state(state)
        time.sleep(POLL_SECONDS)
    sweep.left += waiting


def _look(each: _Active, journal: Journal, state: SweepState) -> tuple[str, str] | None:
    """How a run ended, and why; None while it goes on."""
    import ray
    from ray.exceptions import ActorDiedError, ActorUnavailableError

    from atgen_ray.driver import read_end

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


def _measure(journal: Journal, cell: Cell) -> float:
    """Seconds of all steps of a run."""
    return sum(event.seconds or 0.0 for event in journal.events(cell.run.name) if event.kind == "step")


def _tidy(suite: BenchConfig, cell: Cell) -> None:
    """Removes the adapters of a finished run, which nobody asks again; they are most of its size."""
    if suite.keep_adapters:
        return
    folder = RunFolder(suite.storage, cell.run.name)
    for path in folder.list("rounds"):
        if folder.exists(f"{path}/adapter"):
            folder.remove(f"{path}/adapter")
