"""Choice of the next token of one request: greedy or drawn, under the rules that the request
sets.
"""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from atgen_ray.engines.base import TokenRequest, TokenRules, TokenStep

if TYPE_CHECKING:
    import torch

NO_RULES = TokenRules()


class TokenWriter:
    """Chooses the tokens of one request."""

    def __init__(
        self, request: TokenRequest, stop_ids: Sequence[int], prompt: Sequence[TokenStep] = ()
    ) -> None:
        """Begin an output.

        Args:
            stop_ids: tokens at which the model ends.
            prompt: scores of the prompt's own tokens, which the first step hands on.
        """
        import torch

        self.request = request
        self._rules = request.rules or NO_RULES
        self._ends = [*stop_ids]
        self._stop_ids = {*([] if self._rules.ignore_eos else stop_ids), *self._rules.stop_ids}
        self._prompt = prompt
        self._length = 0
        self._seen = Counter[int]()
        self._follower = self._rules.grammar.start() if self._rules.grammar else None
        self._generator = torch.Generator().manual_seed(request.seed % 2**63)

    def write(
        self,
        logprobs: "torch.Tensor",
        greedy: int,
        entropy: float,
        likeliest: list[tuple[int, float]],
    ) -> TokenStep:
        """Return the next token, given log-probabilities (vocabulary,), of which `greedy` is the
        likeliest.
        """
        scores = logprobs
        if self.request.rules is not None:
            scores = self._apply_rules(logprobs.clone())
            greedy = int(scores.argmax())
        token = greedy if self.request.temperature <= 0 else self._draw(scores)
        self._length += 1
        self._seen[token] += 1
        complete = self._follower is not None and self._follower.accept(token)
        over = self._length >= self.request.max_new_tokens
        stopped = complete or token in self._stop_ids
        step = TokenStep(
            token,
            float(logprobs[token]),
            entropy,
            likeliest[: self.request.top_logprobs],
            "stop" if stopped else "length" if over else None,
            self._prompt,
        )
        self._prompt = ()
        return step

    def _apply_rules(self, scores: "torch.Tensor") -> "torch.Tensor":
        """Return the scores (vocabulary,) after penalties, biases and bans; they are changed."""
        import torch

        rules = self._rules
        for token, count in self._seen.items():
            scores[token] -= rules.frequency_penalty * count + rules.presence_penalty
        for token, bias in rules.logit_bias.items():
            scores[token] += bias
        if self._length < rules.min_tokens:
            scores[[*self._ends, *rules.stop_ids]] = -torch.inf
        if self._follower is not None:
            scores[~torch.from_numpy(self._follower.allowed(len(scores)))] = -torch.inf
        return scores

    def _draw(self, scores: "torch.Tensor") -> int:
        """Draw a token by temperature, top-k, min-p and top-p."""
        import torch

        rules = self._rules
        if 0 < rules.top_k < len(scores):
            scores = scores.masked_fill(scores < scores.topk(rules.top_k).values[-1], -torch.inf)
        probabilities = torch.softmax(scores / self.request.temperature, -1)
        if rules.min_p > 0:
            probabilities[probabilities < rules.min_p * probabilities.max()] = 0
        if self.request.top_p >= 1:
            return int(torch.multinomial(probabilities, 1, generator=self._generator))
        ranked, order = probabilities.sort(descending=True)
        # Keep the smallest set of tokens whose probabilities sum to top_p: a token stays if those
        # before it sum to less.
        ranked[ranked.cumsum(-1) - ranked >= self.request.top_p * ranked.sum()] = 0
        return int(order[torch.multinomial(ranked, 1, generator=self._generator)])
