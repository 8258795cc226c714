"""Training loop of one worker: it computes its share of every optimiser step."""

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from transformers import TrainingArguments, set_seed

from atgen_ray.config import ModelConfig, PromptConfig, TrainingConfig
from atgen_ray.core.records import Progress
from atgen_ray.core.stored import Stored
from atgen_ray.engines.adapter_probe import can_measure, measure_probes
from atgen_ray.models.loading import load_tokenizer
from atgen_ray.models.prompts import PromptBuilder
from atgen_ray.ray_runtime.hardware import count_threads, has_bfloat16
from atgen_ray.training.batching import (
    IGNORED,
    Row,
    build_row,
    enable_packing,
    pack_rows,
    pad_rows,
)
from atgen_ray.training.callbacks import (
    BestWeights,
    CheckpointCallback,
    CheckpointSink,
    ProgressCallback,
)
from atgen_ray.training.methods import gather_trained, load_trainable, save_trained
from atgen_ray.training.schedule import STATE, count_steps, schedule_steps
from atgen_ray.training.trainer import AnswerTrainer, MicroBatches, find_kept

DEV_BATCH = 8  # rows of a batch of the dev split


def fine_tune(
    examples: list[dict[str, Any]],
    model: ModelConfig,
    prompt: PromptConfig,
    training: TrainingConfig,
    seed: int,
    threads: int | None,
    progress: Progress,
    start_from: Stored | None,
    workers: int,
    output: Path | None,
    dev: list[dict[str, str]] | None = None,
    rank: int = 0,
    resumed: Path | None = None,
    keep: CheckpointSink | None = None,
    logs: str | None = None,
    probes: int = 0,
) -> dict[str, Any]:
    """Train on this worker's share of every step and return the fields of `TrainingResult`.

    Args:
        examples: mappings with text, answer and, unless it is 1, the weight in the loss.
        threads: compute threads; None: this worker's share in the cores of its node.
        workers: processes in the torch process group; this one has `rank`.
        output: folder for the adapter; None in all workers but the first.
        dev: examples whose loss stops training early, where there are enough to train on.
        resumed: checkpoint of this training to resume from.
        keep: receives every checkpoint; None for no checkpoints.
        logs: folder for TensorBoard's files.
        probes: answers to leave behind, by which an engine is checked.
    """
    import torch

    torch.set_num_threads(count_threads(training.workers, threads))
    seed %= 2**32  # numpy takes no larger one
    set_seed(seed)
    builder = PromptBuilder(load_tokenizer(model), prompt, model.max_prompt_tokens)
    rows = _build_rows(builder, examples, model.max_new_tokens, training.turns)
    dev_rows = _build_rows(builder, dev or [], model.max_new_tokens, training.turns)
    earlier = None if start_from is None else start_from.local()
    trainable = load_trainable(model, training, earlier, seed)
    attention = _base(trainable).config._attn_implementation
    packed = (
        training.packing
        and training.backend == "transformers"
        and enable_packing(_base(trainable), rows)
    )
    if any(example.get("weight", 1.0) != 1.0 for example in examples):
        for row, example in zip(rows, examples, strict=True):
            row["weights"] = [example["weight"]] * len(row["input_ids"])
    collate = pack_rows if packed else partial(pad_rows, filler=builder.stop_ids[0])
    lengths = [len(row["input_ids"]) for row in rows]
    steps = schedule_steps(
        lengths, training.batch_size, training.epochs, seed, workers, training.accumulation
    )
    done = json.loads((resumed / STATE).read_text())["global_step"] if resumed else 0
    plan = [micro for step in steps[done:] for micro in step[rank]]
    stopping = training.early_stopping
    best = None
    if dev_rows and len(rows) >= stopping.from_examples:
        best = BestWeights(trainable, stopping.patience, resumed)
    # BestWeights comes first: it adds its weights to a checkpoint before that is handed over.
    callbacks = [
        *([best] if best else []),
        *([CheckpointCallback(keep)] if keep else []),
        *([ProgressCallback(progress)] if output else []),
    ]
    if logs:
        os.environ["TENSORBOARD_LOGGING_DIR"] = logs
    dev_batches = []
    if best:
        starts = range(0, len(dev_rows), DEV_BATCH)
        dev_batches = [collate(dev_rows[start : start + DEV_BATCH]) for start in starts]
    with tempfile.TemporaryDirectory() as scratch:
        per_epoch = count_steps(len(rows), training.batch_size, 1) if best else None
        arguments = build_arguments(
            training, model.dtype, len(steps), seed, scratch, per_epoch, keep is not None
        )
        if training.sharding == "fsdp" and arguments.use_cpu:
            _shard_on_cpu()
        trainer = AnswerTrainer(
            model=trainable,
            args=arguments,
            train_dataset=MicroBatches(rows, plan, collate),
            callbacks=callbacks,
            dev=dev_batches,
            kept=find_kept(trainable, training.backend == "unsloth"),
        )
        trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
    # Gathering is collective: workers without an output take part in it. Where there is a dev loss,
    # the last step at the latest is evaluated.
    weights = best.weights if best else gather_trained(trainer.model)
    if output:
        save_trained(trainer.model, weights, output, model)
    measured: list[dict[str, Any]] = []
    if output and probes and can_measure(trainer.model, model, training):
        _base(trainer.model).set_attn_implementation(attention)  # packed rows are no answers
        measured = _measure(trainer.model, output, builder, probes)
    return {
        "probes": measured,
        "losses": [
            {"step": e["step"], "loss": e["loss"]} for e in trainer.state.log_history if "loss" in e
        ],
        "dev_losses": best.losses if best else [],
        "examples": len(rows),
        "tokens": sum(label != IGNORED for row in rows for label in row["labels"]),
        "steps": trainer.state.global_step,
        "packed": packed,
    }


