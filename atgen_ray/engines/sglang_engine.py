"""SGLang engine: servers that live as long as the process that asked for them, and workers of Ray
Data that send them prompts.

A server takes a minute to start and a tenth of a second to take an adapter, so its actor is kept
from step to step.
"""

import zlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any

from atgen_ray.config import EngineConfig, ModelConfig, PromptConfig, TrainingConfig
from atgen_ray.core.records import GenerationRequest
from atgen_ray.core.stored import Stored
from atgen_ray.engines.base import Engine, TokenRequest, TokenStep
from atgen_ray.engines.kept_actors import KeptActors
from atgen_ray.engines.sglang_server import SGLangServer
from atgen_ray.engines.sglang_settings import ServerSettings, count_context
from atgen_ray.engines.sglang_weights import LORA_RANK, Weights, choose_weights, read_rank
from atgen_ray.engines.token_calls import Ask, TokenCaller
from atgen_ray.models.loading import TUNED_DTYPE, load_tokenizer
from atgen_ray.models.prompts import PromptBuilder
from atgen_ray.ray_runtime.hardware import (
    Device,
    resolve_dtype,
    worker_environment,
)
from atgen_ray.ray_runtime.nodes import find_device
from atgen_ray.ray_runtime.workers import MAX_RESTARTS, map_batches

if TYPE_CHECKING:
    from ray.data import Dataset

# CPUs of an actor or a task that mostly waits. A server computes while a step of the run waits for
# it, and reserves no more: its actor stays while other steps need the CPUs.
LIGHT_CPUS = 0.1
CALLERS = 2  # for each server: one batch is answered while the next is prepared


class SGLangEngine(Engine):
    """Continuous batching in SGLang's own server, one for each of `engine.workers`."""

    name = "sglang"
    scores_answers = True

    def __init__(
        self,
        model: ModelConfig,
        prompt: PromptConfig,
        engine: EngineConfig,
        training: TrainingConfig | None = None,
        servers: KeptActors | None = None,
    ) -> None:
        """`training` is what the engine makes room for in `released`; `servers` are those of
        another engine, which this one shares.
        """
        self._model = model
        self._prompt = prompt
        self._engine = engine
        self._training = training
        self._servers = servers or KeptActors()

    def generate(
        self, rows: "Dataset", request: GenerationRequest, adapter: Stored | None
    ) -> "Dataset":
        weights = choose_weights(adapter, self._engine.adapters)
        servers = self.open_servers(weights)
        return map_batches(
            rows,
            TokenCaller,
            (
                self._model,
                self._prompt,
                request,
                None,
                partial(connect_servers, servers, weights),
            ),
            workers=CALLERS * len(servers),
            cpus=LIGHT_CPUS,
            gpus=0,
        )

    def open_servers(self, weights: Weights) -> list[Any]:
        """Return the actors of servers that answer and can hold `weights`, one for each worker.

        Raises:
            UserError: SGLang is not installed where an actor runs.
            SGLangError: a server cannot be started.
        """
        engine = self._engine
        gpus = self._servers.reserve(engine)
        device = find_device(gpus)
        dtype = _name_dtype(self._model, weights, device)
        settings = ServerSettings(
            model=self._model,
            dtype=dtype,
            slots=CALLERS * engine.batch_size,
            # An adapter is computed in float32 only: a server in another format never gets one.
            lora_rank=max(LORA_RANK, read_rank(weights)) if dtype == TUNED_DTYPE else 0,
            cuda=device.cuda,
            gpus=gpus,
            workers=engine.workers,
            threads=engine.threads_per_worker,
            options=engine.options,
        )
        return self._servers.have(settings, lambda: _start_servers(settings), serves)

    def released(self, run: str) -> AbstractContextManager[None]:
        """Let training have the GPUs: servers stay if Ray has room for it beside them, and end
        otherwise.
        """
        return self._servers.released(self._training)

    def close(self) -> None:
        """End the servers; the next pass starts others."""
        self._servers.close()


def connect_servers(servers: Sequence[Any], weights: Weights) -> Ask:
    """Return a function that asks one of the servers for outputs with `weights`."""
    import ray

    def ask(requests: list[TokenRequest]) -> list[list[TokenStep]]:
        # The same batch goes to the same server in every attempt, without a count that all share.
        place = zlib.crc32(repr(requests[0].token_ids).encode()) % len(servers)
        steps: list[list[TokenStep]] = ray.get(servers[place].generate.remote(requests, weights))
        return steps

    return ask


class ServerActor:
    """Ray actor that owns one server, which ends with it."""

    def __init__(self, settings: ServerSettings, stop_ids: list[int]) -> None:
        self._server = SGLangServer(settings, stop_ids)

    async def wait_ready(self) -> int | None:
        """Return the server's process id once it answers."""
        await self._server.start()
        return self._server.pid

    async def generate(
        self, requests: list[TokenRequest], weights: Weights
    ) -> list[list[TokenStep]]:
        """Return the steps of each request. The weights are those of a folder on this node."""
        return await self._server.generate(requests, weights)

    async def shut_down(self) -> None:
        """End the server."""
        await self._server.close()


def serves(held: ServerSettings, asked: ServerSettings) -> bool:
    """Return whether a server that was started with `held` does what one with `asked` would."""
    free = {"max_prompt_tokens", "max_new_tokens", "dtype", "host", "adapter"}
    same = ("dtype", "cuda", "gpus", "workers", "threads", "options")
    return (
        all(getattr(held, name) == getattr(asked, name) for name in same)
        and held.model.model_dump(exclude=free) == asked.model.model_dump(exclude=free)
        and count_context(held.model) >= count_context(asked.model)
        and held.lora_rank >= asked.lora_rank
    )


def _start_servers(settings: ServerSettings) -> list[Any]:
    """Return the actors of servers that start."""
    import ray

    model = settings.model
    builder = PromptBuilder(load_tokenizer(model), PromptConfig(), model.max_prompt_tokens)
    actor = ray.remote(ServerActor).options(
        num_cpus=LIGHT_CPUS,
        num_gpus=settings.gpus or None,
        max_restarts=MAX_RESTARTS,
        max_task_retries=MAX_RESTARTS,
        runtime_env={"env_vars": worker_environment(settings.threads)},
    )
    return [actor.remote(settings, builder.stop_ids) for _ in range(settings.workers)]


def _name_dtype(model: ModelConfig, weights: Weights, device: Device) -> str:
    """Return the number format to compute in: that of the model, or float32 for a tuned one."""
    asked = model.dtype if weights.how == "base" else TUNED_DTYPE
    return str(resolve_dtype(asked, device.bfloat16)).removeprefix("torch.")
