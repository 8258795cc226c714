"""Requests to vLLM's own engine and the tokens of its answers, the same for replicas of the service
and for the actors of a run.
"""

import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Any

from atgen_ray.engines.base import TokenRequest, TokenStep
from atgen_ray.engines.output_rows import ENTROPY_ALTERNATIVES, summarize_step

# Called with a prompt, vLLM's SamplingParams and the id of the request.
GenerateTokens = Callable[[Any, Any, str], AsyncIterator[Any]]


async def complete(
    generate: GenerateTokens, request: TokenRequest, stop_ids: Sequence[int]
) -> list[TokenStep]:
    """Return the steps of one request from vLLM's engine.

    Raises:
        RuntimeError: vLLM refused the prompt or failed on it.
        vllm.v1.engine.exceptions.EngineDeadError: the engine's process is gone.
    """
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind
    from vllm.v1.engine.exceptions import EngineGenerateError

    # Entropy is estimated from the likeliest tokens, of which vLLM returns as many as asked for.
    settings = SamplingParams(
        max_tokens=request.max_new_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        seed=request.seed,
        logprobs=max(ENTROPY_ALTERNATIVES, request.top_logprobs),
        stop_token_ids=list(stop_ids),
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )
    if request.answer_ids:
        # vLLM always generates; the answer is the end of its prompt.
        settings = SamplingParams(
            max_tokens=1,
            temperature=0.0,
            prompt_logprobs=1,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
    prompt = {"prompt_token_ids": [*request.token_ids, *request.answer_ids]}
    try:
        (answer,) = [output async for output in generate(prompt, settings, uuid.uuid4().hex)]
    except (ValueError, EngineGenerateError) as error:
        raise RuntimeError(f"vLLM: {error}") from error
    if request.answer_ids:
        listed = answer.prompt_logprobs[-len(request.answer_ids) :]
        pairs = zip(request.answer_ids, listed, strict=True)
        return [TokenStep(token, values[token].logprob, 0.0) for token, values in pairs]
    return read_steps(answer.outputs[0], request.top_logprobs)


def read_steps(output: Any, top: int) -> list[TokenStep]:
    """Return the steps of vLLM's `CompletionOutput`, each with its `top` likeliest alternatives."""
    steps = []
    for token, alternatives in zip(output.token_ids, output.logprobs, strict=True):
        values = {each: value.logprob for each, value in alternatives.items()}
        logprob, entropy, _ = summarize_step(values, token, top)
        ranked = sorted(values.items(), key=lambda pair: -pair[1])
        steps.append(TokenStep(token, logprob, entropy, ranked[:top]))
    steps[-1] = replace(steps[-1], finish=output.finish_reason)
    return steps
