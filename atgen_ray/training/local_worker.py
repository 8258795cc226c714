"""Fine-tuning by one worker, in a process that has imported torch and transformers already.

A Ray Train job starts six processes, which takes longer than a small training itself: 20 seconds on
two cores.
"""

import gc
import shutil
from pathlib import Path
from typing import Any

from atgen_ray.core.errors import UserError
from atgen_ray.ray_runtime.hardware import fit_cpus, task_environment
from atgen_ray.ray_runtime.workers import release

FAILURES = 2  # how often a lost worker is replaced, as in a Ray Train job


def train_locally(job: dict[str, Any], output: Path, work: Path) -> dict[str, Any]:
    """Fine-tune into `output` in a Ray task and return the fields of `TrainingResult`.

    Args:
        job: the first arguments of `fine_tune`.
        output: an existing folder of this machine.
        work: folder of this machine for checkpoints; created if missing.

    Raises:
        UserError: raised by the worker.
        ray.exceptions.RayError: the worker raised another error, or kept dying.
    """
    import ray
    from ray.exceptions import RayTaskError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(
        num_cpus=fit_cpus(1, job["training"].cpus_per_worker),
        max_retries=FAILURES,
        runtime_env={"env_vars": task_environment()},
        scheduling_strategy=NodeAffinitySchedulingStrategy(
            # Another node, which shares the storage, takes it where this one has no CPUs.
            ray.get_runtime_context().get_node_id(),
            soft=True,
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
    """Run the task of `train_locally`: resume from the last checkpoint, if there is one."""
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
        # The trainer has reference cycles that hold the model, and the process is used again.
        gc.collect()


def keep_checkpoint(work: Path, step: int, folder: Path | None) -> None:
    """Copy `folder` into `work` and delete earlier checkpoints. The copy gets its name when it is
    complete.
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
    """Return the steps in the name of a checkpoint."""
    return int(checkpoint.name.rpartition("-")[2])
