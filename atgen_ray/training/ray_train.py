"""Fine-tuning as a Ray Train job, with DDP or FSDP over its workers."""

import json
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from atgen_ray.config import TrainingConfig
from atgen_ray.ray_runtime.hardware import fit_cpus, worker_environment
from atgen_ray.ray_runtime.placement import check_gpus, fit_gpus
from atgen_ray.training.schedule import STATE

SUMMARY = "training.json"  # file beside the adapter in the last checkpoint


class TrainingFailedError(RuntimeError):
    """Training ended without an adapter."""


def train_distributed(
    job: dict[str, Any], use_gpu: bool, output: Path, work: str
) -> dict[str, Any]:
    """Fine-tune into `output` and return the fields of `TrainingResult`.

    Args:
        job: the first arguments of `fine_tune`.
        use_gpu: give every worker the configured GPUs.
        output: an existing local folder.
        work: folder or URL that every worker can reach.

    Raises:
        UserError: the cluster has too few GPUs.
        ray.train.TrainingFailedError: workers kept failing.
    """
    from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from atgen_ray.training.backend import DeviceConfig

    training: TrainingConfig = job["training"]
    resources = {"CPU": fit_cpus(training.workers, training.cpus_per_worker)}
    if use_gpu:
        resources["GPU"] = _reserve_gpus(training)
    trainer = TorchTrainer(
        train_worker,
        train_loop_config=job,
        torch_config=DeviceConfig(),
        scaling_config=ScalingConfig(
            num_workers=training.workers, use_gpu=use_gpu, resources_per_worker=resources
        ),
        run_config=RunConfig(
            name="train",
            storage_path=work,
            failure_config=FailureConfig(max_failures=2),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
            worker_runtime_env={"env_vars": worker_environment(job["threads"])},
        ),
    )
    checkpoint: Checkpoint | None = trainer.fit().checkpoint
    if checkpoint is None:
        raise TrainingFailedError("fine-tuning ended without a checkpoint")
    # The last checkpoint holds the adapter and the summary: Ray Train returns nothing else.
    checkpoint.to_directory(str(output))
    summary = output / SUMMARY
    record: dict[str, Any] = json.loads(summary.read_text())
    summary.unlink()
    return record


def _reserve_gpus(training: TrainingConfig) -> float:
    """Return the GPUs for each worker; several workers must not share one."""
    key = "training.gpus_per_worker"
    gpus = training.gpus_per_worker
    if training.workers == 1:
        return fit_gpus(key, 1, gpus)
    check_gpus(key, gpus, training.workers)
    return gpus


def train_worker(job: dict[str, Any]) -> None:
    """Fine-tune as one of the workers of a Ray Train job; the first reports the adapter with a
    summary.

    After a lost worker all start again, from the last checkpoint.
    """
    import ray.train

    from atgen_ray.training.fine_tune import fine_tune

    context = ray.train.get_context()
    first = context.get_world_rank() == 0
    checkpoint = ray.train.get_checkpoint()
    with (
        tempfile.TemporaryDirectory() as folder,
        checkpoint.as_directory() if checkpoint else nullcontext() as last,
    ):
        summary = fine_tune(
            **job,
            workers=context.get_world_size(),
            rank=context.get_world_rank(),
            output=Path(folder) if first else None,
            resumed=Path(last) if last and (Path(last) / STATE).is_file() else None,
            keep=report,
        )
        if first:
            (Path(folder) / SUMMARY).write_text(json.dumps(summary))
        report(summary["steps"], Path(folder) if first else None)


def report(step: int, folder: Path | None) -> None:
    """Report a checkpoint to Ray Train, from which new workers resume. Every worker must call this,
    the first one with a folder.
    """
    import ray.train

    ray.train.report(
        {"steps": step},
        checkpoint=ray.train.Checkpoint.from_directory(str(folder)) if folder else None,
    )
