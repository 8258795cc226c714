"""Responses as chats and back; `test_clients.py` asks a model by the official client."""

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from pydantic import ValidationError

from atgen_ray.serving.response_objects import ResponseMaker
from atgen_ray.serving.schemas.responses import ResponsesBody

USED = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
LOOK = {"type": "function", "name": "look", "parameters": {"type": "object"}, "strict": True}


def body(input: Any = "Where?", **more: Any) -> ResponsesBody:
    return ResponsesBody.model_validate({"model": "tiny", "input": input} | more)


def test_input_becomes_the_turns_of_a_chat() -> None:
    call = {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"}
    told = {"type": "function_call_output", "call_id": "c1", "output": "there"}
    said = {
        "type": "message",
        "id": "msg_1",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": "Wait.", "annotations": []}],
    }
    asked = {"role": "user", "content": [{"type": "input_text", "text": "Where?"}]}
    chat = body(
        [asked, said, call, call | {"call_id": "c2", "namespace": None}, told],
        instructions="Be brief.",
        tools=[LOOK],
        tool_choice={"type": "function", "name": "look"},
        max_output_tokens=9,
        temperature=0.5,
        text={"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}},
        stream=True,
    ).to_chat()
    assert [turn.role for turn in chat.messages] == ["system", "user", "assistant", "tool"]
    assert [turn.text for turn in chat.messages] == ["Be brief.", "Where?", "Wait.", "there"]
    assert [each.id for each in chat.messages[2].tool_calls or []] == ["c1", "c2"]
    assert [tool.function.name for tool in chat.must_call] == ["look"]
    assert (chat.most_tokens, chat.temperature) == (9, 0.5)
    assert chat.response_format is not None
    assert chat.response_format.json_schema is not None
    assert chat.response_format.json_schema.schema_ == {"type": "object"}
    assert chat.stream_options is not None


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"previous_response_id": "resp_1"}, "expected the earlier turns in input"),
        ({"conversation": "conv_1"}, "expected the earlier turns in input"),
        ({"background": True}, "background"),
        ({"tools": [{"type": "web_search"}]}, "type 'web_search', expected function"),
        ({"input": [{"type": "reasoning", "summary": []}]}, "item of type 'reasoning'"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
            "expected input_text",
        ),
        ({"input": [{"type": "function_call_output", "output": "x"}]}, "has no call_id"),
        ({"input": []}, "input"),
        ({"max_output_token": 5}, "did you mean 'max_output_tokens'"),
    ],
)
def test_what_cannot_be_honoured_is_refused(given: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        ResponsesBody.model_validate({"model": "tiny", "input": "q"} | given)


def test_what_changes_no_answer_is_ignored() -> None:
    asked = body(store=True, reasoning={"effort": "low"}, include=["x"], metadata={"a": "b"})
    assert asked.ignored == ["store", "reasoning", "include"]
    assert ResponseMaker(asked).whole(answer({"content": "a"}))["metadata"] == {"a": "b"}


def answer(message: dict[str, Any], finish: str = "stop") -> dict[str, Any]:
    return {"choices": [{"message": message, "finish_reason": finish}], "usage": USED}


def stream(asked: ResponsesBody, *chunks: dict[str, Any]) -> list[dict[str, Any]]:
    """The events for a chat that is streamed so."""

    async def chat() -> AsyncGenerator[str, None]:
        for chunk in chunks:
            yield f"data: {json.dumps(chunk)}\n\n"
        yield "data: [DONE]\n\n"

    async def read() -> list[str]:
        return [event async for event in ResponseMaker(asked).stream(chat())]

    events = []
    for event in asyncio.run(read()):
        name, data = event.rstrip("\n").split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    assert [event["sequence_number"] for event in events] == [*range(len(events))]
    return events


def delta(finish: str | None = None, **told: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": told, "finish_reason": finish}]}


def kinds(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


def test_a_text_is_streamed_part_by_part() -> None:
    usage = {"choices": [], "usage": USED}
    events = stream(
        body(), delta(role="assistant"), delta(content="He"), delta(content="re"), usage
    )
    assert kinds(events) == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert events[2]["item"]["content"] == []
    done = events[-1]["response"]
    assert done["output"][0]["content"][0]["text"] == "Here" == events[6]["text"]
    assert (done["usage"]["input_tokens"], done["usage"]["output_tokens"]) == (5, 2)
    assert done["id"] == events[0]["response"]["id"]


def test_an_answer_that_is_cut_off_is_incomplete() -> None:
    (*_, last) = stream(body(), delta(content="He"), delta("length"))
    assert last["type"] == "response.incomplete"
    assert last["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    whole = ResponseMaker(body()).whole(answer({"content": "He"}, "length"))
    assert (whole["status"], whole["output"][0]["status"]) == ("incomplete", "incomplete")


def test_calls_come_as_items_beside_the_text() -> None:
    first = {"index": 0, "id": "c1", "function": {"name": "look", "arguments": '{"a"'}}
    rest = {"index": 0, "function": {"arguments": ": 1}"}}
    second = {"index": 1, "id": "c2", "function": {"name": "look", "arguments": "{}"}}
    events = stream(
        body(tools=[LOOK]),
        delta(content="So:"),
        delta(tool_calls=[first]),
        delta("tool_calls", tool_calls=[rest, second]),
    )
    output = events[-1]["response"]["output"]
    assert [item["type"] for item in output] == ["message", "function_call", "function_call"]
    assert [item.get("arguments") for item in output] == [None, '{"a": 1}', "{}"]
    assert [item["output_index"] for item in events if "arguments.done" in item["type"]] == [1, 2]
    calls = [{"id": "c1", "type": "function", "function": first["function"]}]
    whole = ResponseMaker(body()).whole(answer({"content": None, "tool_calls": calls}))
    (item,) = whole["output"]
    assert (item["type"], item["call_id"], item["status"]) == ("function_call", "c1", "completed")


def test_a_response_without_a_word_has_a_message_and_an_error_ends_the_stream() -> None:
    empty = stream(body(), delta("stop"))[-1]["response"]
    assert empty["output"][0]["content"][0]["text"] == ""
    error = {"error": {"message": "the answer broke off", "code": 500}}
    events = stream(body(), delta(content="He"), error)
    assert events[-1]["type"] == "error"
    assert events[-1]["message"] == "the answer broke off"
