"""What every model replica can do, whichever engine is in it, and the replica that holds
transformers.
"""

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

from atgen_ray.config import ServiceConfig
from atgen_ray.engines.base import TokenRequest, TokenStep
from atgen_ray.models.loading import load_tokenizer
from atgen_ray.serving.errors import ApiError
from atgen_ray.serving.replicas.adapter_cache import AdapterCache
from atgen_ray.serving.replicas.adapter_directory import Adapter, AdapterDirectory
from atgen_ray.serving.replicas.batcher import Batcher, Job
from atgen_ray.serving.replicas.openai_responses import Answer, Choice
from atgen_ray.serving.schemas.openai import ChatBody, CompletionBody
from atgen_ray.store.journal import open_journal

logger = logging.getLogger(__name__)


class Replica(Protocol):
    """A deployment called `model`. Every method is called through a Serve handle."""

    def answer(self, body: ChatBody | CompletionBody) -> AsyncIterator[str | dict[str, Any]]:
        """One dict, or server-sent events where `body.stream`; faults come as Fault."""
        ...

    async def answer_whole(self, body: ChatBody | CompletionBody) -> dict[str, Any]:
        """The one dict of `answer`: a call with one reply costs Serve less than a stream of one."""
        ...

    async def generate(
        self, requests: Sequence[TokenRequest], digest: str | None
    ) -> list[list[TokenStep]]:
        """A batch of a run, which yields to callers. All requests name one adapter, whose digest is
        given.

        Raises:
            ApiError: 404 for an adapter that is not there, 409 when it is not the one with that
                digest.
        """
        ...

    async def sleep(self, run: str) -> bool:
        """Frees the device for the training of `run`; False, with a line in the log, where the
        engine cannot.

        Callers wait until every run has called `wake`, or has no controller any more.
        """
        ...

    async def wake(self, run: str) -> None:
        """Takes requests again; nothing happens unless it slept for `run`."""
        ...


def open_directory(service: ServiceConfig) -> AdapterDirectory:
    """The adapters of the service's model."""
    journal = open_journal(service.storage, service.database_url)
    return AdapterDirectory(service.taught, service.model_name, service.storage, journal)


async def take_whole(answers: AsyncIterator[Any]) -> dict[str, Any]:
    """The one item of `answers`."""
    (answer,) = [item async for item in answers]
    whole: dict[str, Any] = answer
    return whole


def fingerprint(engine: str, adapter: Adapter | None) -> str:
    """What an answer says about where it comes from: the digest is of the weights that were
    loaded.
    """
    return f"{engine}-{adapter.digest[:16] if adapter else 'base'}"


def check_digest(adapter: Adapter | None, digest: str | None) -> None:
    """Raises Fault 409 unless `adapter` is the one that was meant."""
    if (adapter.digest if adapter else None) != digest:
        name = adapter.name if adapter else "the base model"
        raise ApiError(
            409,
            f"{name} here is not the one of the run: its storage and the service's are not the "
            f"same",
        )


