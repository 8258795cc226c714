"""Entry point of training: it checks the method, chooses a local task or a Ray Train job, and runs
it.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from atgen_ray.config import ModelConfig, PromptConfig, TrainingConfig
from atgen_ray.core.records import Progress
from atgen_ray.core.stored import Stored
from atgen_ray.ray_runtime.hardware import count_cpus_here, count_gpus
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
    """Summary of a fine-tuning.

    Attributes:
        losses: one {"step", "loss"} an optimiser step; the mean over answer tokens, in nats.
        tokens: answer tokens in one epoch.
        dev_losses: one an epoch, where the dev loss may stop training.
        packed: whether examples were packed end to end.
        probes: fields of `adapter_probe.Probe`, by which an engine is checked.
    """

    losses: list[dict[str, float]]
    examples: int
    tokens: int
    steps: int
    dev_losses: list[float] = field(default_factory=list)
    packed: bool = False
    probes: list[dict[str, Any]] = field(default_factory=list)


def train_adapter(
    examples: list[TrainingExample],
    model: ModelConfig,
    prompt: PromptConfig,
    training: TrainingConfig,
    seed: int,
    output: Path,
    work: str,
    progress: Progress,
    start_from: Stored | None = None,
    dev: Sequence[TrainingExample] = (),
    logs: str | None = None,
    probes: int = 0,
) -> TrainingResult:
    """Fine-tune an adapter on `examples` and write it, in the format of peft and vLLM, into the
    folder `output`.

    Full fine-tuning writes a whole model there. Training is a Ray Train job with DDP; a single
    worker on a CPU, in a Ray whose nodes keep idle processes, is a task in one of this node
    instead. Either way a lost worker is replaced twice, and another call with the same `work`
    resumes from the last checkpoint in it.

    Args:
        examples: at least one; `seed` alone decides their order.
        output: an existing local folder.
        work: folder or URL that every worker can reach, for the checkpoints of an unfinished
            training.
        progress: receives the optimiser steps done and in all; called from a worker, so it must be
            serialisable.
        start_from: adapter to continue from; None starts from the base model.
        dev: examples excluded from training whose loss may stop it early (training.early_stopping).
        logs: folder that every worker can reach, for TensorBoard's files.
        probes: answers of the tuned model to return with their log-probabilities; there may be
            none, as after full fine-tuning.

    Raises:
        UserError: the method needs a package or a GPU that does not exist.
        ray.train.TrainingFailedError, ray.exceptions.RayError: workers kept failing.
    """
    from atgen_ray.training.local_worker import train_locally
    from atgen_ray.training.methods import check_method, check_start
    from atgen_ray.training.ray_train import train_distributed

    use_gpu = training.uses_gpus(count_gpus())
    check_method(training, use_gpu)
    check_start(start_from, training)
    # Sorted, so that the schedule depends on the seed alone and not on the order of labels.
    job = {
        "examples": [
            asdict(example) for example in sorted(examples, key=lambda example: example.id)
        ],
        "model": model,
        "prompt": prompt,
        "training": training,
        "seed": seed,
        "threads": training.threads_per_worker,
        "progress": progress,
        "start_from": start_from,
        "dev": [asdict(example) for example in sorted(dev, key=lambda example: example.id)],
        "logs": logs,
        "probes": probes,
    }
    alone = training.workers == 1 and not use_gpu and "://" not in work
    if alone and reuses_idle_workers() and count_cpus_here() >= training.cpus_per_worker:
        return TrainingResult(**train_locally(job, output, Path(work)))
    return TrainingResult(**train_distributed(job, use_gpu, output, work))
