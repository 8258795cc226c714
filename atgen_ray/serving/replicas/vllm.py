"""Replica with a vLLM engine, built on Ray's LLM layer, which does placement, tensor parallelism
and the OpenAI protocol.

This module adds:
- adapters from a run's folder (`dynamic_lora_loading_path` of Ray takes object stores only), either
  merged into reloaded float32 weights, or by name if the configuration says so;
- an admission queue that lets callers go before runs;
- the check that the engine's outputs are those of a new adapter.
"""

import asyncio
import logging
import os
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

from ray import serve
from ray.serve.llm import LLMConfig, build_llm_deployment
from ray.serve.llm.deployment import LLMServer

from atgen_ray.config import ServiceConfig
from atgen_ray.core.checkpoints import resolve_checkpoint
from atgen_ray.engines.base import TokenRequest, TokenStep
from atgen_ray.engines.serve_engine import MODEL
from atgen_ray.engines.token_calls import gather_all
from atgen_ray.engines.vllm_engine import VLLMEngine, read_rank, vllm_environment
from atgen_ray.engines.vllm_tokens import complete
from atgen_ray.models.loading import load_tokenizer
from atgen_ray.models.prompts import PromptBuilder
from atgen_ray.ray_runtime import private_api
from atgen_ray.ray_runtime.hardware import worker_environment
from atgen_ray.ray_runtime.nodes import find_device
from atgen_ray.serving.errors import ApiError
from atgen_ray.serving.replicas.adapter_directory import Adapter
from atgen_ray.serving.replicas.adapter_probe import check_outputs
from atgen_ray.serving.replicas.admission import AdmissionQueue
from atgen_ray.serving.replicas.base import (
    Meter,
    check_digest,
    count_engine_threads,
    find_named,
    fingerprint,
    open_directory,
    take_whole,
)
from atgen_ray.serving.replicas.health import HEALTH_CHECKS, Probe
from atgen_ray.serving.replicas.sleep import SleepCoordinator
from atgen_ray.serving.replicas.vllm_responses import VLLMAnswer
from atgen_ray.serving.schemas.chat import ChatBody
from atgen_ray.serving.schemas.openai import CompletionBody

Result = TypeVar("Result")

logger = logging.getLogger(__name__)

# A small model may put white space between two values of a schema until it has no tokens left.
COMPACT_JSON = {"backend": "guidance", "disable_any_whitespace": True}


def deploy_vllm(service: ServiceConfig) -> serve.Application:
    """Return the deployment `model` with a vLLM engine in each replica."""
    return build_llm_deployment(
        configure_vllm(service),
        bind_kwargs={"service": service},
        deployment_cls=VLLMReplica,
        override_serve_options={
            "name": MODEL,
            **HEALTH_CHECKS,
            "max_ongoing_requests": 4 * service.replica.count_slots("vllm"),
            "max_queued_requests": service.limits.queued_prompts,
            "backpressure_config": service.limits.backpressure,
        },
    )


def configure_vllm(service: ServiceConfig) -> LLMConfig:
    """Return Ray's configuration of the service's model."""
    engine = service.engine
    gpus = engine.gpus_per_worker or 0.0
    device = find_device(gpus)
    on_gpu = device.cuda
    # One set of weights serves the base model and the adapters; vLLM's LoRA kernels on a GPU have
    # no float32.
    tuned = not (takes_names(service) and on_gpu)
    arguments = VLLMEngine(service.target_model, service.prompt, engine).engine_arguments(
        device, gpus, tuned
    )
    arguments |= {
        "stream_interval": service.replica.stream_interval,
        "structured_outputs_config": COMPACT_JSON,
    }
    if takes_names(service):
        # One slot more than adapters: with no slot free, requests for the base model would get an
        # adapter's outputs.
        arguments |= {
            "enable_lora": True,
            "max_loras": service.replica.adapters + 1,
            "max_lora_rank": service.replica.rank,
        }
    else:
        arguments |= {"worker_extension_cls": "atgen_ray.engines.vllm_worker.AdapterWorker"}
    if on_gpu:
        arguments |= {
            "enable_sleep_mode": True,
            "disable_log_stats": False,
        }  # Ray exports its metrics
    worker = {"CPU": engine.cpus_per_worker}
    if gpus > 1:
        # Ray places every part of the model by itself, on one node or on several.
        arguments |= {"tensor_parallel_size": int(gpus)}
    if gpus:
        worker["GPU"] = min(gpus, 1.0)
    return LLMConfig(
        model_loading_config={
            "model_id": "base",
            "model_source": resolve_checkpoint(service.target_model.id),
        },
        engine_kwargs=arguments | engine.options,
        accelerator_config={"kind": "gpu" if on_gpu else "cpu"},
        placement_group_config={"bundle_per_worker": worker},
        deployment_config={"ray_actor_options": {"num_cpus": 0.1}},
        runtime_env={
            "env_vars": worker_environment(engine.threads_per_worker) | vllm_environment(on_gpu)
        },
        log_engine_metrics=on_gpu,
    )


