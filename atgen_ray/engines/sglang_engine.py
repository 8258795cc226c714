"""SGLang engine: servers that live as long as the process that asked for them, and workers of Ray
Data that send them prompts.

A server takes a minute to start and a tenth of a second to take an adapter. So servers are actors
that a process (the controller of a run) keeps from step to step. Those on GPUs are ended when
something else of that process asks for GPUs, as a training.
"""

import logging
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from threading import RLock
from typing import TYPE_CHECKING, Any

from atgen_ray.config import EngineConfig, ModelConfig, PromptConfig
from atgen_ray.core.records import GenerationRequest
from atgen_ray.core.stored import Stored
from atgen_ray.engines.base import Engine, TokenRequest, TokenStep
from atgen_ray.engines.sglang_server import ServerSettings, SGLangServer, count_context
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
from atgen_ray.ray_runtime.placement import fit_gpus, free_when_wanted
from atgen_ray.ray_runtime.workers import MAX_RESTARTS, map_batches

if TYPE_CHECKING:
    from ray.data import Dataset

# CPUs of an actor or a task that mostly waits. A server computes while a step of the run waits for
# it, and reserves no more: its actor stays while other steps need the CPUs.
LIGHT_CPUS = 0.1
CALLERS = 2  # for each server: one batch is answered while the next is prepared
CLOSE_SECONDS = 30.0

logger = logging.getLogger(__name__)


class SGLangEngine(Engine):
    """Continuous batching in SGLang's own server, one for each of `engine.workers`."""

    name = "sglang"

    def __init__(self, model: ModelConfig, prompt: PromptConfig, engine: EngineConfig) -> None:
        self._model = model
        self._prompt = prompt
        self._engine = engine

    def generate(
        self, rows: "Dataset", request: GenerationRequest, adapter: Stored | None
    ) -> "Dataset":
        weights = choose_weights(adapter, self._engine.adapters)
        servers = _SERVERS.open(self._model, self._engine, weights)
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

    @contextmanager
    def released(self, run: str) -> Iterator[None]:
        """End the servers that hold a GPU; the next step starts others."""
        _SERVERS.free_gpus()
        yield

    def close(self) -> None:
        """End the servers of this process; the next pass starts others."""
        _SERVERS.close()


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

    async def start(self) -> int | None:
        """Return the server's process id once it answers."""
        await self._server.start()
        return self._server.pid

    async def generate(
        self, requests: list[TokenRequest], weights: Weights
    ) -> list[list[TokenStep]]:
        """Return the steps of each request. The weights are those of a folder on this node."""
        return await self._server.generate(requests, weights)

    async def close(self) -> None:
        """End the server."""
        await self._server.close()


@dataclass(frozen=True)
class OpenServers:
    """Servers that run: what they were started with, and their actors."""

    cluster: str
    engine: EngineConfig
    settings: ServerSettings
    device: Device
    actors: list[Any]

    def serve(
        self, cluster: str, model: ModelConfig, engine: EngineConfig, weights: Weights
    ) -> bool:
        """Return whether they can answer with `weights` of `model`."""
        held = self.settings.model
        free = {"max_prompt_tokens", "max_new_tokens", "dtype", "host"}
        fixed = {"workers", "gpus_per_worker", "threads_per_worker", "options"}
        return (
            self.cluster == cluster
            and self.engine.model_dump(include=fixed) == engine.model_dump(include=fixed)
            and held.model_dump(exclude=free) == model.model_dump(exclude=free)
            and count_context(held) >= count_context(model)
            and self.settings.dtype == _name_dtype(model, weights, self.device)
            and self.settings.lora_rank >= read_rank(weights)
        )


class ServerSet:
    """The servers of this process, all of one model in one number format. Safe to use from
    threads.
    """

    def __init__(self) -> None:
        self._lock = RLock()  # `open` may ask for GPUs, which calls `free_gpus`
        self._open: OpenServers | None = None

    def open(self, model: ModelConfig, engine: EngineConfig, weights: Weights) -> list[Any]:
        """Return the actors of servers that answer and can hold `weights`, one for each worker.

        Servers that cannot are ended first: memory may not suffice for two models.

        Raises:
            UserError: SGLang is not installed where an actor runs.
            SGLangError: a server cannot be started.
        """
        import ray
        from ray.exceptions import RayActorError

        cluster = str(ray.get_runtime_context().get_node_id())  # another one after a restart of Ray
        with self._lock:
            if self._open is not None and self._open.serve(cluster, model, engine, weights):
                try:
                    ray.get([actor.start.remote() for actor in self._open.actors])
                    return self._open.actors
                except RayActorError as error:  # it died more often than Ray restarts it
                    logger.warning("SGLang's servers are started again: %s", error)
            self._close(cluster)
            self._open = _start_servers(cluster, model, engine, weights)
            ray.get([actor.start.remote() for actor in self._open.actors])
            return self._open.actors

    def close(self) -> None:
        """End the servers."""
        import ray

        with self._lock:
            if self._open is not None and ray.is_initialized():
                self._close(str(ray.get_runtime_context().get_node_id()))
            self._open = None

    def free_gpus(self) -> None:
        """End the servers if they hold GPUs."""
        import ray

        with self._lock:
            if self._open is not None and self._open.settings.gpus:
                self._close(str(ray.get_runtime_context().get_node_id()))

    def _close(self, cluster: str) -> None:
        """End the servers, unless they have ended with their cluster."""
        import ray
        from ray.exceptions import RayError

        servers = self._open
        self._open = None
        for actor in servers.actors if servers is not None and servers.cluster == cluster else []:
            with suppress(RayError):  # it is dead, or hangs
                ray.get(actor.close.remote(), timeout=CLOSE_SECONDS)
            ray.kill(actor)


def _start_servers(
    cluster: str, model: ModelConfig, engine: EngineConfig, weights: Weights
) -> OpenServers:
    """Return the actors of new servers, which may not answer yet."""
    import ray

    gpus = fit_gpus("engine.gpus_per_worker", engine.workers, engine.count_gpus())
    device = find_device(gpus)
    dtype = _name_dtype(model, weights, device)
    settings = ServerSettings(
        model=model,
        dtype=dtype,
        slots=CALLERS * engine.batch_size,
        # An adapter is computed in float32 only, so a server in another format never gets one.
        lora_rank=max(LORA_RANK, read_rank(weights)) if dtype == TUNED_DTYPE else 0,
        cuda=device.cuda,
        gpus=gpus,
        workers=engine.workers,
        threads=engine.threads_per_worker,
        options=engine.options,
    )
    builder = PromptBuilder(load_tokenizer(model), PromptConfig(), model.max_prompt_tokens)
    actor = ray.remote(ServerActor).options(
        num_cpus=LIGHT_CPUS,
        num_gpus=gpus or None,
        max_restarts=MAX_RESTARTS,
        max_task_retries=MAX_RESTARTS,
        runtime_env={"env_vars": worker_environment(engine.threads_per_worker)},
    )
    actors = [actor.remote(settings, builder.stop_ids) for _ in range(engine.workers)]
    return OpenServers(cluster, engine, settings, device, actors)


def _name_dtype(model: ModelConfig, weights: Weights, device: Device) -> str:
    """Return the number format to compute in: that of the model, or float32 for a tuned one."""
    asked = model.dtype if weights.how == "base" else TUNED_DTYPE
    return str(resolve_dtype(asked, device.bfloat16)).removeprefix("torch.")


_SERVERS = ServerSet()
free_when_wanted(_SERVERS.free_gpus)