class TransformersReplica:
    """One copy of the model in transformers; adapters lie beside it, and one batch may hold
    several.
    """

    async def __init__(self, service: ServiceConfig) -> None:  # type: ignore[misc]
        from atgen_ray.models.prompts import PromptBuilder

        self._service = service
        self._model = service.taught
        self._directory = open_directory(service)
        self._tokenizer: Any = load_tokenizer(self._model)
        self._stop_ids = PromptBuilder(
            self._tokenizer, service.prompt, self._model.max_prompt_tokens
        ).stop_ids
        self._shelf = AdapterCache(service)
        self._batcher = Batcher(
            lambda requests, *hooks: self._shelf.decode(requests, self._stop_ids, *hooks),
            service.replica.count_slots("transformers"),
            self._shelf.load_model,
            asyncio.get_running_loop().call_soon_threadsafe,
        )
        self._meter = Meter()

    async def answer(self, body: ChatBody | CompletionBody) -> AsyncIterator[str | dict[str, Any]]:

        adapter = await self._find(self._directory.parse(body.model))
        prompts = (
            [self._encode_chat(body)] if isinstance(body, ChatBody) else self._encode_prompts(body)
        )
        requests = [
            request for prompt in prompts for request in self._requests(body, prompt, adapter)
        ]
        choices = [
            Choice(index, len(request.token_ids), self._decode, body.stops, self._stop_ids)
            for index, request in enumerate(requests)
        ]
        answer = Answer(
            body,
            choices,
            fingerprint("transformers", adapter),
            self._service.replica.stream_interval,
        )
        async with aclosing(
            self._merge(requests, choices, adapter)
        ) as events:  # who goes away is given up at once
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

    async def generate(
        self, requests: Sequence[TokenRequest], digest: str | None
    ) -> list[list[TokenStep]]:
        adapter = await self._find(requests[0].adapter)
        check_digest(adapter, digest)
        named = [replace(request, adapter=_key(adapter)) for request in requests]
        rows = await asyncio.wrap_future(
            self._batcher.submit_batch(named, partial(self._shelf.load, adapter))
        )
        self._meter.count("run", sum(len(row) for row in rows), self._batcher.waiting)
        return rows

    async def sleep(self, run: str) -> bool:
        logger.warning(
            "the transformers engine cannot sleep: it keeps its memory while run '%s' trains", run
        )
        return False

    async def wake(self, run: str) -> None:
        """It never sleeps."""

    async def check_health(self) -> None:
        """Serve replaces the replica when this raises."""
        if self._shelf.failure is not None:
            raise self._shelf.failure
        self._batcher.check(self._service.replica.stall_seconds)

    async def _find(self, name: str | None) -> Adapter | None:
        return None if name is None else await asyncio.to_thread(self._directory.find, name)

    async def _merge(
        self, requests: list[TokenRequest], choices: Sequence[Any], adapter: Adapter | None
    ) -> AsyncGenerator[tuple[int, TokenStep], None]:
        """The steps of all requests as they come. A caller who goes away, or has what it wants,
        frees its places.
        """
        news = asyncio.Queue[tuple[int, TokenStep | BaseException | None]]()

        def teller(index: int) -> Any:
            return lambda step: news.put_nowait((index, step))

        jobs = [
            Job(request, teller(index), partial(self._shelf.load, adapter))
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
                if step is None:
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

    def _requests(
        self, body: Any, prompt: list[int], adapter: Adapter | None
    ) -> list[TokenRequest]:
        limit = self._model.max_prompt_tokens + self._model.max_new_tokens
        asked = body.max_tokens or getattr(body, "max_completion_tokens", None)
        room = min(limit - len(prompt), self._service.limits.output_tokens)
        if room < 1 or (asked is not None and asked > room):
            raise ApiError(
                400,
                f"the prompt has {len(prompt)} tokens, which leaves room for {max(room, 0)} more",
            )
        seed = random.getrandbits(31) if body.seed is None else body.seed
        top = (body.top_logprobs if isinstance(body, ChatBody) else body.logprobs) or 0
        key = _key(adapter)
        return [
            TokenRequest(
                prompt, asked or room, body.temperature, body.top_p, seed + index, top, key
            )
            for index in range(body.n)
        ]

    def _encode_chat(self, body: ChatBody) -> list[int]:
        from jinja2 import TemplateError

        turns = [
            {
                "role": "system" if message.role == "developer" else message.role,
                "content": message.text,
            }
            for message in body.messages
        ]
        try:
            text = self._tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=True
            )
        except (TemplateError, ValueError) as error:
            raise ApiError(
                400, f"the model's chat template refuses these messages: {error}"
            ) from None
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def _encode_prompts(self, body: CompletionBody) -> list[list[int]]:
        prompts = [list(self._tokenizer.encode(prompt)) for prompt in body.prompts]
        if not all(prompts):
            raise ApiError(400, "prompt is empty, expected at least one token")
        return prompts

    def _decode(self, tokens: Sequence[int]) -> str:
        return str(
            self._tokenizer.decode(
                list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        )


def _key(adapter: Adapter | None) -> str | None:
    return adapter.key if adapter else None


class Meter:
    """Tokens and queue of this replica for Prometheus, through Ray's own exporter on every node."""

    def __init__(self) -> None:
        from ray.util.metrics import Counter, Gauge

        self._tokens = Counter("atgen_generated_tokens", "Tokens generated", tag_keys=("traffic",))
        self._waiting = Gauge("atgen_waiting_prompts", "Prompts that wait in the replica")

    def count(self, traffic: str, tokens: int, waiting: int) -> None:
        """Notes tokens generated for `callers` or for a `run`."""
        if tokens:
            self._tokens.inc(tokens, {"traffic": traffic})
        self._waiting.set(waiting)
