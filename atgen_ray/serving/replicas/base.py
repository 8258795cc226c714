"""Interface of a model replica, whichever engine it holds, and the replica that holds
transformers.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Any, Protocol, TypeVar

from atgen_ray.config import ServiceConfig
from atgen_ray.core.log_format import set_up_logs
from atgen_ray.engines.base import TokenRequest, TokenStep
from atgen_ray.models.loading import load_tokenizer
from atgen_ray.models.prompts import PromptBuilder
from atgen_ray.ray_runtime.hardware import count_threads
from atgen_ray.serving.errors import ApiError
from atgen_ray.serving.replicas.adapter_cache import AdapterCache
from atgen_ray.serving.replicas.adapter_directory import Adapter, AdapterDirectory
from atgen_ray.serving.replicas.batcher import Batcher, Job
from atgen_ray.serving.replicas.openai_responses import Answer, Choice
from atgen_ray.serving.replicas.token_requests import RequestBuilder
from atgen_ray.serving.schemas.chat import ChatBody
from atgen_ray.serving.schemas.openai import CompletionBody
from atgen_ray.store.journal import open_journal

Result = TypeVar("Result")

logger = logging.getLogger(__name__)


class Replica(Protocol):
    """Interface of the deployment `model`. All methods are called through a Serve handle."""

    def answer(self, body: ChatBody | CompletionBody) -> AsyncIterator[str | dict[str, Any]]:
        """Yield one dict, or server-sent events if `body.stream`.

        Raises:
            ApiError: the request is wrong, or names no model of this service.
        """
        ...

    async def answer_whole(self, body: ChatBody | CompletionBody) -> dict[str, Any]:
        """Return the one dict of `answer`; for Serve a call costs less than a stream of one
        item.
        """
        ...

    async def generate(
        self, requests: Sequence[TokenRequest], digest: str | None
    ) -> list[list[TokenStep]]:
        """Return the steps of each request of a run's batch, which yields to callers. All requests
        name the same adapter, whose digest is given.

        Raises:
            ApiError: 404 for an unknown adapter, 409 if its digest differs.
        """
        ...

    async def sleep(self, run: str) -> bool:
        """Free the device for the training of `run`; return False, with a line in the log, if the
        engine cannot.

        Callers wait until every such run has called `wake` or has lost its controller.
        """
        ...

    async def wake(self, run: str) -> None:
        """Take requests again; nothing happens unless the engine slept for `run`."""
        ...


def open_directory(service: ServiceConfig) -> AdapterDirectory:
    """Return the adapters of the service's model."""
    journal = open_journal(service.storage, service.database_url)
    return AdapterDirectory(service.target_model, service.model_name, service.storage, journal)


async def take_whole(answers: AsyncIterator[Any]) -> dict[str, Any]:
    """Return the one item of `answers`."""
    (answer,) = [item async for item in answers]
    whole: dict[str, Any] = answer
    return whole


def count_engine_threads(service: ServiceConfig) -> int:
    """Return the compute threads of vLLM or SGLang on this node's CPU.

    The API, the proxy and the workers of a run compute beside it. Without a core of their own they
    delay the engine's threads, which wait for each other in every layer.
    """
    return service.engine.threads_per_worker or max(1, count_threads(1, None) - 1)


def fingerprint(engine: str, adapter: Adapter | None) -> str:
    """Return the `system_fingerprint` of a response: the engine and the digest of the adapter's
    weights.
    """
    return f"{engine}-{adapter.digest[:16] if adapter else 'base'}"


async def find_named(directory: AdapterDirectory, model: str) -> Adapter | None:
    """Return the adapter that a model's name stands for; None: the base model."""
    if model == directory.base:
        return None
    return await asyncio.to_thread(directory.find_named, model)


def check_digest(adapter: Adapter | None, digest: str | None) -> None:
    """Raise ApiError 409 unless the adapter has the digest that the run expects."""
    if (adapter.digest if adapter else None) != digest:
        name = adapter.name if adapter else "the base model"
        raise ApiError(
            409,
            f"{name} here is not the one of the run: its storage and the service's are not the "
            f"same",
        )


