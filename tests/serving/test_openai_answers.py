"""Answers of engines that give only tokens: what a stream tells, and when."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from atgen_ray.engines.base import TokenStep
from atgen_ray.serving.replicas.openai_responses import Answer, Choice
from atgen_ray.serving.schemas.openai import CompletionBody

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


def decode(tokens: Sequence[int]) -> str:
    return "".join(f"{WORDS[token]} " for token in tokens)


def stream(interval: int, **settings: Any) -> list[dict[str, Any]]:
    """The events of an answer of ten tokens, one word each."""
    body = CompletionBody(model="m", prompt="count", stream=True, **settings)
    choice = Choice(0, 3, decode, body.stops, [])

    async def steps() -> AsyncIterator[tuple[int, TokenStep]]:
        for token in range(10):
            yield 0, TokenStep(token, -1.0, 0.5, finish="length" if token == 9 else None)

    async def collect() -> list[str]:
        return [event async for event in Answer(body, [choice], "f", interval).stream(steps())]

    *events, done = asyncio.run(collect())
    assert done == "data: [DONE]\n\n"
    return [json.loads(event.removeprefix("data: ")) for event in events]


@pytest.mark.parametrize(("interval", "words"), [(1, [1] * 10), (4, [1, 4, 4, 1]), (100, [1, 9])])
def test_the_first_token_comes_at_once_and_later_ones_together(
    interval: int, words: list[int]
) -> None:
    choices = [event["choices"][0] for event in stream(interval, logprobs=0)]
    assert [len(choice["text"].split()) for choice in choices] == words
    assert [len(choice["logprobs"]["tokens"]) for choice in choices] == words
    assert "".join(choice["text"] for choice in choices) == decode(range(10))
    assert [choice["finish_reason"] for choice in choices] == [None] * (len(words) - 1) + ["length"]


def test_a_stop_ends_the_stream_between_two_events() -> None:
    *events, usage = stream(4, stop=["four"], stream_options={"include_usage": True})
    choices = [event["choices"][0] for event in events]
    assert "".join(choice["text"] for choice in choices) == "one two three "
    assert choices[-1]["finish_reason"] == "stop"
    assert usage["usage"]["completion_tokens"] == 4


def test_text_that_nobody_asked_for_yet_is_there_at_the_end() -> None:
    choice = Choice(0, 3, decode, [], [])
    for token in range(3):
        choice.add(TokenStep(token, 0.0, 0.0), look=False)
    assert choice.text == ""
    choice.add(TokenStep(3, 0.0, 0.0, finish="stop"), look=False)
    assert choice.text == "one two three four "
