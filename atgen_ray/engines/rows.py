"""Prompts that one forward pass of transformers continues together, with the keys and values of what they hold."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from atgen_ray.engines.base import TokenRequest

BASE = "__base__"  # what peft calls the model without an adapter


class Rows:
    """Left-padded rows; `numbers` says which request each place of the batch belongs to."""

    def __init__(
        self, find_model: Callable[[], Any], requests: "Sequence[TokenRequest]", first: int, padding: int
    ) -> None:
        import torch
        from transformers import DynamicCache

        self.numbers = list(range(first, first + len(requests)))
        self._find_model = find_model
        model = find_model()
        self._adapters = [request.adapter or BASE for request in requests]
        self._device = next(model.parameters()).device
        width = max(len(request.token_ids) for request in requests)
        ids = torch.full((len(requests), width), padding)
        mask = torch.zeros_like(ids)
        for row, request in enumerate(requests):
            ids[row, width - len(request.token_ids) :] = torch.tensor(list(request.token_ids))
            mask[row, width - len(request.token_ids) :] = 1
        self._ids, self._mask = ids.to(self._device), mask.to(self._device)
        self._cache = DynamicCache(config=model.config)

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def are_joinable(self) -> bool:
        """Whether others may join: keys and values of a sliding window, or of a state space, have no common end."""
        from transformers.cache_utils import DynamicLayer

        return all(type(layer) is DynamicLayer for layer in self._cache.layers)

    def advance(self) -> "torch.Tensor":
        """Log-probabilities of the next token, float32 (rows, vocabulary)."""
        import torch
        from peft import PeftModel

        positions = (self._mask.cumsum(-1) - 1).clamp(min=0)[:, -self._ids.shape[1] :]
        model = self._find_model()
        named = {"adapter_names": self._adapters} if isinstance(model, PeftModel) else {}
        with torch.inference_mode():
            logits = model(
                input_ids=self._ids,
                attention_mask=self._mask,
                position_ids=positions,
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=1,
                **named,
            ).logits
            return torch.log_softmax(logits[:, -1].float(), -1).cpu()

    def append(self, tokens: Mapping[int, int]) -> None:
        """Goes on with `tokens` by number; the other rows leave."""
        import torch

        kept = [place for place, number in enumerate(self.numbers) if number in tokens]
        if len(kept) < len(self.numbers):
            index = torch.tensor(kept, dtype=torch.long, device=self._device)
            self.numbers, self._mask = [self.numbers[place] for place in kept], self._mask[index]
            self._adapters = [self._adapters[place] for place in kept]
            if kept:
                self._cache.batch_select_indices(index)
        self._ids = torch.tensor([[tokens[number]] for number in self.numbers], dtype=torch.long, device=self._device)
        self._mask = torch.cat([self._mask, torch.ones_like(self._mask[:, :1])], -1)

    def join(self, others: "Rows") -> None:
        """Takes in the rows of `others`, which has the same model; both have a token that no pass has read."""
        import torch

        if not len(others):
            return
        width = max(self._needed_width(), others._needed_width())
        for rows in (self, others):
            rows._fit(width)
        self.numbers += others.numbers
        self._adapters += others._adapters
        self._ids = torch.cat([self._ids, others._ids])
        self._mask = torch.cat([self._mask, others._mask])
        for mine, theirs in zip(self._cache.layers, others._cache.layers, strict=True):
            mine.keys = torch.cat([mine.keys, theirs.keys])
            mine.values = torch.cat([mine.values, theirs.values])

    def _needed_width(self) -> int:
        return int(self._mask.sum(-1).max())

    def _fit(self, width: int) -> None:
        """Cuts or adds padding on the left: the mask is (rows, width) then, keys and values (..., width - 1, size)."""
        from torch.nn.functional import pad

        more = width - self._mask.shape[1]  # a negative one cuts
        self._mask = pad(self._mask, (more, 0))
        for layer in self._cache.layers:
            layer.keys = pad(layer.keys, (0, 0, more, 0))
            layer.values = pad(layer.values, (0, 0, more, 0))
