"""Controller as a detached, named Ray actor: it outlives its driver, and a restarted one continues
from the journal.

What it does is in `LeasedRun`; here is what Ray adds: an address, a process that can be killed, and
workers. Threads of the actor: those of `LeasedRun`, and Ray's own, which answer drivers.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from atgen_ray.config import RunConfig
from atgen_ray.core.log_format import set_up_logs
from atgen_ray.core.machine import machine
from atgen_ray.core.private_files import use_private_files
from atgen_ray.core.request_ids import set_origin
from atgen_ray.ray_runtime.placement import watch_waiting
from atgen_ray.ray_runtime.session import quieten_ray_data
from atgen_ray.runs.leased_run import Goal, LeasedRun, Report, Snapshot, Surroundings
from atgen_ray.store.owner import ProcessIdentity

IDLE_SECONDS = 60.0  # how long a controller stays after its run, for drivers that still poll


def actor_name(run: str) -> str:
    """Return the name of a run's controller in the Ray namespace `atgen`."""
    return f"controller-{run}"


class RemoteProgress:
    """Sends progress from another process to a controller; serialisable."""

    def __init__(self, controller: Any) -> None:
        self._controller = controller

    def __call__(self, done: int, total: int) -> None:
        self._controller.update.remote(done, total)


@ray.remote
class ControllerActor:
    """Runs the round loop in a thread and answers drivers meanwhile."""

    def __init__(
        self, config: RunConfig, owner: str, goal: Goal = "run", request: str | None = None
    ) -> None:
        """Acquire the run's lease (`owner` stays the same over restarts of this actor) and start or
        resume the run; `request` is the id of the HTTP request that asked for it.

        The constructor of an actor must not fail: `poll` reports errors instead.
        """
        set_up_logs()
        set_origin(request)
        use_private_files()
        handle = ray.get_runtime_context().current_actor

        def die() -> None:
            ray.kill(handle, no_restart=True)

        surroundings = Surroundings(
            RemoteProgress(handle),
            die,
            lambda: machine().call_later(0.0 if self._run.handed else IDLE_SECONDS, die),
            _watch,
        )
        self._run = LeasedRun(config, ProcessIdentity(owner), goal, surroundings)
        self._run.start()

    def poll(self, after: int) -> Snapshot:
        """Return the state of the run and its events with a sequence number above `after`."""
        return self._run.poll(after)

    def update(self, done: int, total: int) -> None:
        """Count progress of a training worker."""
        self._run.update(done, total)

    def stop(self) -> None:
        """Stop the run at its next chance, or after a short wait in the middle of a step."""
        self._run.stop()

    def hand_over(self) -> None:
        """Stop, and leave the run to whoever takes its lease next."""
        self._run.hand_over()


@contextmanager
def _watch(report: Report) -> Iterator[None]:
    """Report what Ray cannot place."""
    quieten_ray_data()
    with watch_waiting(report):
        yield
