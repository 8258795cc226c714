"""One batch of prompts decoded together with transformers, each with its own adapter, temperature and end.

Tokens are told as they come, so answers can be streamed and a batch can be interrupted between two steps. Rows that
have ended leave the batch, and others may join it (continuous batching).
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from atgen_ray.engines.base import TokenRequest, TokenStep
from atgen_ray.engines.rows import Rows

if TYPE_CHECKING:
    import torch


def decode_batch(
    find_model: Callable[[], Any],
    requests: Sequence[TokenRequest],
    stop_ids: Sequence[int],
    alive: Callable[[int], bool],
    joining: Callable[[], Sequence[TokenRequest]] = tuple,
) -> Iterator[dict[int, TokenStep]]:
    """The next token of every row that goes on, by the row's place among all requests, until all have ended.

    Args:
        find_model: gives a causal language model in eval mode, a PeftModel where a request names an adapter. It is
            asked before every pass, as adapters may come beside the model and go between two of them.
        alive: whether anybody still wants row i; asked after every step.
        joining: further requests, which are numbered on; asked after every step while rows go on.
    """

    def going_on(steps: dict[int, TokenStep]) -> dict[int, int]:
        return {row: step.token for row, step in steps.items() if step.finish is None and alive(row)}

    writers = [_Writer(request, stop_ids) for request in requests]
    rows = Rows(find_model, requests, 0, stop_ids[0])
    while len(rows):
        steps = _advance(rows, writers)
        yield steps
        rows.append(going_on(steps))
        if not len(rows) or not rows.are_joinable or not (come := joining()):
            continue
        fresh = Rows(find_model, come, len(writers), stop_ids[0])
        writers += [_Writer(request, stop_ids) for request in come]
        steps = _advance(fresh, writers)
        yield steps
        fresh.append(going_on(steps))
        rows.join(fresh)


def _advance(rows: Rows, writers: "list[_Writer]") -> dict[int, TokenStep]:
    import torch

    logprobs = rows.advance()
    entropies = torch.special.entr(logprobs.exp()).sum(-1).tolist()
    top = logprobs.topk(max(1, *(writers[row].request.top_logprobs for row in rows.numbers)), dim=-1)
    likeliest = zip(top.indices.tolist(), top.values.tolist(), strict=True)
    greedy = logprobs.argmax(-1).tolist()  # of equal ones the first, as transformers takes it
    return {
        row: writers[row].write(logprobs[place], greedy[place], entropies[place], list(zip(*ranked, strict=True)))
        for place, (row, ranked) in enumerate(zip(rows.numbers, likeliest, strict=True))
    }


class _Writer:
    """Chooses the tokens of one request."""

    def __init__(self, request: TokenRequest, stop_ids: Sequence[int]) -> None:
        import torch

        self.request, self._stop_ids, self._length = request, stop_ids, 0
        self._generator = torch.Generator().manual_seed(request.seed % 2**63)

    def write(
        self, logprobs: "torch.Tensor", greedy: int, entropy: float, likeliest: list[tuple[int, float]]
    ) -> TokenStep:
        """The next token, out of log-probabilities (vocabulary,), of which `greedy` is the likeliest."""
        token = greedy if self.request.temperature <= 0 else self._draw(logprobs)
        self._length += 1
        over = self._length >= self.request.max_new_tokens
        finish = "stop" if token in self._stop_ids else "length" if over else None
        return TokenStep(token, float(logprobs[token]), entropy, likeliest[: self.request.top_logprobs], finish)

    def _draw(self, logprobs: "torch.Tensor") -> int:
        import torch

        probabilities = torch.softmax(logprobs / self.request.temperature, -1)
        if self.request.top_p >= 1:
            return int(torch.multinomial(probabilities, 1, generator=self._generator))
        ranked, order = probabilities.sort(descending=True)
        # The smallest set of tokens that holds top_p: those before which less than that has come.
        ranked[ranked.cumsum(-1) - ranked >= self.request.top_p] = 0
        return int(order[torch.multinomial(ranked, 1, generator=self._generator)])