def _measure(model: Any, adapter: Path, builder: PromptBuilder, count: int) -> list[dict[str, Any]]:
    """Return what an engine is checked by; nothing where the device has no memory for it."""
    import torch

    try:
        return measure_probes(model, adapter, builder, count)
    except torch.OutOfMemoryError:
        return []  # the check loads the model itself, on a CPU


def build_arguments(
    training: TrainingConfig,
    dtype: str,
    steps: int,
    seed: int,
    scratch: str,
    per_epoch: int | None,
    saves: bool,
) -> TrainingArguments:
    """Return the Trainer's arguments; `dtype` is that of the model's configuration, and `per_epoch`
    the number of steps between evaluations, None for no evaluation.
    """
    import torch

    cuda = torch.cuda.is_available()
    # LoRA weights are float32 and the base is in model.dtype; peft casts between them. Full weights
    # are float32 and need autocast.
    mixed = training.method == "full" and dtype != "float32"
    return TrainingArguments(
        output_dir=scratch,
        max_steps=steps,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=training.accumulation,
        learning_rate=training.learning_rate,
        lr_scheduler_type=training.schedule,
        # Round down: the first step of a warm-up has a learning rate of 0, which a tiny set cannot
        # afford.
        warmup_steps=int(training.warmup_fraction * steps),
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        gradient_checkpointing=training.gradient_checkpointing,
        bf16=mixed and has_bfloat16(),
        fp16=mixed and cuda and not has_bfloat16(),
        average_tokens_across_devices=True,
        ignore_data_skip=True,  # the plan of a resumed worker starts after the finished steps
        eval_strategy="steps" if per_epoch else "no",
        eval_steps=per_epoch,
        save_strategy="steps" if saves else "no",
        save_steps=training.checkpoint_steps,
        save_total_limit=1,
        fsdp=True if training.sharding == "fsdp" else None,  # by layer, with FSDP2
        seed=seed,
        use_cpu=not cuda,
        logging_steps=1,
        report_to="tensorboard" if "tensorboard" in training.trackers else "none",
        disable_tqdm=True,
        remove_unused_columns=False,
        ddp_find_unused_parameters=False,
    )


def _shard_on_cpu() -> None:
    """Make accelerate shard a model that is trained on CPUs.

    It shards on GPUs alone, and would train copies without a word; torch shards on CPUs as well.
    """
    from accelerate import PartialState
    from accelerate.utils import DistributedType

    PartialState().distributed_type = DistributedType.MULTI_GPU


def _build_rows(
    builder: PromptBuilder,
    examples: Sequence[Mapping[str, Any]],
    max_answer_tokens: int,
    turns: Literal["last", "all"],
) -> list[Row]:
    return [
        build_row(builder, example["text"], example["answer"], max_answer_tokens, turns)
        for example in examples
    ]


def _base(model: Any) -> Any:
    """Return the model inside a PeftModel, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
