"""Callers who go away, at every stage, of a real transformers replica and of the whole service over
HTTP.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from helpers.services import Service, bearer, continue_greedily
from transformers import AutoTokenizer

from atgen_ray.config import ServiceConfig
from atgen_ray.engines.base import TokenRequest
from atgen_ray.models.loading import digest_adapter
from atgen_ray.serving.replicas.base import TransformersReplica
from atgen_ray.serving.schemas.chat import ChatBody
from atgen_ray.serving.schemas.openai import CompletionBody

LIMIT = 60.0
LONG = 380  # tokens
PROMPT = "Sort: red blue green"


def write_chat(model: str = "tiny", tokens: int = LONG, stream: bool = True) -> ChatBody:
    turns: Any = [{"role": "user", "content": "Count."}]
    return ChatBody(model=model, messages=turns, temperature=0, max_tokens=tokens, stream=stream)


def play(arguments: dict[str, Any], story: Callable[[TransformersReplica], Awaitable[Any]]) -> Any:
    """Calls a replica as Serve does, in one event loop, without Serve."""

    async def scene() -> Any:
        replica = TransformersReplica.__new__(TransformersReplica)
        settings = {"slots": 6, "adapters": 1, "stream_interval": 1}
        await TransformersReplica.__init__(
            replica, ServiceConfig(**arguments | {"replica": settings})
        )
        return await asyncio.wait_for(story(replica), LIMIT)

    return asyncio.run(scene())


async def wait_until_idle(replica: TransformersReplica) -> None:
    """Long before the answers that were left would have ended."""
    while replica._batcher._busy_since is not None or replica._batcher.waiting:
        await asyncio.sleep(0.005)


def test_callers_who_leave_at_any_stage_stop_the_decoding_and_nothing_else(
    arguments: dict[str, Any], storage: Path, tiny_model: str
) -> None:
    digest = digest_adapter(storage / "runs/sort/rounds/001/adapter")
    prompt = AutoTokenizer.from_pretrained(tiny_model)(PROMPT).input_ids
    expected = {
        name: continue_greedily(tiny_model, folder, PROMPT, 8)[1]
        for name, folder in (
            ("tiny", None),
            ("tiny:sort-1", storage / "runs/sort/rounds/001/adapter"),
            ("tiny:sort-2", storage / "runs/sort/rounds/002/adapter"),
        )
    }

    async def story(replica: TransformersReplica) -> None:
        chance = random.Random(1)

        async def leave(model: str, delay: float) -> None:
            """One who goes away at that time: waiting, while its adapter loads, in the first pass,
            or later.
            """
            kind = chance.choice(["stream", "whole", "run"])
            if kind == "run":
                requests = [TokenRequest(prompt, LONG, adapter="sort-1")] * 4
                work: Any = replica.generate(requests, digest)
            elif kind == "whole":
                work = replica.answer_whole(write_chat(model, stream=False))
            else:
                work = drain(replica.answer(write_chat(model)))
            task = asyncio.create_task(work)
            await asyncio.sleep(delay)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

        async def stay(model: str) -> None:
            body = CompletionBody(
                model=model, prompt=PROMPT, temperature=0, max_tokens=8, logprobs=1
            )
            answer = await replica.answer_whole(body)
            told = answer["choices"][0]["logprobs"]["token_logprobs"]
            assert told == pytest.approx(expected[model], abs=2e-3)  # whoever else came and went

        models = [chance.choice(list(expected)) for _ in range(60)]
        visits = [leave(model, chance.choice([0, 0.001, 0.01, 0.1, 0.5])) for model in models]
        await asyncio.gather(*visits, *(stay(model) for model in models[:20]))
        await wait_until_idle(replica)
        await replica.check_health()
        await asyncio.gather(*(stay(model) for model in expected))

    play(arguments, story)


async def drain(events: AsyncIterator[Any]) -> None:
    async for _ in events:
        pass


def test_a_stream_that_is_closed_stops_at_once_and_one_that_is_heard_ends(
    arguments: dict[str, Any],
) -> None:
    """As Serve closes it where its caller leaves between two events."""

    async def story(replica: TransformersReplica) -> None:
        streams = [replica.answer(write_chat()) for _ in range(3)]
        for stream in streams:
            assert "assistant" in str(await anext(stream))
        for stream in streams:
            with suppress(asyncio.CancelledError, StopAsyncIteration):
                await stream.athrow(asyncio.CancelledError())  # type: ignore[attr-defined]
        await wait_until_idle(replica)
        answer = await replica.answer_whole(write_chat(tokens=3, stream=False))
        assert answer["usage"]["completion_tokens"] == 3

    play(arguments, story)


def test_those_who_need_other_adapters_join_a_long_answer_and_end_before_it(
    arguments: dict[str, Any],
) -> None:
    async def story(replica: TransformersReplica) -> None:
        long = asyncio.create_task(replica.answer_whole(write_chat("tiny:sort-1", stream=False)))
        for name in ("tiny:sort-1", "tiny:sort-2", "tiny", "tiny:sort-1"):
            answer = await replica.answer_whole(write_chat(name, tokens=4, stream=False))
            assert answer["usage"]["completion_tokens"] == 4
        assert not long.done()
        assert (await long)["usage"]["completion_tokens"] == LONG

    play(arguments, story)


def test_a_third_hangs_up_over_http_and_the_others_are_answered(service: Service) -> None:
    """Chats, streams and selections; then the service is ready, answers, and logs no error of its
    own.
    """
    chance = random.Random(2)
    chat = {"messages": [{"role": "user", "content": "Count."}], "temperature": 0}
    examples = [{"id": f"e{at}", "text": f"sort these words {at}"} for at in range(40)]
    selection = {"examples": examples, "strategy": "nsp", "count": 3, "model": "tiny:sort-1"}

    async def visit(client: httpx.AsyncClient, number: int) -> None:
        model = chance.choice(["tiny", "tiny:sort-1", "tiny:sort-2"])
        leaves = number % 3 == 0
        body = chat | {
            "model": model,
            "max_tokens": LONG if leaves else 8,
            "stream": chance.random() < 0.5,
        }
        path = "/api/v1/select" if number % 10 == 0 else "/v1/chat/completions"
        asked = client.post(path, json=selection if number % 10 == 0 else body)
        if leaves:
            with suppress(TimeoutError):
                async with asyncio.timeout(chance.choice([0.01, 0.1, 0.5, 1.0])):
                    await asked
            return
        answer = await asked
        assert answer.status_code == 200, answer.text

    async def story() -> None:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(
            base_url=service.url, headers=bearer(service.admin), timeout=LIMIT, limits=limits
        ) as client:
            await asyncio.gather(*(visit(client, number) for number in range(60)))
            for model in ("tiny", "tiny:sort-1", "tiny:sort-2"):
                answer = await client.post(
                    "/v1/chat/completions", json=chat | {"model": model, "max_tokens": 4}
                )
                assert answer.status_code == 200, answer.text
            answer = await client.post("/api/v1/select", json=selection)
            assert len(answer.json()["selected"]) == 3
            deadline = time.monotonic() + LIMIT
            while (ready := await client.get("/readyz")).status_code != 200:
                assert time.monotonic() < deadline, ready.text
                await asyncio.sleep(0.1)

    asyncio.run(story())
