"""Runs one fine-tuning as a Ray Train job with DDP and commits the adapter to the run's folder."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from atgen_ray.config import ModelConfig, PromptConfig, TrainingConfig
from atgen_ray.records import Progress


@dataclass(frozen=True)
class TrainingExample:
    """An example with the answer to learn."""

    id: str
    text: str
    answer: str


@dataclass(frozen=True)
class TrainingResult:
    """What a fine-tuning did."""

    losses: list[dict[str, float]]  # one {"step", "loss"} an optimiser step; mean over answer tokens, in nats
    examples: int
    tokens: int  # answer tokens learnt from in one epoch
    steps: int
    dev_losses: list[float] = field(default_factory=list)  # one an epoch, where the dev loss may end training
    packed: bool = False  # whether examples were laid end to end


class TrainingFailed(RuntimeError):
    """Training ended without an adapter."""


def train_adapter(
    examples: list[TrainingExample],
    model: ModelConfig,
    prompt: PromptConfig,
    training: TrainingConfig,
    seed: int,
    output: Path,
    work: str,
    progress: Progress,
    start_from: Path | None = None,
    dev: Sequence[TrainingExample] = (),
    logs: str | None = None,
    name: str = "atgen-ray",
) -> TrainingResult:
    """Fine-tunes an adapter on `examples` and writes it, as peft and vLLM read it, into the folder `output`.

    Full fine-tuning writes a whole model there.

    Args:
        examples: at least one; their order is fixed by `seed` alone.
        output: an existing local folder.
        work: folder or URL that every worker can reach, for what Ray Train keeps while it runs.
        progress: told the optimiser steps done and in all; called from a worker, so it must be serialisable.
        start_from: adapter to continue from; None starts from the base model.
        dev: examples kept from training whose loss may end it early (training.early_stopping).
        logs: folder that every worker can reach, for TensorBoard's files.
        name: of this training, in the trackers.

    Raises:
        UserError: the method needs a package or a GPU that is not there.
        ray.train.TrainingFailedError: workers kept failing.
    """
    from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    from atgen_ray.hardware import count_gpus, count_threads, fit_cpus, worker_environment
    from atgen_ray.training.methods import check_method, check_start
    from atgen_ray.training.worker import SUMMARY, train_worker

    use_gpu = training.use_gpu if training.use_gpu is not None else count_gpus() >= training.workers
    check_method(training, use_gpu)
    check_start(start_from, training)
    threads = count_threads(training.workers, training.threads_per_worker)
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={
            "examples": [asdict(example) for example in sorted(examples, key=lambda example: example.id)],
            "model": model,
            "prompt": prompt,
            "training": training,
            "seed": seed,
            "threads": threads,
            "progress": progress,
            "start_from": start_from,
            "dev": [asdict(example) for example in sorted(dev, key=lambda example: example.id)],
            "logs": logs,
            "name": name,
        },
        torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=training.workers,
            use_gpu=use_gpu,
            resources_per_worker={"CPU": fit_cpus(training.workers, training.cpus_per_worker)}
            | ({"GPU": 1} if use_gpu else {}),
        ),
        run_config=RunConfig(
            name="train",
            storage_path=work,
            failure_config=FailureConfig(max_failures=2),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
            worker_runtime_env={"env_vars": worker_environment(threads)},
        ),
    )
    checkpoint: Checkpoint | None = trainer.fit().checkpoint
    if checkpoint is None:
        raise TrainingFailed("fine-tuning ended without a checkpoint")
    checkpoint.to_directory(str(output))
    summary = output / SUMMARY
    record: dict[str, Any] = json.loads(summary.read_text())
    summary.unlink()
    return TrainingResult(**record)
