"""Upper bounds of what requests to a paid model can cost, sharpened by the answers so far.

- Prompt: the turns before the question are the same in many requests, and the provider splits each
  turn into tokens by itself. So one answer tells their tokens for all requests that share them, and
  only the question is left to bound: by the model's tokenizer where there is one, else by a token
  for every byte.
- Answer: a provider writes no more than a request allows. Where the longest answers do not fit in a
  budget, requests may allow less: a limit that about one answer in fifty reaches. An answer that
  reaches it is paid for and asked for again with the whole length.

Both hold for every single request, so money held by them is never exceeded by the bill, unless the
tokenizer is not the model's or the server ignores its limit. The first answer that shows this ends
the use of what it contradicts.
"""

import bisect
import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import lru_cache

from atgen_ray.annotation.llm.token_counter import CountTokens
from atgen_ray.annotation.request import AnnotationRequest, Key, Prompt, Turn
from atgen_ray.config.annotators.paid_models import RemoteAnnotatorConfig
from atgen_ray.config.prices import Price

TAIL = 0.02  # share of answers that may reach a shortened limit
FEW = 9  # answers from which on twice the longest is a limit, until the quantile can be told
FRAME = 256  # tokens that a chat template may add of its own
TURN = 16  # tokens around each turn
SCHEMA = 512  # tokens around a schema of answers
MERGED = 4  # tokens by which a question may differ inside a prompt from the question by itself

Shared = tuple[str, tuple[Turn, ...], str]  # the turns before the question, and the schema


class CostBounds:
    """Bounds for the requests of one annotator. Every request costs at most `worst`."""

    def __init__(
        self, config: RemoteAnnotatorConfig, price: Price, count: CountTokens | None
    ) -> None:
        """`count` is the model's own tokenizer; None where there is none."""
        self._price = price
        self._longest = config.max_output_tokens
        self._tokenizer = None if count is None else lru_cache(maxsize=65_536)(count)
        self._shared: dict[Shared, int] = {}  # tokens of all but the question
        self._lengths: list[int] = []  # of answers in tokens, sorted
        self._cut = set[Key]()  # questions of which it is known only that the answer is longer
        self._prompts_hold = True
        self._limits_hold = True

    def worst(self, request: AnnotationRequest) -> int:
        """Return the most that the request can cost, in billionths of a dollar."""
        return self._price.bound(
            self.bound_prompt(request.prompt), request.output_limit or self._longest
        )

    def bound_prompt(self, prompt: Prompt) -> int:
        """Return an upper bound of the prompt's tokens."""
        # Providers show the schema to the model.
        schema = len(str(prompt.schema)) * 2 + SCHEMA if prompt.schema else 0
        bound = prompt.tokens_at_most + schema
        if not self._prompts_hold:
            return bound
        question = prompt.turns[-1][1]
        measured = self._shared.get(_share(prompt))
        if measured is not None:
            return min(bound, measured + self._count_at_most(question))
        if self._tokenizer is None:
            return bound
        texts = [prompt.system, *(text for _, text in prompt.turns)]
        counted = sum(self._tokenizer(text) + TURN for text in texts) + FRAME + schema
        return min(bound, counted)

    def learn(
        self, request: AnnotationRequest, prompt_tokens: int, output_tokens: int, cut: bool = False
    ) -> None:
        """Learn from an answer that was billed so many tokens; `cut`: it reached a shortened limit
        and is asked for again.
        """
        if prompt_tokens > self.bound_prompt(request.prompt):
            self._prompts_hold = False
        if output_tokens > (request.output_limit or self._longest):
            self._limits_hold = False
        shared = _share(request.prompt)
        if self._tokenizer is None:
            # The question has tokens too, so each answer bounds what is shared from above.
            self._shared[shared] = min(prompt_tokens, self._shared.get(shared, prompt_tokens))
        else:
            rest = max(0, prompt_tokens - self._tokenizer(request.prompt.turns[-1][1]))
            self._shared[shared] = max(rest, self._shared.get(shared, 0))
        if cut:
            self._cut.add(request.key)
        else:
            self._cut.discard(request.key)
            bisect.insort(self._lengths, output_tokens)

    def learn_lengths(self, lengths: Iterable[int]) -> None:
        """Learn from the lengths of answers of earlier rounds, in tokens."""
        self._lengths = sorted([*self._lengths, *lengths])

    def shortener(self) -> Callable[[AnnotationRequest], AnnotationRequest] | None:
        """Return what makes a request cheaper by a shorter answer, but for one whose answer was cut
        before; None where nothing does.
        """
        limit = self.find_limit()
        if limit is None:
            return None
        return lambda request: (
            request if request.key in self._cut else replace(request, output_limit=limit)
        )

    def find_limit(self) -> int | None:
        """Return a limit that one in fifty answers reaches, or None where too few are known or
        none below the longest answer.

        The limit is the order statistic by which the next answer, exchangeable with those so far,
        is longer with a probability of at most `TAIL` (conformal prediction: Vovk et al., 2005).
        With fewer answers than that takes, it is twice the longest.
        """
        known = len(self._lengths)
        answers = known + len(self._cut)  # those that were cut are the longest
        rank = math.ceil((answers + 1) * (1 - TAIL))
        if not self._limits_hold or answers < FEW:
            return None
        if rank <= known:
            limit = self._lengths[rank - 1]
        elif rank > answers and not self._cut:
            limit = 2 * self._lengths[-1]
        else:
            return None
        # An answer as long as the limit would count as cut.
        return limit + 1 if limit + 1 < self._longest else None

    def _count_at_most(self, text: str) -> int:
        return len(text.encode()) if self._tokenizer is None else self._tokenizer(text) + MERGED


def _share(prompt: Prompt) -> Shared:
    return prompt.system, prompt.turns[:-1], str(prompt.schema)