def takes_names(service: ServiceConfig) -> bool:
    """Return whether adapters are loaded beside the base model by name, rather than merged into its
    weights.
    """
    return service.engine.adapters == "name"


class VLLMReplica(LLMServer):
    """Replica of the service with one vLLM engine; implements `Replica`."""

    _default_engine_cls = private_api.vllm_engine_class()

    async def __init__(self, llm_config: LLMConfig, service: ServiceConfig) -> None:  # type: ignore[misc]
        self._service = service
        self._directory = open_directory(service)
        self._by_name = takes_names(service)
        self._can_sleep = "enable_sleep_mode" in llm_config.engine_kwargs
        # vLLM's name of an adapter to ours, the longest unused first.
        self._named: OrderedDict[str, str] = OrderedDict()
        self._checked: set[str] = set()
        self._loading = asyncio.Lock()
        self._probe = Probe(self._ask_engine)
        self._tokenizer = load_tokenizer(service.target_model)
        self._prompts = PromptBuilder(
            self._tokenizer,
            service.prompt,
            service.target_model.max_prompt_tokens,
        )
        replica = service.replica
        change = None if self._by_name else self._change_weights
        self._admission = AdmissionQueue(replica.count_slots("vllm"), replica.turn_seconds, change)
        self._sleeper = SleepCoordinator(
            self._fall_asleep, self._wake_up, self._directory.has_live_controller
        )
        self._meter = Meter()
        # The engine's process takes the number from this one, whose node has the cores.
        os.environ["OMP_NUM_THREADS"] = str(count_engine_threads(service))
        await super().__init__(llm_config)

    async def answer(self, body: ChatBody | CompletionBody) -> AsyncIterator[str | dict[str, Any]]:
        """See `Replica.answer`."""
        adapter = await find_named(self._directory, body.model)
        asked = body.most_tokens
        if asked is not None and asked > self._service.limits.output_tokens:
            raise ApiError(
                400, f"max_tokens is {asked}, expected at most {self._service.limits.output_tokens}"
            )
        async with self._admission.enter(_key(adapter), interactive=True):
            served = await self._served_name(adapter)
            origin = fingerprint("vllm", adapter)
            tuned = adapter is not None
            answer = VLLMAnswer(body, served, origin, self._tokenizer, tuned)
            ask = self.engine.chat if isinstance(body, ChatBody) else self.engine.completions
            try:
                # Closing the stream makes vLLM drop the request of a caller that left.
                async with aclosing(ask(answer.request())) as items:
                    async for item in items:
                        if (shown := answer.show(item)) is not None:
                            yield shown
            finally:
                self._meter.count("callers", answer.tokens, self._admission.waiting)

    async def answer_whole(self, body: ChatBody | CompletionBody) -> dict[str, Any]:
        """See `Replica.answer_whole`."""
        return await take_whole(self.answer(body))

    async def generate(
        self, requests: Sequence[TokenRequest], digest: str | None
    ) -> list[list[TokenStep]]:
        """See `Replica.generate`."""
        adapter = await self._find(requests[0].adapter)
        check_digest(adapter, digest)

        async def one(request: TokenRequest) -> list[TokenStep]:
            async with self._admission.enter(_key(adapter), interactive=False):
                return await self._complete(request, await self._served_name(adapter))

        rows = await gather_all([one(request) for request in requests])
        self._meter.count("run", sum(map(len, rows)), self._admission.waiting)
        return rows

    async def check_health(self) -> None:
        """Raise if the engine is dead or does not answer the probe; Serve then replaces the
        replica.
        """
        await super().check_health()
        self._probe.check(self._service.replica.stall_seconds)

    async def sleep(self, run: str) -> bool:
        """See `Replica.sleep`; the weights are kept in the host's memory."""
        if not self._can_sleep:
            logger.warning(
                "vLLM cannot sleep without a GPU: it keeps its memory while run '%s' trains", run
            )
            return False
        await self._sleeper.begin(run)
        return True

    async def wake(self, run: str) -> None:
        """See `Replica.wake`."""
        await self._sleeper.end(run)

    async def _fall_asleep(self) -> None:
        await self._admission.close()
        await super().sleep()

    async def _wake_up(self) -> None:
        await self.wakeup()
        self._admission.reopen()

    async def _ask_engine(self) -> None:
        """Return once the engine is between two steps, or idle."""
        if self.engine is not None:
            await private_api.wait_for_engine(self.engine)

    async def _find(self, name: str | None) -> Adapter | None:
        return None if name is None else await asyncio.to_thread(self._directory.find, name)

    async def _served_name(self, adapter: Adapter | None) -> str:
        """Load the adapter if need be, and return vLLM's name of the model with it."""
        if adapter is None or not self._by_name:
            return "base"
        name = adapter.key
        while name not in self._named:
            # A caller that is cancelled here holds no lock. From here on loading is shielded:
            # otherwise vLLM could keep half an adapter under a name that we do not count.
            await self._loading.acquire()
            loading = asyncio.create_task(self._place_name(name, adapter))
            await asyncio.shield(loading)
        self._named.move_to_end(name)
        return name

    async def _place_name(self, name: str, adapter: Adapter) -> None:
        """Load and check the adapter. Called with the lock `_loading` held, which it releases."""
        try:
            if name not in self._named:
                await self._make_room()
                await self._load_name(name, adapter)
                try:
                    await self._check(adapter, name)
                # A cancellation too: vLLM must not keep an unchecked adapter under a name that we
                # do not count. The error is raised on.
                except BaseException:
                    await self._unload_name(name)
                    raise
                self._named[name] = adapter.name
        finally:
            self._loading.release()

    async def _load_name(self, name: str, adapter: Adapter) -> None:
        rank = read_rank(adapter.path)
        if rank > self._service.replica.rank:
            raise ApiError(
                409,
                f"adapter '{adapter.name}' has rank {rank}, and replica.rank of this service is "
                f"{self._service.replica.rank}",
            )
        await private_api.load_lora(self.engine, name, adapter.path)

    async def _make_room(self) -> None:
        while len(self._named) >= self._service.replica.adapters:
            name, _ = self._named.popitem(last=False)
            await self._unload_name(name)

    async def _unload_name(self, name: str) -> None:
        await private_api.unload_lora(self.engine, name)

    async def _change_weights(self, key: str | None) -> None:
        """Load the weights for a key of the admission queue; called while nobody is inside."""
        adapter = await self._find(key and key.partition("@")[0])
        await self.engine.collective_rpc(
            "load_adapter", args=(str(adapter.path) if adapter else "",)
        )
        await self.engine.reset_prefix_cache()
        if adapter is not None:
            await self._check(adapter, "base")

    async def _check(self, adapter: Adapter, served: str) -> None:
        """Raise AdapterMismatchError unless the engine's outputs for a few prompts are those of the
        adapter in transformers and peft.
        """
        # Once for each content: the reference needs a second copy of the model.
        if adapter.digest not in self._checked:
            await check_outputs(
                self._service,
                self._prompts,
                adapter,
                lambda request: self._complete(request, served),
            )
            self._checked.add(adapter.digest)

    async def _complete(self, request: TokenRequest, served: str) -> list[TokenStep]:
        """Return the steps of one request from the engine itself: the OpenAI layer would decode the
        alternatives of every token to text.

        Raises:
            RuntimeError: vLLM refused the prompt or failed on it.
        """

        def generate(prompt: Any, settings: Any, request_id: str) -> AsyncIterator[Any]:
            return private_api.generate_tokens(self.engine, prompt, settings, request_id, served)

        return await complete(generate, request, self._prompts.stop_ids)


def _key(adapter: Adapter | None) -> str | None:
    return adapter.key if adapter else None
