"""Workers of Ray Data that ask for tokens elsewhere.

They ask replicas of the service, or the vLLM actors of a run. They encode prompts and decode
answers, so that the process with the model does neither.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

import pyarrow as pa

from atgen_ray.config import ModelConfig, PromptConfig
from atgen_ray.core.hashing import mix_seed
from atgen_ray.core.records import GenerationRequest
from atgen_ray.engines.base import OUTPUT_SCHEMA, TokenRequest, TokenStep
from atgen_ray.engines.output_rows import (
    Prompt,
    Row,
    encode_rows,
    generate_or_halve,
    output_row,
    scored_row,
)
from atgen_ray.models.loading import load_tokenizer
from atgen_ray.models.prompts import PromptBuilder

# Answers requests, each with the steps of its output, in their order.
Ask = Callable[[list[TokenRequest]], Sequence[Sequence[TokenStep]]]
Result = TypeVar("Result")


class TokenCaller:
    """Turns batches of rows into requests, and the tokens of the answers into output rows."""

    def __init__(
        self,
        model: ModelConfig,
        prompt: PromptConfig,
        request: GenerationRequest,
        adapter: str | None,
        connect: Callable[[], Ask],
    ) -> None:
        """`adapter` is the name that every request carries; `connect` is called once a process."""
        self._prompts = PromptBuilder(load_tokenizer(model), prompt, model.max_prompt_tokens)
        self._request = request
        self._adapter = adapter
        self._ask = connect()

    def __call__(self, batch: pa.Table) -> pa.Table:
        prompts, outputs = encode_rows(
            self._prompts, batch.to_pylist(), self._request.max_new_tokens
        )
        outputs += generate_or_halve(prompts, self._generate, _last_line)
        return pa.Table.from_pylist(outputs, schema=OUTPUT_SCHEMA)

    def _generate(self, prompts: list[Prompt]) -> list[Row]:
        answers = self._ask([self._build_request(prompt) for prompt in prompts])
        return [self._row(prompt, steps) for prompt, steps in zip(prompts, answers, strict=True)]

    def _build_request(self, prompt: Prompt) -> TokenRequest:
        request = self._request
        drawn = prompt.sample > 0
        return TokenRequest(
            prompt.token_ids,
            request.max_new_tokens,
            temperature=request.temperature if drawn else 0.0,
            top_p=request.top_p if drawn else 1.0,
            seed=mix_seed(request.seed, prompt.id, prompt.sample) % 2**31,
            top_logprobs=request.top_logprobs,
            adapter=self._adapter,
            answer_ids=prompt.answer_ids,
        )

    def _row(self, prompt: Prompt, steps: Sequence[TokenStep]) -> Row:
        tokens = [step.token for step in steps]
        if prompt.answer_ids:
            text = prompt.read_answer(self._prompts, prompt.answer_ids)
            return scored_row(prompt, text, [step.logprob for step in steps])
        return output_row(
            id=prompt.id,
            sample=prompt.sample,
            prompt_tokens=len(prompt.token_ids),
            text=prompt.read_answer(self._prompts, tokens),
            token_ids=tokens,
            logprobs=[step.logprob for step in steps],
            entropies=[step.entropy for step in steps],
            top_logprobs=[[logprob for _, logprob in step.top] for step in steps],
            finish_reason=steps[-1].finish or "length",
        )


async def gather_all(works: Sequence[Coroutine[Any, Any, Result]]) -> list[Result]:
    """Return the results in order. If one fails, or the caller is cancelled, the others are
    cancelled too.
    """
    tasks = [asyncio.create_task(work) for work in works]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


def _last_line(error: Exception) -> str:
    """Return the last line of an error, which is the one that names its cause."""
    return str(error).strip().rpartition("\n")[2] or type(error).__name__
