"""Workers of Ray Data: each holds something that is costly to make, a model mostly, and works off
batches of rows.

Actors end with the pass over the data that they were started for, and the next pass waits ten
seconds for others to import torch and transformers. Tasks leave their process to the next task, so
on CPUs they do the work instead, wherever Ray bounds how often a task that ran out of memory is
repeated: see `reuse_idle_workers`.
"""

import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from atgen_ray.ray_runtime.hardware import fit_cpus, task_environment

if TYPE_CHECKING:
    from ray.data import Dataset

Worker = Callable[..., Callable[[pa.Table], pa.Table]]

# How often a worker that dies is replaced. Ray Data's own number has no end: a batch too large for
# memory, which kills every worker that it is given to, would keep a run busy for ever.
MAX_RESTARTS = 5
UNUSED_SECONDS = (
    10.0  # after which a process gives back the memory of its worker, as while a step trains
)
KEEPING = {
    "RAY_task_oom_retries": str(MAX_RESTARTS),
    "RAY_idle_worker_killing_time_threshold_ms": "60000",
}


@contextmanager
def reuse_idle_workers() -> Iterator[None]:
    """A Ray cluster that is started meanwhile keeps processes which have nothing to do, for later
    tasks.

    A cluster that somebody else starts does so with these two settings of Ray in the environment of
    all its nodes.
    """
    fresh = {key: value for key, value in KEEPING.items() if key not in os.environ}
    os.environ.update(fresh)
    try:
        yield
    finally:
        for key in fresh:
            del os.environ[key]


def reuses_idle_workers() -> bool:
    """Whether tasks of this process's cluster leave their processes to later ones, and end after
    `MAX_RESTARTS` deaths.
    """
    return all(key in os.environ for key in KEEPING)


def map_batches(
    rows: "Dataset",
    worker: Worker,
    arguments: Sequence[Any],
    *,
    workers: int,
    cpus: float,
    gpus: float,
) -> "Dataset":
    """Every block of `rows` through one of `workers` workers, each made once in a process as
    `worker(*arguments)`.

    Args:
        cpus: to reserve for a worker, at most.
        gpus: to reserve for a worker.
    """
    from ray.data import ActorPoolStrategy, TaskPoolStrategy

    settings: dict[str, Any] = {
        "batch_size": None,
        "batch_format": "pyarrow",
        "num_cpus": fit_cpus(workers, cpus),
        "runtime_env": {"env_vars": task_environment()},
    }
    if not gpus and reuses_idle_workers():
        made = {
            "fn_args": (uuid.uuid4().hex, worker, arguments),
            "compute": TaskPoolStrategy(size=workers),
        }
        return rows.map_batches(run_batch, **made, max_retries=MAX_RESTARTS, **settings)
    made = {
        "fn_constructor_args": arguments,
        "compute": ActorPoolStrategy(size=workers),
        "num_gpus": gpus or None,
    }
    # The public `map_batches` refuses GPUs without a number of rows; given one, it would join
    # blocks to batches of its own, which are not the same in every attempt.
    return rows.map_batches_internal(
        worker, **made, max_restarts=MAX_RESTARTS, max_task_retries=MAX_RESTARTS, **settings
    )


def run_batch(batch: pa.Table, step: str, worker: Worker, arguments: Sequence[Any]) -> pa.Table:
    """`batch` through this process's worker for `step`, which is made if another was here or
    none.
    """
    return _CACHE.run_batch(batch, step, worker, arguments)


def release() -> None:
    """Gives back the memory of this process's worker, for a task that needs it for something
    else.
    """
    _CACHE.release()


class WorkerCache:
    """The one worker of a process: let go when one for another step is wanted, or after a while
    without a batch.
    """

    def __init__(self, unused_seconds: float = UNUSED_SECONDS) -> None:
        self._unused_seconds = unused_seconds
        self._lock = threading.Lock()
        self._step: str | None = None
        self._worker: Callable[[pa.Table], pa.Table] | None = None
        self._used = 0.0
        self._timer: threading.Timer | None = None

    def run_batch(
        self, batch: pa.Table, step: str, worker: Worker, arguments: Sequence[Any]
    ) -> pa.Table:
        """As the function of that name."""
        with self._lock:
            if self._worker is None or self._step != step:
                self._worker = None  # two models at once may be one too many
                self._worker = worker(*arguments)
                self._step = step
            result = self._worker(batch)
            self._used = time.monotonic()
            if self._timer is not None:
                self._timer.cancel()
            self._timer = threading.Timer(self._unused_seconds, self._release_unused)
            self._timer.daemon = True
            self._timer.start()
        return result

    def release(self) -> None:
        """As the function of that name."""
        with self._lock:
            self._worker = None

    def _release_unused(self) -> None:
        with self._lock:
            if time.monotonic() - self._used >= self._unused_seconds:
                self._worker = None


_CACHE = WorkerCache()
