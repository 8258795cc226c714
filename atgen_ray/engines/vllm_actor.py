"""Ray actors that hold vLLM engines for all steps of a run.

An engine takes seconds to start on a CPU and a minute or more on a GPU, and a round needs it three
times: for features, for the test set and for the dev split. So the actors stay. A new adapter
replaces the last one in the engine that runs.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from atgen_ray.config import ModelConfig, PromptConfig
from atgen_ray.engines.base import TokenRequest, TokenStep
from atgen_ray.engines.token_calls import Ask
from atgen_ray.engines.vllm_tokens import complete
from atgen_ray.models.loading import load_tokenizer
from atgen_ray.models.prompts import PromptBuilder

DEAD = 1  # exit status of an actor whose engine has died


class VLLMActor:
    """One vLLM engine; an asynchronous Ray actor.

    Every request names its adapter. Requests for another adapter than the engine has wait until the
    engine is idle, then the weights are exchanged. So an actor that Ray has started again needs
    nobody to tell it what its predecessor had.
    """

    def __init__(self, model: ModelConfig, prompt: PromptConfig, arguments: dict[str, Any]) -> None:
        """Start the engine; `arguments` are those of vLLM's `AsyncEngineArgs`."""
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        self._by_name = bool(arguments.get("enable_lora"))
        builder = PromptBuilder(load_tokenizer(model), prompt, model.max_prompt_tokens)
        self._stop_ids = builder.stop_ids
        self._engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))
        self._adapter: str | None = None  # that the engine has now; None: the base model alone
        self._lora: Any = None  # vLLM's name of it, where adapters go by name
        self._loaded = 0  # adapters by name, so that no number is used twice
        self._active = 0  # calls that are being answered
        self._turn = asyncio.Condition()

    async def wait_ready(self) -> None:
        """Return once the engine has started."""

    async def count_active(self) -> int:
        """Return how many calls are being answered or wait."""
        return self._active

    async def generate(self, requests: Sequence[TokenRequest]) -> list[list[TokenStep]]:
        """Return the steps of each request; all of them name the same adapter.

        Raises:
            RuntimeError: vLLM refused a prompt or failed on it.
        """
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            async with self._have(requests[0].adapter):
                tasks = [asyncio.create_task(self._complete(request)) for request in requests]
                try:
                    return list(await asyncio.gather(*tasks))
                finally:
                    for task in tasks:
                        task.cancel()
        except EngineDeadError:
            # It never comes back. Ray starts another actor, and sends it these requests again.
            os._exit(DEAD)

    async def sleep(self) -> None:
        """Give the device's memory up, and keep the weights in the host's."""
        await self._engine.sleep(level=1)

    async def wake_up(self) -> None:
        """Take the device's memory again."""
        await self._engine.wake_up()

    async def shut_down(self) -> None:
        """End the engine and its processes."""
        self._engine.shutdown()

    async def _complete(self, request: TokenRequest) -> list[TokenStep]:
        def generate(prompt: Any, settings: Any, request_id: str) -> AsyncIterator[Any]:
            outputs: AsyncIterator[Any] = self._engine.generate(
                prompt, settings, request_id, lora_request=self._lora
            )
            return outputs

        return await complete(generate, request, self._stop_ids)

    @asynccontextmanager
    async def _have(self, adapter: str | None) -> AsyncIterator[None]:
        """Have the engine keep `adapter` during the block."""
        async with self._turn:
            await self._turn.wait_for(lambda: self._adapter == adapter or not self._active)
            # The lock is held while weights change, so nobody else comes in.
            if self._adapter != adapter:
                await self._exchange(adapter)
            self._active += 1
        try:
            yield
        finally:
            async with self._turn:
                self._active -= 1
                self._turn.notify_all()

    async def _exchange(self, adapter: str | None) -> None:
        """Put `adapter` in place of the one that the engine has."""
        # Should loading fail half-way, the next call must not take the weights for good ones.
        self._adapter = "unknown"
        if self._by_name:
            await self._name(adapter)
        else:
            await self._engine.collective_rpc("load_adapter", args=(adapter or "",))
        await self._engine.reset_prefix_cache()
        self._adapter = adapter

    async def _name(self, adapter: str | None) -> None:
        """Load `adapter` beside the base model, after unloading the last one."""
        from vllm.lora.request import LoRARequest

        if self._lora is not None:
            await self._engine.remove_lora(self._lora.lora_int_id)
            self._lora = None
        if adapter is not None:
            self._loaded += 1
            lora = LoRARequest(f"adapter-{self._loaded}", self._loaded, adapter)
            await self._engine.add_lora(lora)
            self._lora = lora


def connect_actors(actors: Sequence[Any]) -> Ask:
    """Return a function that asks that one of the actors which has the fewest calls to answer."""
    import ray

    def ask(requests: list[TokenRequest]) -> list[list[TokenStep]]:
        actor = actors[0]
        if len(actors) > 1:
            active = ray.get([each.count_active.remote() for each in actors])
            actor = actors[active.index(min(active))]
        steps: list[list[TokenStep]] = ray.get(actor.generate.remote(requests))
        return steps

    return ask
