"""Callbacks of a fine-tuning: progress, checkpoints, and early stopping on the dev loss."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from atgen_ray.core.records import Progress
from atgen_ray.training.methods import gather_trained

# Receives the steps done and, in the first worker, the folder of a checkpoint, which is deleted
# soon after the call.
CheckpointSink = Callable[[int, Path | None], None]
BEST = "best.safetensors"


class ProgressCallback(TrainerCallback):
    """Reports how many optimiser steps are done."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        self._progress(state.global_step, state.max_steps)
        return control


class BestWeights(TrainerCallback):
    """Keeps the weights of the lowest dev loss, and stops training after `patience` evaluations
    without a lower one.

    Attributes:
        losses: of the dev split, one an evaluation; the same in all workers.
        weights: as `gather_trained` returned them at the lowest loss.
    """

    def __init__(self, model: Any, patience: int, resumed: Path | None) -> None:
        self._model = model
        self._patience = patience
        self.losses: list[float] = []
        self.weights: dict[str, torch.Tensor] = {}
        if resumed is not None and (resumed / BEST).is_file():
            from safetensors.torch import load_file

            self.weights = load_file(resumed / BEST)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Restore the losses before a resumption from the log."""
        self.losses = [entry["eval_loss"] for entry in state.log_history if "eval_loss" in entry]

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: Any,
        **_: Any,
    ) -> TrainerControl:
        loss = metrics["eval_loss"]
        if not self.losses or loss < min(self.losses):
            self.weights = gather_trained(self._model)
        self.losses.append(loss)
        if len(self.losses) - 1 - self.losses.index(min(self.losses)) >= self._patience:
            control.should_training_stop = True
        return control

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if self.weights and state.is_world_process_zero:
            from safetensors.torch import save_file

            save_file(self.weights, find_checkpoint(args, state) / BEST)


class CheckpointCallback(TrainerCallback):
    """Hands every checkpoint to the sink that keeps it for a worker that resumes."""

    def __init__(self, keep: CheckpointSink) -> None:
        self._keep = keep

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        folder = find_checkpoint(args, state)
        self._keep(state.global_step, folder if folder.is_dir() else None)


def find_checkpoint(args: TrainingArguments, state: TrainerState) -> Path:
    """Return the folder of the checkpoint that was just written."""
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"
