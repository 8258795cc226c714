"""Check of a new adapter in a replica, before it answers anybody.

The training has left answers to a few prompts behind, with their true log-probabilities. The engine
answers the same prompts, and scores the training's answers where its own differ too soon. So
nothing is loaded but the adapter. Only where the training could leave nothing, as after QLoRA, or
where the engine seems wrong, transformers and peft load the base model and decide.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

import pyarrow as pa

from atgen_ray.config import ServiceConfig
from atgen_ray.engines.adapter_check import Effect, check_adapter
from atgen_ray.engines.adapter_probe import (
    FEWEST,
    PROBES,
    TOKENS,
    Answer,
    Probe,
    compare_answers,
    count_common,
)
from atgen_ray.engines.base import TokenRequest, TokenStep
from atgen_ray.engines.token_calls import gather_all
from atgen_ray.models.prompts import PromptBuilder
from atgen_ray.serving.replicas.adapter_directory import Adapter

PROBE_TOKENS = 8

Complete = Callable[[TokenRequest], Awaitable[list[TokenStep]]]

logger = logging.getLogger(__name__)


async def check_outputs(
    service: ServiceConfig, prompts: PromptBuilder, adapter: Adapter, complete: Complete
) -> None:
    """Compare the engine's outputs for a few prompts with those of transformers and peft.

    Args:
        complete: has the engine answer a request with the adapter, or score the answer in it.

    Raises:
        AdapterMismatchError: they are not those of the adapter.
    """
    rows = service.replica.check_rows
    if not rows:
        return
    probes = [probe for probe in adapter.probes if probe.prompt_ids and probe.token_ids][:rows]
    effect = await _ask_probes(probes, complete) if probes else None
    if effect is None or not effect.is_within(service.engine.adapter_tolerance):
        effect = await _ask_and_load(service, prompts, adapter, complete)
    logger.info("adapter %s is in place: %s", adapter.name, effect)


async def _ask_probes(probes: Sequence[Probe], complete: Complete) -> Effect:
    """Return the adapter's effect in the engine on what its training has answered."""

    async def answer(request: TokenRequest) -> Answer:
        return _split(await complete(request))

    answers = await gather_all([answer(TokenRequest(each.prompt_ids, TOKENS)) for each in probes])
    known = sum(len(probe.token_ids) for probe in probes)
    if count_common(probes, answers) < min(FEWEST, known):
        given = [TokenRequest(each.prompt_ids, 1, answer_ids=each.token_ids) for each in probes]
        answers = await gather_all([answer(request) for request in given])
    return compare_answers(probes, answers)


async def _ask_and_load(
    service: ServiceConfig, prompts: PromptBuilder, adapter: Adapter, complete: Complete
) -> Effect | None:
    """Return the adapter's effect on what the engine answers, by the base model loaded elsewhere.

    Raises:
        AdapterMismatchError: it is not that of the adapter.
    """
    texts = list(PROBES[:2])[: service.replica.check_rows]
    rows = []
    for text in texts:
        tokens, logprobs = _split(await complete(TokenRequest(prompts.encode(text), PROBE_TOKENS)))
        rows.append({"id": text, "error": None, "token_ids": tokens, "logprobs": logprobs})
    return await asyncio.to_thread(
        check_adapter,
        pa.table({"id": texts, "text": texts}),
        pa.Table.from_pylist(rows),
        service.target_model,
        service.prompt,
        service.engine,
        adapter.stored,
        len(texts),
    )


def _split(steps: Sequence[TokenStep]) -> Answer:
    return [step.token for step in steps], [step.logprob for step in steps]
