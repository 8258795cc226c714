"""What each Ray Train worker does: transformers' Trainer on its share of every batch."""

import json
import math
import tempfile
from pathlib import Path
from typing import Any

from transformers import (
    DataCollatorForSeq2Seq,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from atgen_ray.checkpoints import load_model, load_tokenizer
from atgen_ray.config import ModelConfig, PromptConfig, TrainingConfig
from atgen_ray.pool.prompts import PromptBuilder
from atgen_ray.records import Progress
from atgen_ray.training.rows import IGNORED, build_row
from atgen_ray.training.weighted_trainer import WeightedTrainer

SUMMARY = "training.json"  # travels with the adapter in its checkpoint


def train_worker(job: dict[str, Any]) -> None:
    """Fine-tunes as one of the workers of a Ray Train job; the first reports the adapter with a summary of it."""
    import ray.train

    context = ray.train.get_context()
    first = context.get_world_rank() == 0
    with tempfile.TemporaryDirectory() as folder:
        summary = fine_tune(**job, workers=context.get_world_size(), output=Path(folder) if first else None)
        metrics = {"steps": summary["steps"]}
        if first:
            (Path(folder) / SUMMARY).write_text(json.dumps(summary))
            ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))
        else:
            ray.train.report(metrics)


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
) -> dict[str, Any]:
    """Trains on this worker's share of every batch and returns the fields of `TrainingResult`.

    Args:
        examples: mappings with text, answer and weight.
        workers: processes in the torch process group, this one among them.
        output: folder for the adapter; None in all workers but the first.
    """
    import torch

    torch.set_num_threads(threads)
    seed %= 2**32  # what numpy takes
    set_seed(seed)
    tokenizer = load_tokenizer(model)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    builder = PromptBuilder(tokenizer, prompt, model.max_prompt_tokens)
    rows = [build_row(builder, example["text"], example["answer"], model.max_new_tokens) for example in examples]
    weights = [example.get("weight", 1.0) for example in examples]
    weighted = any(weight != 1.0 for weight in weights)
    weighed = [row | {"weight": weight} for row, weight in zip(rows, weights, strict=True)] if weighted else rows
    with tempfile.TemporaryDirectory() as scratch:
        trainer = (WeightedTrainer if weighted else Trainer)(
            model=add_adapter(load_model(model).train(), training, start_from),
            args=_arguments(training, len(rows), seed, workers, scratch),
            train_dataset=weighed,
            data_collator=DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=IGNORED, padding=True),
            callbacks=[ProgressCallback(progress)] if output else [],
        )
        trainer.train()
    if output:
        save_adapter(trainer.model, output, model.id)
    losses = [{"step": entry["step"], "loss": entry["loss"]} for entry in trainer.state.log_history if "loss" in entry]
    tokens = sum(label != IGNORED for row in rows for label in row["labels"])
    return {"losses": losses, "examples": len(rows), "tokens": tokens, "steps": trainer.state.global_step}


def add_adapter(model: Any, training: TrainingConfig, start_from: Path | None) -> Any:
    """`model` with a LoRA adapter to train (Hu et al. 2021, arXiv 2106.09685), new or continued."""
    from peft import LoraConfig, PeftModel, get_peft_model

    if training.gradient_checkpointing:
        model.enable_input_require_grads()
    if start_from is not None:
        return PeftModel.from_pretrained(model, str(start_from), is_trainable=True)
    config = LoraConfig(
        r=training.rank,
        lora_alpha=training.alpha,
        lora_dropout=training.dropout,
        target_modules=training.target_modules,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


def save_adapter(model: Any, folder: Path, base: str) -> None:
    """Writes the adapter as an ordinary peft folder that names its base by the configured id, not by a local path."""
    model.peft_config["default"].base_model_name_or_path = base
    model.save_pretrained(str(folder))
    (folder / "README.md").unlink(missing_ok=True)


def _arguments(training: TrainingConfig, rows: int, seed: int, workers: int, scratch: str) -> TrainingArguments:
    import torch

    steps = math.ceil(math.ceil(rows / training.batch_size) * training.epochs)

    return TrainingArguments(
        output_dir=scratch,
        num_train_epochs=training.epochs,
        per_device_train_batch_size=training.batch_size // (workers * training.accumulation),
        gradient_accumulation_steps=training.accumulation,
        learning_rate=training.learning_rate,
        lr_scheduler_type=training.schedule,
        # Rounded down: the first step of a warm-up has no learning rate, and tiny sets have no step to spare.
        warmup_steps=int(training.warmup_fraction * steps),
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        gradient_checkpointing=training.gradient_checkpointing,
        # One loss over all tokens of a batch, however it is split over workers and micro-batches.
        average_tokens_across_devices=True,
        seed=seed,
        use_cpu=not torch.cuda.is_available(),
        save_strategy="no",
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available(),
        remove_unused_columns=False,
        ddp_find_unused_parameters=False,
    )


class ProgressCallback(TrainerCallback):
    """Tells the run's controller how many optimiser steps are done."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        self._progress(state.global_step, state.max_steps)
        return control
