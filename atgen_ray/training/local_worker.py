"""A fine-tuning by one worker, in a process that has torch and transformers imported already.

A Ray Train job starts six processes, which take longer than a small training itself: 20 seconds on
two cores.
"""

import gc
import shutil
from pathlib import Path
from typing import Any

from atgen_ray.core.errors import UserError
from atgen_ray.ray_runtime.hardware import fit_cpus, task_environment
from atgen_ray.ray_runtime.workers import release

FAILURES = 2  # how often a worker that is lost is replaced, as in a Ray Train job


def train_alone(job: dict[str, Any], output: Path, work: Path) -> dict[str, Any]:
    """Fine-tunes into `output` and returns the fields of `TrainingResult`.

    Args:
        job: the first arguments of `fine_tune`.
        output: an existing folder of this machine.
        work: folder of this machine for checkpoints; made if need be.

    Raises:
        UserError: of the worker.
        ray.exceptions.RayError: another error of the worker, or it kept dying.
    """
    import ray
    from ray.exceptions import RayTaskError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(
        num_cpus=fit_cpus(1, job["training"].cpus_per_worker),
        max_retries=FAILURES,
        # Trackers keep a session in their process, and would log the next training into it.
        max_calls=1 if job["training"].trackers else 0,
        runtime_env={"env_vars": task_environment()},
        scheduling_strategy=NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=False
        ),
    )(train_in_task)
    try:
        summary: dict[str, Any] = ray.get(task.remote(job, output, work))
    except RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise error.cause from error  # in one line
        raise
    return summary


def train_in_task(job: dict[str, Any], output: Path, work: Path) -> dict[str, Any]:
    """What `train_alone` has done in a task."""
    from atgen_ray.training.fine_tune import fine_tune

    release()
    kept = sorted(work.glob("checkpoint-*"), key=_count_steps)
    shutil.rmtree(output)
    output.mkdir()
    try:
        return fine_tune(
            **job,
            workers=1,
            output=output,
            resumed=kept[-1] if kept else None,
            keep=lambda step, folder: keep_checkpoint(work, step, folder),
        )
    finally:
        gc.collect()  # the model is in reference cycles of its trainer; the process lives on


def keep_checkpoint(work: Path, step: int, folder: Path | None) -> None:
    """A copy of `folder` in `work`, under its name only once it is whole, instead of earlier
    ones.
    """
    if folder is None:
        return
    partial = work / "partial"
    kept = work / f"checkpoint-{step}"
    for old in (partial, kept):
        shutil.rmtree(old, ignore_errors=True)
    shutil.copytree(folder, partial)
    partial.rename(kept)
    for old in work.glob("checkpoint-*"):
        if old != kept:
            shutil.rmtree(old)


def _count_steps(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])
