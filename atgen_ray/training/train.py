"""Runs one fine-tuning and commits the adapter to the run's folder."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from atgen_ray.config import ModelConfig, PromptConfig, TrainingConfig
from atgen_ray.core.records import Progress
from atgen_ray.ray_runtime.hardware import count_gpus, count_threads
from atgen_ray.ray_runtime.workers import reuses_idle_workers


@dataclass(frozen=True)
class TrainingExample:
    """An example with the answer to learn."""

    id: str
    text: str
    answer: str
    weight: float = 1.0  # of its tokens in the loss


@dataclass(frozen=True)
class TrainingResult:
    """What a fine-tuning did."""

    losses: list[
        dict[str, float]
    ]  # one {"step", "loss"} an optimiser step; mean over answer tokens, in nats
    examples: int
    tokens: int  # answer tokens learnt from in one epoch
    steps: int
    dev_losses: list[float] = field(
        default_factory=list
    )  # one an epoch, where the dev loss may end training
    packed: bool = False  # whether examples were laid end to end


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
    """Fine-tunes an adapter on `examples` and writes it, as peft and vLLM read it, into the folder
    `output`.

    Full fine-tuning writes a whole model there. Training is a Ray Train job with DDP; a single
    worker on a CPU, in a Ray of our own, is a task in a process that the steps before have left
    instead. Either way a worker that is lost is replaced twice, and whoever calls again with the
    same `work` goes on from the last checkpoint in it.

    Args:
        examples: at least one; their order is fixed by `seed` alone.
        output: an existing local folder.
        work: folder or URL that every worker can reach, for the checkpoints of an unfinished
            training.
        progress: told the optimiser steps done and in all; called from a worker, so it must be
            serialisable.
        start_from: adapter to continue from; None starts from the base model.
        dev: examples kept from training whose loss may end it early (training.early_stopping).
        logs: folder that every worker can reach, for TensorBoard's files.
        name: of this training, in the trackers.

    Raises:
        UserError: the method needs a package or a GPU that is not there.
        ray.train.TrainingFailedError, ray.exceptions.RayError: workers kept failing.
    """
    from atgen_ray.training.local_worker import train_alone
    from atgen_ray.training.methods import check_method, check_start
    from atgen_ray.training.ray_train import train_distributed

    wanted = training.workers * training.gpus_per_worker
    use_gpu = training.use_gpu if training.use_gpu is not None else count_gpus() >= wanted
    check_method(training, use_gpu)
    check_start(start_from, training)
    job = {
        "examples": [
            asdict(example) for example in sorted(examples, key=lambda example: example.id)
        ],
        "model": model,
        "prompt": prompt,
        "training": training,
        "seed": seed,
        "threads": count_threads(training.workers, training.threads_per_worker),
        "progress": progress,
        "start_from": start_from,
        "dev": [asdict(example) for example in sorted(dev, key=lambda example: example.id)],
        "logs": logs,
        "name": name,
    }
    if training.workers == 1 and not use_gpu and reuses_idle_workers() and "://" not in work:
        return TrainingResult(**train_alone(job, output, Path(work)))
    return TrainingResult(**train_distributed(job, use_gpu, output, work))
