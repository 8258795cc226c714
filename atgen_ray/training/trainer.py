"""Trainer of transformers with our batches and our loss: the mean over the answer tokens of a step,
in nats.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from accelerate.utils import broadcast
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer, TrainerControl

from atgen_ray.training.batching import IGNORED, Batch, Row

Collate = Callable[[Sequence[Row]], Batch]
# Positions whose logits a model's forward pass can be asked for: those chosen, the last so many, or
# no choice.
Kept = Literal["chosen", "last", "all"]


class MicroBatches(Dataset):
    """The micro-batches of one worker, in the order of the steps."""

    def __init__(
        self, rows: Sequence[Row], plan: Sequence[Sequence[int]], collate: Collate
    ) -> None:
        self._rows = rows
        self._plan = plan
        self._collate = collate

    def __len__(self) -> int:
        return len(self._plan)

    def __getitem__(self, place: int) -> Batch:
        if chosen := self._plan[place]:
            return self._collate([self._rows[index] for index in chosen])
        # A worker without an example in this step must still take part in its collective calls:
        # give it a row whose tokens do not count.
        idle = self._rows[0]
        return self._collate([{**idle, "labels": [IGNORED] * len(idle["labels"])}])


class AnswerTrainer(Trainer):
    """Computes logits only where the next token is an answer's: the vocabulary is most of a small
    model.
    """

    def __init__(self, *, dev: Sequence[Batch], kept: Kept, **arguments: Any) -> None:
        super().__init__(eval_dataset=list(dev) or None, **arguments)
        self._dev = dev
        self._kept = kept
        self.control: TrainerControl
        # Divide the loss by the tokens of the whole step, over all workers and micro-batches.
        self.model_accepts_loss_kwargs = True
        self.loss_is_scaled_for_ga = True
        if self.is_fsdp_enabled:
            from torch.distributed.fsdp import MixedPrecisionPolicy

            # As with DDP autocast alone rounds; accelerate would also add up gradients in 16 bits.
            self.accelerator.state.fsdp_plugin.mixed_precision_policy = MixedPrecisionPolicy()

    def get_train_dataloader(self) -> DataLoader:
        """Return the micro-batches as they are: they are distributed already, and accelerate must
        not do it again.
        """
        return DataLoader(self.train_dataset, batch_size=None, shuffle=False)

    def compute_loss(
        self,
        model: Any,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        loss, count = sum_losses(model, inputs, self._kept)
        tokens = count if num_items_in_batch is None else num_items_in_batch
        # DDP averages the gradients of workers; the loss needs their sum.
        return loss * self.accelerator.num_processes / tokens

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Return the mean loss over the tokens of the dev answers; every worker computes all of
        them.
        """
        total = 0.0
        count = 0
        self.model.eval()
        with torch.no_grad():
            for batch in self._dev:
                with self.accelerator.autocast():
                    loss, tokens = sum_losses(self.model, self._prepare_inputs(batch), self._kept)
                total = total + float(loss)
                count = count + tokens
        self.model.train()
        # One loss for all: workers that rounded differently could disagree on when to stop.
        loss = broadcast(torch.tensor(total / max(1, count), device=self.args.device))
        metrics = {"eval_loss": float(loss)}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the weights of a checkpoint; those of a sharded model are in it already, in the
        file of FSDP.
        """
        if not self.is_fsdp_enabled:
            super().save_model(output_dir, _internal_call)


def sum_losses(model: Any, batch: Batch, kept: Kept) -> tuple[torch.Tensor, int]:
    """Return the weighted sum of the cross-entropies of the answer tokens in nats, and the number
    of tokens. `kept` is what `find_kept` returns for the model.
    """
    inputs = {name: value for name, value in batch.items() if name not in ("labels", "weights")}
    targets = torch.nn.functional.pad(batch["labels"][:, 1:], (0, 1), value=IGNORED)
    columns = (targets != IGNORED).any(dim=0).nonzero().squeeze(1)
    if not len(columns):
        # Keep one column, so that there is a graph to go backwards through; its target is ignored.
        columns = torch.zeros(1, dtype=torch.long, device=targets.device)
    if kept == "chosen":
        logits = model(**inputs, logits_to_keep=columns, use_cache=False).logits
    elif kept == "last":
        first = int(columns[0])
        count = targets.shape[1] - first
        logits = model(**inputs, logits_to_keep=count, use_cache=False).logits[:, columns - first]
    else:
        logits = model(**inputs, use_cache=False).logits[:, columns]
    targets = targets[:, columns]
    losses = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED, reduction="none"
    )
    if "weights" in batch:
        weights = torch.nn.functional.pad(batch["weights"][:, 1:], (0, 1))
        losses = losses * weights[:, columns].flatten()
    return losses.sum(), int((targets != IGNORED).sum())


def find_kept(model: Any, unsloth: bool = False) -> Kept:
    """Return for which positions alone the model can compute logits.

    `unsloth`: its forward pass takes a number of last positions; of chosen ones it takes no notice.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    if unsloth:
        return "last"
    return "chosen" if "logits_to_keep" in inspect.signature(base.forward).parameters else "all"
