"""Requests to vLLM's own engine and the tokens of its answers, the same for replicas of the service
and for the actors of a run.
"""

import math
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Any

from atgen_ray.engines.base import TokenRequest, TokenStep

# vLLM reports at most this many alternatives a token unless told otherwise. No other token is
# likelier than the last of them, which bounds the entropy of the remaining probability from below;
# that bound is what is reported.
ENTROPY_ALTERNATIVES = 20

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
    prompt = {"prompt_token_ids": list(request.token_ids)}
    try:
        (answer,) = [output async for output in generate(prompt, settings, uuid.uuid4().hex)]
    except (ValueError, EngineGenerateError) as error:
        raise RuntimeError(f"vLLM: {error}") from error
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
