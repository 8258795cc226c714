"""Continuous batching with transformers: a batch of prompts is decoded together, each with its own
adapter, temperature and end.

Tokens are yielded after every step, so that answers can be streamed and a batch interrupted. Rows
that have ended leave the batch, and others may join it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from atgen_ray.engines.base import TokenRequest, TokenStep
from atgen_ray.engines.prompt_scores import BASE, score_prompt
from atgen_ray.engines.token_choice import TokenWriter

if TYPE_CHECKING:
    import torch


def pad_left(
    sequences: Sequence[Sequence[int]], filler: int
) -> tuple["torch.Tensor", "torch.Tensor"]:
    """Return token ids and attention mask of shape (B, T) with padding on the left.

    The mask goes by position, so `filler` may be any token.
    """
    import torch

    width = max(len(sequence) for sequence in sequences)
    ids = torch.full((len(sequences), width), filler)
    mask = torch.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        ids[row, width - len(sequence) :] = torch.tensor(list(sequence))
        mask[row, width - len(sequence) :] = 1
    return ids, mask


class Rows:
    """Left-padded rows with their key-value cache; `numbers` maps each row of the batch to its
    request.
    """

    def __init__(
        self,
        find_model: Callable[[], Any],
        requests: "Sequence[TokenRequest]",
        first: int,
        padding: int,
    ) -> None:
        from transformers import DynamicCache

        self.numbers = list(range(first, first + len(requests)))
        self._find_model = find_model
        model = find_model()
        self._adapters = [request.adapter or BASE for request in requests]
        self._device = next(model.parameters()).device
        ids, mask = pad_left([request.token_ids for request in requests], padding)
        self._ids = ids.to(self._device)
        self._mask = mask.to(self._device)
        self._cache = DynamicCache(config=model.config)

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def are_joinable(self) -> bool:
        """Return whether other rows may join: the caches of sliding windows and state spaces cannot
        be aligned.
        """
        from transformers.cache_utils import DynamicLayer

        return all(type(layer) is DynamicLayer for layer in self._cache.layers)

    def advance(self) -> "torch.Tensor":
        """Return the log-probabilities of the next token, float32 (rows, vocabulary)."""
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
        """Append `tokens` by request number; rows without a token leave the batch."""
        import torch

        kept = [place for place, number in enumerate(self.numbers) if number in tokens]
        if len(kept) < len(self.numbers):
            index = torch.tensor(kept, dtype=torch.long, device=self._device)
            self.numbers = [self.numbers[place] for place in kept]
            self._mask = self._mask[index]
            self._adapters = [self._adapters[place] for place in kept]
            if kept:
                self._cache.batch_select_indices(index)
        self._ids = torch.tensor(
            [[tokens[number]] for number in self.numbers], dtype=torch.long, device=self._device
        )
        self._mask = torch.cat([self._mask, torch.ones_like(self._mask[:, :1])], -1)

    def join(self, others: "Rows") -> None:
        """Take in the rows of `others`, which use the same model. The last token of both has not
        been through the model yet.
        """
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
        """Return the width of the longest row without padding."""
        return int(self._mask.sum(-1).max())

    def _fit(self, width: int) -> None:
        """Cut or add padding on the left, so that the mask is (rows, width), and keys and values
        (..., width - 1, size).
        """
        from torch.nn.functional import pad

        more = width - self._mask.shape[1]  # a negative one cuts
        self._mask = pad(self._mask, (more, 0))
        for layer in self._cache.layers:
            layer.keys = pad(layer.keys, (0, 0, more, 0))
            layer.values = pad(layer.values, (0, 0, more, 0))


def decode_batch(
    find_model: Callable[[], Any],
    requests: Sequence[TokenRequest],
    stop_ids: Sequence[int],
    alive: Callable[[int], bool],
    joining: Callable[[], Sequence[TokenRequest]] = tuple,
) -> Iterator[dict[int, TokenStep]]:
    """Yield the next token of every unfinished row, by the row's number among all requests, until
    all have ended.

    Args:
        find_model: returns a causal language model in eval mode, a PeftModel where a request names
            an adapter. It is called before every pass, because adapters may be loaded or unloaded
            between two of them.
        alive: returns whether row i is still wanted; called after every step.
        joining: returns further requests, which get the next numbers; called after every step while
            rows are unfinished.
    """

    def unfinished(steps: dict[int, TokenStep]) -> dict[int, int]:
        return {
            row: step.token for row, step in steps.items() if step.finish is None and alive(row)
        }

    def write(added: Sequence[TokenRequest]) -> list[TokenWriter]:
        return [
            TokenWriter(request, stop_ids, score_prompt(find_model, request)) for request in added
        ]

    writers = write(requests)
    rows = Rows(find_model, requests, 0, stop_ids[0])
    while len(rows):
        steps = _advance(rows, writers)
        yield steps
        rows.append(unfinished(steps))
        if not len(rows) or not rows.are_joinable or not (added := joining()):
            continue
        # New prompts need a pass of their own over all their tokens before they can join.
        fresh = Rows(find_model, added, len(writers), stop_ids[0])
        writers += write(added)
        steps = _advance(fresh, writers)
        yield steps
        fresh.append(unfinished(steps))
        rows.join(fresh)


def _advance(rows: Rows, writers: list[TokenWriter]) -> dict[int, TokenStep]:
    """Return the next token of every row by its request number."""
    import torch

    logprobs = rows.advance()
    entropies = torch.special.entr(logprobs.exp()).sum(-1).tolist()
    top = logprobs.topk(
        max(1, *(writers[row].request.top_logprobs for row in rows.numbers)), dim=-1
    )
    likeliest = zip(top.indices.tolist(), top.values.tolist(), strict=True)
    greedy = logprobs.argmax(-1).tolist()  # of equal ones the first, as transformers takes it
    return {
        row: writers[row].write(
            logprobs[place], greedy[place], entropies[place], list(zip(*ranked, strict=True))
        )
        for place, (row, ranked) in enumerate(zip(rows.numbers, likeliest, strict=True))
    }
