"""Replica with a server of SGLang, a child process that listens on this machine alone: callers
reach it through the service's tokens and admission only.

Adapters are taken by name, in float32 beside the base model, and one batch may mix them.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from ray import serve

from atgen_ray.config import ServiceConfig
from atgen_ray.engines.base import TokenRequest, TokenStep
from atgen_ray.engines.serve_engine import MODEL
from atgen_ray.engines.sglang_server import SGLangServer
from atgen_ray.engines.sglang_settings import ServerSettings
from atgen_ray.engines.sglang_weights import BASE, LORA_RANK, Weights, choose_weights
from atgen_ray.engines.token_calls import gather_all
from atgen_ray.models.loading import TUNED_DTYPE
from atgen_ray.ray_runtime.hardware import inspect_device, worker_environment
from atgen_ray.serving.errors import ApiError
from atgen_ray.serving.replicas.adapter_directory import Adapter
from atgen_ray.serving.replicas.adapter_probe import check_outputs
from atgen_ray.serving.replicas.admission import AdmissionQueue
from atgen_ray.serving.replicas.base import (
    TokenReplica,
    check_digest,
    count_engine_threads,
)
from atgen_ray.serving.replicas.health import HEALTH_CHECKS, Probe
from atgen_ray.serving.replicas.sleep import SleepCoordinator

logger = logging.getLogger(__name__)


def deploy_sglang(service: ServiceConfig) -> serve.Application:
    """Return the deployment `model` with a server of SGLang in each replica."""
    engine = service.engine
    return serve.deployment(
        SGLangReplica,
        name=MODEL,
        max_ongoing_requests=4 * service.replica.count_slots("sglang"),
        max_queued_requests=service.limits.queued_prompts,
        backpressure_config=service.limits.backpressure,
        ray_actor_options={
            "num_cpus": engine.cpus_per_worker,
            "num_gpus": engine.gpus_per_worker or 0,
            "runtime_env": {"env_vars": worker_environment(engine.threads_per_worker)},
        },
        **HEALTH_CHECKS,
    ).bind(service)


class SGLangReplica(TokenReplica):
    """Replica of the service with one server of SGLang; implements `Replica`."""

    engine_name = "sglang"
    scores_prompts = False

    async def __init__(self, service: ServiceConfig) -> None:  # type: ignore[misc]
        super().__init__(service)
        device = inspect_device()
        options = dict(service.engine.options)
        if device.cuda:
            options = {"enable_memory_saver": True} | options  # without it nothing sleeps
        self._can_sleep = device.cuda
        slots = service.replica.count_slots("sglang")
        self._server = SGLangServer(
            ServerSettings(
                service.target_model,
                # One set of weights serves the base model and the adapters beside it.
                TUNED_DTYPE,
                slots=slots,
                lora_rank=LORA_RANK,
                cuda=device.cuda,
                gpus=service.engine.gpus_per_worker or 0.0,
                threads=count_engine_threads(service),
                options=options,
            ),
            self._prompts.stop_ids,
        )
        self._admission = AdmissionQueue(slots)
        self._sleeper = SleepCoordinator(
            self._fall_asleep, self._wake_up, self._directory.has_live_controller
        )
        self._checked: set[str] = set()
        self._checking = asyncio.Lock()
        self._probe = Probe(self._server.probe)
        await self._server.start()

    async def generate(
        self, requests: Sequence[TokenRequest], digest: str | None
    ) -> list[list[TokenStep]]:
        """See `Replica.generate`."""
        adapter = await self._find(requests[0].adapter)
        check_digest(adapter, digest)

        async def answer(request: TokenRequest) -> list[TokenStep]:
            async with self._admission.enter(_key(adapter), interactive=False):
                return await self._complete(request, await self._prepare(adapter))

        rows = await gather_all([answer(request) for request in requests])
        self._meter.count("run", sum(map(len, rows)), self._admission.waiting)
        return rows

    async def sleep(self, run: str) -> bool:
        """See `Replica.sleep`."""
        if not self._can_sleep:
            logger.warning(
                "SGLang cannot sleep without a GPU: it keeps its memory while run '%s' trains", run
            )
            return False
        await self._sleeper.begin(run)
        return True

    async def wake(self, run: str) -> None:
        """See `Replica.wake`."""
        await self._sleeper.end(run)

    async def check_health(self) -> None:
        """Raise if the server ended too often or does not answer; Serve then replaces the
        replica.
        """
        if self._admission.is_open:  # it cannot answer while it sleeps
            self._probe.check(self._service.replica.stall_seconds)

    async def _fall_asleep(self) -> None:
        await self._admission.close()
        await self._server.sleep()

    async def _wake_up(self) -> None:
        await self._server.wake()
        self._admission.reopen()

    async def _merge(
        self, requests: list[TokenRequest], choices: Sequence[Any], adapter: Adapter | None
    ) -> AsyncGenerator[tuple[int, TokenStep], None]:
        news = asyncio.Queue[tuple[int, TokenStep | BaseException | None]]()

        async def follow(index: int, request: TokenRequest) -> None:
            """Put the steps of one request into the queue, and last None or the error."""
            ended: BaseException | None = None
            try:
                async with self._admission.enter(_key(adapter), interactive=True):
                    steps = self._server.stream(request, await self._prepare(adapter))
                    async with aclosing(steps):
                        async for step in steps:
                            news.put_nowait((index, step))
            except Exception as error:  # raised where the queue is read
                ended = error
            news.put_nowait((index, ended))

        tasks = [
            asyncio.create_task(follow(index, request)) for index, request in enumerate(requests)
        ]
        try:
            going = set(range(len(tasks)))
            while going:
                index, step = await news.get()
                if index not in going:  # steps that came before it was cancelled
                    continue
                if isinstance(step, BaseException):
                    raise step
                if step is not None:
                    yield index, step
                if step is None or choices[index].finish is not None:
                    going.remove(index)
                    tasks[index].cancel()  # a stop text ends it early; the server drops the request
        finally:
            for task in tasks:
                task.cancel()
            tokens = sum(len(choice.steps) for choice in choices)
            self._meter.count("callers", tokens, self._admission.waiting)

    async def _prepare(self, adapter: Adapter | None) -> Weights:
        """Return what to answer with; an adapter is checked first, once for each content."""
        if adapter is None:
            return BASE
        weights = choose_weights(adapter.stored, "name")
        if weights.how != "name":
            raise ApiError(
                400,
                f"{adapter.name} is no plain LoRA adapter, which is all that a replica with SGLang "
                f"takes: serve it with engine.backend vllm or transformers",
            )
        if adapter.digest not in self._checked:
            async with self._checking:
                if adapter.digest not in self._checked:
                    await check_outputs(
                        self._service,
                        self._prompts,
                        adapter,
                        lambda request: self._complete(request, weights),
                    )
                    self._checked.add(adapter.digest)
        return weights

    async def _complete(self, request: TokenRequest, weights: Weights) -> list[TokenStep]:
        (steps,) = await self._server.generate([request], weights)
        return steps


def _key(adapter: Adapter | None) -> str | None:
    return adapter.key if adapter else None
