"""A loss in which examples count unequally."""

from collections.abc import Mapping
from typing import Any

from transformers import Trainer

from atgen_ray.training.rows import IGNORED


class WeightedTrainer(Trainer):
    """Trainer whose loss is the mean over answer tokens, each as heavy as the `weight` of its example."""

    def compute_loss(
        self, model: Any, inputs: Mapping[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        import torch

        known = {name: value for name, value in inputs.items() if name not in ("weight", "labels")}
        outputs, labels = model(**known), inputs["labels"][:, 1:]
        logits = outputs.logits[:, :-1].float()
        losses = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none"
        )
        total = (losses.view_as(labels) * inputs["weight"][:, None]).sum()
        count = (labels != IGNORED).sum() if num_items_in_batch is None else num_items_in_batch
        # As Trainer does where tokens are counted over all devices: DDP averages what is to be a sum.
        loss = total / count * (1 if num_items_in_batch is None else self.accelerator.num_processes)
        return (loss, outputs) if return_outputs else loss
