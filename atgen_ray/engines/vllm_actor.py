"""Ray actors that hold vLLM engines for all steps of a run.

An engine takes seconds to start on a CPU and a minute or more on a GPU, and a round needs it three
times: for features, for the test set and for the dev split. So the actors stay. A new adapter
replaces the last one in the engine that runs.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal

from atgen_ray.config import EngineConfig, ModelConfig, PromptConfig
from atgen_ray.core.checkpoints import resolve_checkpoint
from atgen_ray.core.stored import Stored
from atgen_ray.engines.base import TokenRequest, TokenStep
from atgen_ray.engines.token_calls import Ask, gather_all
from atgen_ray.engines.vllm_tokens import complete
from atgen_ray.models.loading import load_tokenizer
from atgen_ray.models.prompts import PromptBuilder
from atgen_ray.ray_runtime.hardware import count_threads

DEAD = 1  # exit status of an actor whose engine has died


class VLLMActor:
    """One vLLM engine; an asynchronous Ray actor.

    Every call names its adapter. A call for another adapter than the engine has waits until the
    engine is idle, then the weights are exchanged. So an actor that Ray has started again needs
    nobody to tell it what its predecessor had.
    """

    def __init__(
        self,
        model: ModelConfig,
        prompt: PromptConfig,
        engine: EngineConfig,
        whole: Stored | None,
        arguments: dict[str, Any],
    ) -> None:
        """Start the engine with the base model, or with the `whole` model of a full fine-tuning.

        Weights and threads are those of this node. `arguments` are further ones of vLLM's
        `AsyncEngineArgs`.
        """
        # The engine's process takes the number from this one.
        threads = count_threads(engine.workers, engine.threads_per_worker)
        os.environ["OMP_NUM_THREADS"] = str(threads)
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        self._by_name = bool(arguments.get("enable_lora"))
        builder = PromptBuilder(load_tokenizer(model), prompt, model.max_prompt_tokens)
        self._stop_ids = builder.stop_ids
        source = resolve_checkpoint(model.id) if whole is None else str(whole.local())
        self._engine = AsyncLLM.from_engine_args(AsyncEngineArgs(model=source, **arguments))
        # What the weights have now; None: the base model alone. False: an exchange has failed.
        self._adapter: Stored | Literal[False] | None = None
        self._lora: Any = None  # vLLM's name of it, where adapters go by name
        self._loaded = 0  # adapters by name, so that no number is used twice
        self._active = 0  # calls that are being answered
        self._turn = asyncio.Condition()

    async def wait_ready(self) -> None:
        """Return once the engine has started."""

    async def count_active(self) -> int:
        """Return how many calls are being answered or wait."""
        return self._active

    async def generate(
        self, requests: Sequence[TokenRequest], adapter: Stored | None
    ) -> list[list[TokenStep]]:
        """Return the steps of each request by the model with `adapter`.

        Raises:
            RuntimeError: vLLM refused a prompt or failed on it.
        """
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            async with self._have(adapter):
                return await gather_all([self._complete(request) for request in requests])
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
    async def _have(self, adapter: Stored | None) -> AsyncIterator[None]:
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

    async def _exchange(self, adapter: Stored | None) -> None:
        """Put `adapter` in place of the one that the engine has."""
        folder = "" if adapter is None else str(await asyncio.to_thread(adapter.local))
        # Should loading fail half-way, the next call must not take the weights for good ones.
        self._adapter = False
        if self._by_name:
            await self._name(folder)
        else:
            await self._engine.collective_rpc("load_adapter", args=(folder,))
        await self._engine.reset_prefix_cache()
        self._adapter = adapter

    async def _name(self, folder: str) -> None:
        """Load the adapter in `folder` beside the base model, after unloading the last one."""
        from vllm.lora.request import LoRARequest

        if self._lora is not None:
            await self._engine.remove_lora(self._lora.lora_int_id)
            self._lora = None
        if folder:
            self._loaded += 1
            lora = LoRARequest(f"adapter-{self._loaded}", self._loaded, folder)
            await self._engine.add_lora(lora)
            self._lora = lora


def connect_actors(actors: Sequence[Any], adapter: Stored | None) -> Ask:
    """Return a function that asks that one of the actors which has the fewest calls to answer, for
    outputs of the model with `adapter`.
    """
    import ray

    def ask(requests: list[TokenRequest]) -> list[list[TokenStep]]:
        actor = actors[0]
        if len(actors) > 1:
            active = ray.get([each.count_active.remote() for each in actors])
            actor = actors[active.index(min(active))]
        steps: list[list[TokenStep]] = ray.get(actor.generate.remote(requests, adapter))
        return steps

    return ask