class TokenReplica:
    """Base of replicas whose engine gives tokens: it speaks the OpenAI API around them."""

    engine_name: str
    scores_prompts = True  # whether the engine tells log-probabilities of a prompt's own tokens

    def __init__(self, service: ServiceConfig) -> None:
        set_up_logs()
        self._service = service
        self._model = service.target_model
        self._directory = open_directory(service)
        self._tokenizer: Any = load_tokenizer(self._model)
        self._prompts = PromptBuilder(
            self._tokenizer, service.prompt, self._model.max_prompt_tokens
        )
        self._builder = RequestBuilder(service, self._tokenizer, self.scores_prompts)
        self._meter = Meter()

    async def answer(self, body: ChatBody | CompletionBody) -> AsyncIterator[str | dict[str, Any]]:
        adapter = await find_named(self._directory, body.model)
        requests = await asyncio.to_thread(self._builder.build, body, _key(adapter))
        echo = isinstance(body, CompletionBody) and body.echo
        stop_ids = self._prompts.stop_ids
        choices = [
            Choice(
                index,
                len(request.token_ids),
                self._decode,
                body.stops,
                [] if body.ignore_eos else stop_ids,
                echo=request.token_ids if echo else (),
                bare=body.most_tokens == 0,
            )
            for index, request in enumerate(requests)
        ]
        answer = Answer(
            body,
            choices,
            fingerprint(self.engine_name, adapter),
            self._service.replica.stream_interval,
        )
        # Closing the merged steps at once frees the slots of a caller that left.
        async with aclosing(self._merge(requests, choices, adapter)) as events:
            if body.stream:
                async with aclosing(answer.stream(events)) as shown:
                    async for event in shown:
                        yield event
                return
            async for index, step in events:
                if choices[index].finish is None:
                    choices[index].add(step, look=False)
        yield answer.whole()

    async def answer_whole(self, body: ChatBody | CompletionBody) -> dict[str, Any]:
        return await take_whole(self.answer(body))

    async def _find(self, name: str | None) -> Adapter | None:
        return None if name is None else await asyncio.to_thread(self._directory.find, name)

    def _merge(
        self, requests: list[TokenRequest], choices: Sequence[Any], adapter: Adapter | None
    ) -> AsyncGenerator[tuple[int, TokenStep], None]:
        """Yield the steps of all requests as they come, each with the index of its request. A
        caller that leaves, or has its whole answer, frees its slots.
        """
        raise NotImplementedError

    def _decode(self, tokens: Sequence[int]) -> str:
        return str(
            self._tokenizer.decode(
                list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        )


class TransformersReplica(TokenReplica):
    """Replica with one copy of the model in transformers; a batch may mix adapters."""

    engine_name = "transformers"

    async def __init__(self, service: ServiceConfig) -> None:  # type: ignore[misc]
        super().__init__(service)
        stop_ids = self._prompts.stop_ids
        self._adapters = AdapterCache(service)
        self._batcher = Batcher(
            lambda requests, *hooks: self._adapters.decode(requests, stop_ids, *hooks),
            service.replica.count_slots("transformers"),
            self._adapters.load_model,
            asyncio.get_running_loop().call_soon_threadsafe,
        )

    async def generate(
        self, requests: Sequence[TokenRequest], digest: str | None
    ) -> list[list[TokenStep]]:
        adapter = await self._find(requests[0].adapter)
        check_digest(adapter, digest)
        named = [replace(request, adapter=_key(adapter)) for request in requests]
        rows = await asyncio.wrap_future(
            self._batcher.submit_batch(named, partial(self._adapters.load, adapter))
        )
        self._meter.count("run", sum(len(row) for row in rows), self._batcher.waiting)
        return rows

    async def sleep(self, run: str) -> bool:
        logger.warning(
            "the transformers engine cannot sleep: it keeps its memory while run '%s' trains", run
        )
        return False

    async def wake(self, run: str) -> None:
        """Do nothing: this engine never sleeps."""

    async def check_health(self) -> None:
        """Raise if the model could not be loaded or the engine hangs; Serve then replaces the
        replica.
        """
        if self._adapters.failure is not None:
            raise self._adapters.failure
        self._batcher.check(self._service.replica.stall_seconds)

    async def _merge(
        self, requests: list[TokenRequest], choices: Sequence[Any], adapter: Adapter | None
    ) -> AsyncGenerator[tuple[int, TokenStep], None]:
        news = asyncio.Queue[tuple[int, TokenStep | BaseException | None]]()

        def receiver(index: int) -> Any:
            return lambda step: news.put_nowait((index, step))

        jobs = [
            Job(request, receiver(index), partial(self._adapters.load, adapter))
            for index, request in enumerate(requests)
        ]
        try:
            for job in jobs:
                self._batcher.submit(job)
            left = len(jobs)
            while left:
                index, step = await news.get()
                if isinstance(step, BaseException):
                    raise step
                if step is None:  # the request has ended
                    left -= 1
                    continue
                yield index, step
                jobs[index].cancelled = choices[index].finish is not None
        finally:
            for job in jobs:
                job.cancelled = True
            self._meter.count(
                "callers", sum(len(choice.steps) for choice in choices), self._batcher.waiting
            )


def _key(adapter: Adapter | None) -> str | None:
    return adapter.key if adapter else None


class Meter:
    """Metrics of this replica for Prometheus (tokens, queue), through Ray's exporter on every
    node.
    """

    def __init__(self) -> None:
        from ray.util.metrics import Counter, Gauge

        self._tokens = Counter("atgen_generated_tokens", "Tokens generated", tag_keys=("traffic",))
        self._waiting = Gauge("atgen_waiting_prompts", "Prompts that wait in the replica")

    def count(self, traffic: str, tokens: int, waiting: int) -> None:
        """Count tokens generated for `callers` or for a `run`, and set the length of the queue."""
        if tokens:
            self._tokens.inc(tokens, {"traffic": traffic})
        self._waiting.set(waiting)
