"""Prompts and output rows, the same for every engine."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from atgen_ray.models.prompts import OverlongPromptError, PromptBuilder
from atgen_ray.text.conversation import read_conversation
from atgen_ray.text.tool_calls import normalise_calls

Row = dict[str, Any]

# vLLM reports at most this many alternatives a token unless told otherwise, and SGLang is asked for
# as many. No other token is likelier than the last of them, which bounds the entropy of the
# remaining probability from below; that bound is what is reported.
ENTROPY_ALTERNATIVES = 20


@dataclass(frozen=True)
class Prompt:
    """An encoded example; `sample` 0 is decoded greedily, others are drawn."""

    id: str
    sample: int
    token_ids: list[int]
    answer_ids: list[int] = field(default_factory=list)  # to be scored; empty: generate
    tools: tuple[str, ...] = ()  # names of those that the answer may call

    def read_answer(self, builder: PromptBuilder, token_ids: list[int]) -> str:
        """Return the answer in generated ids, with calls of the tools as canonical JSON."""
        text = builder.decode(token_ids)
        return normalise_calls(text, self.tools) if self.tools else text


def encode_rows(
    builder: PromptBuilder, rows: list[Row], max_answer_tokens: int
) -> tuple[list[Prompt], list[Row]]:
    """Return the prompts of `rows` (id, text, sample, and maybe the answer that is to be scored),
    and an output row with the reason for each that has no prompt.

    An answer is cut as in training, after `max_answer_tokens`; one less in a prompt that is cut.
    """
    prompts = []
    failed = []
    for row in rows:
        try:
            prompt = builder.encode(row["text"])
            answer: list[int] = []
            if row.get("answer") is not None:
                # An engine's context has room for the longest prompt and answer, and scoring takes
                # one more token.
                room = builder.max_prompt_tokens + max_answer_tokens - 1 - len(prompt)
                longest = max(1, min(room, max_answer_tokens))
                answer = builder.encode_answer(row["answer"], row["text"])[:longest]
            conversation = read_conversation(row["text"])
            tools = () if conversation is None else conversation.tool_names
            prompts.append(Prompt(row["id"], row["sample"], prompt, answer, tools))
        except OverlongPromptError as error:
            failed.append(failed_row(row["id"], row["sample"], str(error)))
    return prompts, failed


def output_row(
    *,
    id: str,
    sample: int,
    prompt_tokens: int,
    text: str,
    token_ids: list[int],
    logprobs: list[float],
    entropies: list[float],
    top_logprobs: list[list[float]],
    finish_reason: str,
) -> Row:
    """Return a row of OUTPUT_SCHEMA for one output of T tokens.

    Args:
        logprobs: log-probability of each token, in nats (T,).
        entropies: entropy of each step, in nats (T,).
        top_logprobs: the largest log-probabilities of each step (T, k).
        finish_reason: "stop" or "length".
    """
    return {
        "id": id,
        "sample": sample,
        "prompt_tokens": prompt_tokens,
        "text": text,
        "token_ids": token_ids,
        "logprobs": logprobs,
        "entropies": entropies,
        "top_logprobs": top_logprobs,
        "finish_reason": finish_reason,
        "error": None,
    }


def scored_row(prompt: Prompt, text: str, logprobs: list[float]) -> Row:
    """Return the output row of a given answer, with the log-probability of each token in nats."""
    return output_row(
        id=prompt.id,
        sample=prompt.sample,
        prompt_tokens=len(prompt.token_ids),
        text=text,
        token_ids=prompt.answer_ids,
        logprobs=logprobs,
        entropies=[],
        top_logprobs=[],
        finish_reason="stop",
    )


def failed_row(id_: str, sample: int, reason: str) -> Row:
    """Return an output row without output."""
    return {"id": id_, "sample": sample, "error": reason}


def generate_or_halve(
    prompts: list[Prompt],
    generate: Callable[[list[Prompt]], list[Row]],
    describe: Callable[[Exception], str] = str,
) -> list[Row]:
    """Return the output rows of `prompts`; halve a batch that fails until the prompt at fault is
    alone.

    A batch fails with a RuntimeError, for want of memory or because of one bad row. `describe`
        turns
    the error into the reason in that row.
    """
    if not prompts:
        return []
    try:
        return generate(prompts)
    except RuntimeError as error:
        if len(prompts) == 1:
            reason = f"generation failed: {describe(error)}"
            return [failed_row(prompts[0].id, prompts[0].sample, reason)]
    # Outside the handler, because the error's traceback keeps the tensors of the failed batch.
    half = len(prompts) // 2
    first = generate_or_halve(prompts[:half], generate, describe)
    return first + generate_or_halve(prompts[half:], generate, describe)


def summarize_step(
    alternatives: dict[int, float], token: int, top: int
) -> tuple[float, float, list[float]]:
    """Return the log-probability of the chosen token, the entropy in nats (a lower bound), and the
    `top` largest log-probabilities of one step.

    Args:
        alternatives: log-probabilities by token, in nats.
    """
    ranked = sorted(alternatives.values(), reverse=True)[: max(ENTROPY_ALTERNATIVES, top)]
    rest = max(0.0, 1.0 - sum(math.exp(value) for value in ranked))
    entropy = -sum(math.exp(value) * value for value in ranked) - rest * ranked[-1]
    return alternatives[token], entropy, ranked[:top]
