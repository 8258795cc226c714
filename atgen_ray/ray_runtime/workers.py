"""Workers of Ray Data: each holds something that is costly to make, mostly a model, and maps
batches of rows.

Ray Data's actors end with their pipeline, so that every step would wait ten seconds for new ones to
import torch and transformers. Tasks leave their process to later tasks. So on CPUs the work is done
by tasks, provided that Ray limits how often a task that ran out of memory is repeated: see
`reuse_idle_workers`. On GPUs it is done by actors.
"""

import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa

from atgen_ray.ray_runtime.hardware import fit_cpus, task_environment
from atgen_ray.ray_runtime.private_api import map_blocks_with_actors

if TYPE_CHECKING:
    from ray.data import Dataset

T = TypeVar("T")
Worker = Callable[..., Callable[[pa.Table], pa.Table]]

# How often a worker that dies is replaced. Ray Data's default has no limit: a batch too large for
# memory, which kills every worker that gets it, would keep a run busy for ever.
MAX_RESTARTS = 5
SMALL_POOL = 20_000  # rows up to which work on columns is not worth a process of its own
CHECK_SECONDS = 1.0
UNUSED_SECONDS = 10.0  # after which a process frees its worker's memory, as while a step trains
KEEPING = {
    "RAY_task_oom_retries": str(MAX_RESTARTS),
    "RAY_idle_worker_killing_time_threshold_ms": "60000",
}


@contextmanager
def reuse_idle_workers() -> Iterator[None]:
    """Let a Ray cluster that is started in the block keep idle processes for later tasks.

    A cluster that is started elsewhere does so with these two settings of Ray in the environment of
    all its nodes.
    """
    added = {key: value for key, value in KEEPING.items() if key not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for key in added:
            del os.environ[key]


def reuses_idle_workers() -> bool:
    """Return whether tasks of this process's cluster leave their processes to later ones, and fail
    after `MAX_RESTARTS` deaths.
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
    """Return `rows` with every block mapped by one of `workers` workers, each made once in its
    process as `worker(*arguments)`.

    Args:
        cpus: CPUs to reserve for a worker, at most.
        gpus: GPUs to reserve for a worker.
    """
    from ray.data import ActorPoolStrategy, TaskPoolStrategy

    settings: dict[str, Any] = {
        "batch_size": None,
        "batch_format": "pyarrow",
        "num_cpus": fit_cpus(workers, cpus),
        "runtime_env": {"env_vars": task_environment()},
    }
    if not gpus and reuses_idle_workers():
        # The id tells a process that this is another step, for which it makes a new worker.
        step = uuid.uuid4().hex
        tasks = {
            "fn_args": (step, worker, arguments),
            "compute": TaskPoolStrategy(size=workers),
        }
        return rows.map_batches(run_batch, **tasks, max_retries=MAX_RESTARTS, **settings)
    actors = {
        "fn_constructor_args": arguments,
        "compute": ActorPoolStrategy(size=workers),
        "num_gpus": gpus or None,
    }
    return map_blocks_with_actors(
        rows, worker, **actors, max_restarts=MAX_RESTARTS, max_task_retries=MAX_RESTARTS, **settings
    )


def run_apart(
    function: Callable[..., T], arguments: Sequence[Any], cpus: float, check: Callable[[], Any]
) -> T:
    """Return `function(*arguments)` from a process of its own, with which its memory ends.

    `check` is called every second and may raise to end the work.

    Raises:
        Exception: whatever the function raises.
    """
    import ray
    from ray.exceptions import RayTaskError

    task = ray.remote(num_cpus=cpus, max_retries=MAX_RESTARTS)(function).remote(*arguments)
    try:
        while not ray.wait([task], timeout=CHECK_SECONDS)[0]:
            check()
    except BaseException:
        # Only a task under way: Ray may end this process if it is asked to cancel one that is over.
        ray.cancel(task, force=True)
        raise
    try:
        found: T = ray.get(task)
    except RayTaskError as error:
        raise error.cause from None
    return found


def run_batch(batch: pa.Table, step: str, worker: Worker, arguments: Sequence[Any]) -> pa.Table:
    """Return `batch` mapped by this process's worker for `step`, which is made at the first
    batch.
    """
    return _CACHE.run_batch(batch, step, worker, arguments)


def release() -> None:
    """Free the memory of this process's worker, for a task that needs it for something else."""
    _CACHE.release()


class WorkerCache:
    """The one worker of a process, freed when another step needs one or after `unused_seconds`
    without a batch. Safe to use from threads.
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
        """Return `batch` mapped by the worker for `step`."""
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
        """Free the worker."""
        with self._lock:
            self._worker = None

    def _release_unused(self) -> None:
        """Free the worker unless a batch came after the timer was started."""
        with self._lock:
            if time.monotonic() - self._used >= self._unused_seconds:
                self._worker = None


_CACHE = WorkerCache()
