"""Log-probabilities of tokens in the two forms of the OpenAI API."""

from collections.abc import Callable, Sequence
from typing import Any

from atgen_ray.engines.base import TokenStep

Decoder = Callable[[Sequence[int]], str]


def chat_logprobs(decode: Decoder, steps: Sequence[TokenStep]) -> dict[str, Any]:
    """Return the log-probabilities of a message's tokens."""

    def show(token: int, logprob: float) -> dict[str, Any]:
        text = decode([token])
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}

    content = []
    for step in steps:
        entry = show(step.token, step.logprob)
        entry["top_logprobs"] = [show(token, logprob) for token, logprob in step.top]
        content.append(entry)
    return {"content": content, "refusal": None}


def completion_logprobs(
    decode: Decoder, steps: Sequence[TokenStep], first: int | None, at: int
) -> dict[str, Any]:
    """Return the log-probabilities of a completion's tokens.

    Args:
        first: the first token of a prompt that is echoed, which has no probability; None: no echo.
        at: characters of the text before these tokens.
    """
    tokens = [*([] if first is None else [first]), *(step.token for step in steps)]
    texts = [decode([token]) for token in tokens]
    missing = [None] * (len(tokens) - len(steps))
    return {
        "tokens": texts,
        "token_logprobs": [*missing, *(step.logprob for step in steps)],
        "top_logprobs": [*missing, *(_best(decode, step) for step in steps)],
        "text_offset": [at + sum(map(len, texts[:index])) for index in range(len(texts))],
    }


def _best(decode: Decoder, step: TokenStep) -> dict[str, float]:
    """Return the alternatives by their texts. Of two tokens of one text, such as parts of a
    character, the likelier stays.
    """
    best: dict[str, float] = {}
    for token, logprob in step.top:
        best.setdefault(decode([token]), logprob)
    return best
