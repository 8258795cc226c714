"""What each worker of a training does: its share of every optimiser step."""

import json
import os
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from transformers import TrainingArguments, set_seed

from atgen_ray.config import ModelConfig, PromptConfig, TrainingConfig
from atgen_ray.core.records import Progress
from atgen_ray.models.loading import load_tokenizer
from atgen_ray.models.prompts import PromptBuilder
from atgen_ray.ray_runtime.hardware import has_bfloat16
from atgen_ray.training.batching import IGNORED, build_row, enable_packing, pack_rows, pad_rows
from atgen_ray.training.callbacks import (
    BestWeights,
    CheckpointCallback,
    Keep,
    ProgressCallback,
)
from atgen_ray.training.methods import load_trainable, save_trained
from atgen_ray.training.schedule import STATE, count_steps, schedule_steps
from atgen_ray.training.trainer import AnswerTrainer, MicroBatches, can_keep_logits


def fine_tune(
    examples: list[dict[str, Any]],
    model: ModelConfig,
    prompt: PromptConfig,
    training: TrainingConfig,
    seed: int,
    threads: int,
    progress: Progress,
    start_from: Path | None,
    workers: int,
    output: Path | None,
    dev: list[dict[str, str]] | None = None,
    rank: int = 0,
    resumed: Path | None = None,
    keep: Keep | None = None,
    logs: str | None = None,
    name: str = "atgen-ray",
) -> dict[str, Any]:
    """Trains on this worker's share of every step and returns the fields of `TrainingResult`.

    Args:
        examples: mappings with text, answer and, unless it is 1, the weight in the loss.
        workers: processes in the torch process group, this one among them; it is the one of `rank`.
        output: folder for the adapter; None in all workers but the first.
        dev: examples whose loss ends training early, where there are enough to train on.
        resumed: checkpoint of this very training to go on from.
        keep: is handed every checkpoint; None for none.
        logs: folder for TensorBoard's files.
        name: of this training, in the trackers.
    """
    import torch

    torch.set_num_threads(threads)
    seed %= 2**32  # what numpy takes
    set_seed(seed)
    builder = PromptBuilder(load_tokenizer(model), prompt, model.max_prompt_tokens)
    rows, held = (
        [
            build_row(builder, example["text"], example["answer"], model.max_new_tokens)
            for example in each
        ]
        for each in (examples, dev or [])
    )
    trainable = load_trainable(model, training, start_from, seed)
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
    best = (
        BestWeights(trainable, stopping.patience, resumed)
        if held and len(rows) >= stopping.from_examples
        else None
    )
    # The best weights are added to a checkpoint before it is handed over.
    callbacks = [
        *([best] if best else []),
        *([CheckpointCallback(keep)] if keep else []),
        *([ProgressCallback(progress)] if output else []),
    ]
    if logs:
        os.environ["TENSORBOARD_LOGGING_DIR"] = logs
    with tempfile.TemporaryDirectory() as scratch:
        per_epoch = count_steps(len(rows), training.batch_size, 1) if best else None
        trainer = AnswerTrainer(
            model=trainable,
            args=build_arguments(
                training, len(steps), seed, scratch, per_epoch, keep is not None, name
            ),
            train_dataset=MicroBatches(rows, plan, collate),
            callbacks=callbacks,
            dev=[collate(held[at : at + 8]) for at in range(0, len(held), 8)] if best else [],
            keeps_logits=can_keep_logits(trainable),
        )
        trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
    if best:
        best.restore()
    if output:
        save_trained(trainer.model, output, model)
    return {
        "losses": [
            {"step": e["step"], "loss": e["loss"]} for e in trainer.state.log_history if "loss" in e
        ],
        "dev_losses": best.losses if best else [],
        "examples": len(rows),
        "tokens": sum(label != IGNORED for row in rows for label in row["labels"]),
        "steps": trainer.state.global_step,
        "packed": packed,
    }


def build_arguments(
    training: TrainingConfig,
    steps: int,
    seed: int,
    scratch: str,
    per_epoch: int | None,
    saves: bool,
    name: str,
) -> TrainingArguments:
    """The Trainer's arguments; `per_epoch` is the number of steps between evaluations, None for
    none.
    """
    import torch

    cuda = torch.cuda.is_available()
    # LoRA weights are float32 beside a base in model.dtype, which peft casts between; full weights
    # need autocast.
    mixed = training.method == "full"
    return TrainingArguments(
        output_dir=scratch,
        max_steps=steps,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=training.accumulation,
        learning_rate=training.learning_rate,
        lr_scheduler_type=training.schedule,
        # Rounded down: the first step of a warm-up has no learning rate, and tiny sets have no step
        # to spare.
        warmup_steps=int(training.warmup_fraction * steps),
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        gradient_checkpointing=training.gradient_checkpointing,
        bf16=mixed and has_bfloat16(),
        fp16=mixed and cuda and not has_bfloat16(),
        average_tokens_across_devices=True,
        ignore_data_skip=True,  # a resumed worker is given what is left
        eval_strategy="steps" if per_epoch else "no",
        eval_steps=per_epoch,
        save_strategy="steps" if saves else "no",
        save_steps=training.checkpoint_steps,
        save_total_limit=1,
        fsdp="full_shard auto_wrap" if training.sharding == "fsdp" else None,
        seed=seed,
        use_cpu=not cuda,
        logging_steps=1,
        report_to=list(training.trackers) or "none",
        run_name=name,
        disable_tqdm=True,
        remove_unused_columns=False,
        ddp_find_unused_parameters=False,
    )


def _base(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model
