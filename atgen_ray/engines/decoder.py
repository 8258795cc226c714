"""One batch of prompts decoded together with transformers, each with its own adapter, temperature and end.

Tokens are told as they come, so answers can be streamed and a batch can be interrupted between two steps. Rows that
have ended leave the batch.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

BASE = "__base__"  # what peft calls the model without an adapter


@dataclass(frozen=True)
class TokenRequest:
    """A prompt and how to continue it. `temperature` 0 is greedy; `adapter` None is the base model."""

    token_ids: Sequence[int]
    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    top_logprobs: int = 2
    adapter: str | None = None


@dataclass(frozen=True)
class TokenStep:
    """One generated token; natural logarithms, before any temperature. `finish` is set with the last one."""

    token: int
    logprob: float
    entropy: float
    top: list[tuple[int, float]] = field(default_factory=list)
    finish: str | None = None  # "stop" or "length"


def decode_batch(
    model: Any, requests: Sequence[TokenRequest], stop_ids: Sequence[int], alive: Callable[[int], bool]
) -> Iterator[dict[int, TokenStep]]:
    """The next token of every row that goes on, by the row's place in `requests`, until all have ended.

    Args:
        model: a causal language model in eval mode; a PeftModel where a request names an adapter.
        alive: whether anybody still wants row i; asked after every step.
    """
    import torch

    batch = _Batch(model, requests, stop_ids[0])
    generators = [torch.Generator().manual_seed(request.seed % 2**63) for request in requests]
    lengths = [0] * len(requests)
    while batch.rows:
        logprobs = batch.advance()
        entropies = torch.special.entr(logprobs.exp()).sum(-1)
        top = logprobs.topk(max(1, *(requests[row].top_logprobs for row in batch.rows)), dim=-1)
        steps: dict[int, TokenStep] = {}
        for place, row in enumerate(batch.rows):
            request = requests[row]
            token = _choose(logprobs[place], request, generators[row])
            lengths[row] += 1
            over = lengths[row] >= request.max_new_tokens
            finish = "stop" if token in stop_ids else "length" if over else None
            likeliest = zip(top.indices[place].tolist(), top.values[place].tolist(), strict=True)
            alternatives = list(likeliest)[: request.top_logprobs]
            chosen = float(logprobs[place, token])
            steps[row] = TokenStep(token, chosen, float(entropies[place]), alternatives, finish)
        yield steps
        batch.append({row: step.token for row, step in steps.items() if step.finish is None and alive(row)})


class _Batch:
    """What the model remembers of the rows that go on."""

    def __init__(self, model: Any, requests: Sequence[TokenRequest], padding: int) -> None:
        import torch
        from transformers import DynamicCache

        self.rows = list(range(len(requests)))
        self._model, self._adapters = model, [request.adapter or BASE for request in requests]
        self._device = next(model.parameters()).device
        width = max(len(request.token_ids) for request in requests)
        ids = torch.full((len(requests), width), padding)
        mask = torch.zeros_like(ids)
        for row, request in enumerate(requests):
            ids[row, width - len(request.token_ids) :] = torch.tensor(list(request.token_ids))
            mask[row, width - len(request.token_ids) :] = 1
        self._ids, self._mask = ids.to(self._device), mask.to(self._device)
        self._cache = DynamicCache(config=model.config)

    def advance(self) -> "torch.Tensor":
        """Log-probabilities of the next token, float32 (rows, vocabulary)."""
        import torch
        from peft import PeftModel

        positions = (self._mask.cumsum(-1) - 1).clamp(min=0)[:, -self._ids.shape[1] :]
        mixed = isinstance(self._model, PeftModel)
        named = {"adapter_names": [self._adapters[row] for row in self.rows]} if mixed else {}
        with torch.inference_mode():
            logits = self._model(
                input_ids=self._ids,
                attention_mask=self._mask,
                position_ids=positions,
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=1,
                **named,
            ).logits
            return torch.log_softmax(logits[:, -1].float(), -1).cpu()

    def append(self, tokens: dict[int, int]) -> None:
        """Goes on with `tokens` by row; the others leave."""
        import torch

        kept = [place for place, row in enumerate(self.rows) if row in tokens]
        if len(kept) < len(self.rows):
            index = torch.tensor(kept, dtype=torch.long, device=self._device)
            self.rows, self._mask = [self.rows[place] for place in kept], self._mask[index]
            if kept:
                self._cache.batch_select_indices(index)
        self._ids = torch.tensor([[tokens[row]] for row in self.rows], dtype=torch.long, device=self._device)
        self._mask = torch.cat([self._mask, torch.ones_like(self._mask[:, :1])], -1)


def _choose(logprobs: "torch.Tensor", request: TokenRequest, generator: "torch.Generator") -> int:
    import torch

    if request.temperature <= 0:
        return int(logprobs.argmax())
    probabilities = torch.softmax(logprobs / request.temperature, -1)
    if request.top_p < 1:
        ranked, order = probabilities.sort(descending=True)
        # The smallest set of tokens that holds top_p: those before which less than that has come.
        ranked[ranked.cumsum(-1) - ranked >= request.top_p] = 0
        return int(order[torch.multinomial(ranked, 1, generator=generator)])
    return int(torch.multinomial(probabilities, 1, generator=generator))
