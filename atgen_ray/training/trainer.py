"""Trainer of transformers with our batches and our loss: the mean over the answer tokens of a step,
in nats.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer, TrainerControl

from atgen_ray.training.batching import IGNORED, Batch, Row

Collate = Callable[[Sequence[Row]], Batch]


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

    def __init__(self, *, dev: Sequence[Batch], keeps_logits: bool, **arguments: Any) -> None:
        super().__init__(eval_dataset=list(dev) or None, **arguments)
        self._dev = dev
        self._keeps_logits = keeps_logits
        self.control: TrainerControl
        # Divide the loss by the tokens of the whole step, over all workers and micro-batches.
        self.model_accepts_loss_kwargs = True
        self.loss_is_scaled_for_ga = True

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
        loss, count = sum_losses(model, inputs, self._keeps_logits)
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
                    loss, tokens = sum_losses(
                        self.model, self._prepare_inputs(batch), self._keeps_logits
                    )
                total = total + float(loss)
                count = count + tokens
        self.model.train()
        metrics = {"eval_loss": total / max(1, count)}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics


def sum_losses(model: Any, batch: Batch, keeps_logits: bool) -> tuple[torch.Tensor, int]:
    """Return the weighted sum of the cross-entropies of the answer tokens in nats, and the number
    of tokens.
    """
    inputs = {name: value for name, value in batch.items() if name not in ("labels", "weights")}
    targets = torch.nn.functional.pad(batch["labels"][:, 1:], (0, 1), value=IGNORED)
    columns = (targets != IGNORED).any(dim=0).nonzero().squeeze(1)
    if not len(columns):
        # Keep one column, so that there is a graph to go backwards through; its target is ignored.
        columns = torch.zeros(1, dtype=torch.long, device=targets.device)
    if keeps_logits:
        logits = model(**inputs, logits_to_keep=columns, use_cache=False).logits
    else:
        logits = model(**inputs, use_cache=False).logits[:, columns]
    kept = targets[:, columns]
    losses = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1).float(), kept.flatten(), ignore_index=IGNORED, reduction="none"
    )
    if "weights" in batch:
        weights = torch.nn.functional.pad(batch["weights"][:, 1:], (0, 1))
        losses = losses * weights[:, columns].flatten()
    return losses.sum(), int((kept != IGNORED).sum())


def can_keep_logits(model: Any) -> bool:
    """Return whether the model can compute the logits of selected positions alone."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return "logits_to_keep" in inspect.signature(base.forward).parameters
