"""Check of a new adapter in a replica, before it answers anybody."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

import pyarrow as pa

from atgen_ray.config import ServiceConfig
from atgen_ray.engines.adapter_check import check_adapter
from atgen_ray.engines.adapter_probe import PROBES
from atgen_ray.engines.base import TokenRequest, TokenStep
from atgen_ray.models.prompts import PromptBuilder
from atgen_ray.serving.replicas.adapter_directory import Adapter

PROBE_TOKENS = 8

logger = logging.getLogger(__name__)


async def check_outputs(
    service: ServiceConfig,
    prompts: PromptBuilder,
    adapter: Adapter,
    complete: Callable[[TokenRequest], Awaitable[list[TokenStep]]],
) -> None:
    """Compare the engine's outputs for a few prompts with those of transformers and peft.

    Args:
        complete: has the engine answer a request with the adapter.

    Raises:
        AdapterMismatchError: they are not those of the adapter.
    """
    texts = list(PROBES[:2])[: service.replica.check_rows]
    if not texts:
        return
    rows = []
    for text in texts:
        steps = await complete(TokenRequest(prompts.encode(text), PROBE_TOKENS))
        row = {
            "id": text,
            "error": None,
            "token_ids": [step.token for step in steps],
            "logprobs": [step.logprob for step in steps],
        }
        rows.append(row)
    effect = await asyncio.to_thread(
        check_adapter,
        pa.table({"id": texts, "text": texts}),
        pa.Table.from_pylist(rows),
        service.target_model,
        service.prompt,
        service.engine,
        adapter.stored,
        len(texts),
    )
    logger.info("adapter %s is in place: %s", adapter.name, effect)
