"""Responses of /v1/responses, whole and as events, made of answers of chats."""

import json
import time
import uuid
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Any

from atgen_ray.core.strict_json import encode_json
from atgen_ray.serving.schemas.responses import ResponsesBody


class ResponseMaker:
    """The response to one request."""

    def __init__(self, body: ResponsesBody) -> None:
        self._output: list[dict[str, Any]] = []
        self._calls: dict[int, dict[str, Any]] = {}  # by their index in the chat
        self._message: dict[str, Any] | None = None
        self._finish: str | None = None
        self._number = 0
        form = body.text.format if body.text and body.text.format else {"type": "text"}
        choice = body.tool_choice
        self._head: dict[str, Any] = {
            "id": f"resp_{uuid.uuid4().hex}",
            "object": "response",
            "created_at": int(time.time()),
            "status": "in_progress",
            "background": False,
            "error": None,
            "incomplete_details": None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": body.metadata or {},
            "model": body.model,
            "parallel_tool_calls": body.parallel_tool_calls,
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None},
            "store": False,
            "temperature": body.temperature,
            "text": {"format": form},
            "tool_choice": choice if isinstance(choice, str) else choice.model_dump(mode="json"),
            "tools": [tool.model_dump(mode="json") for tool in body.tools],
            "top_p": body.top_p,
            "truncation": "disabled",
            "usage": None,
        }

    def whole(self, answer: dict[str, Any]) -> dict[str, Any]:
        """Return the response that a whole chat's answer is."""
        choice = answer["choices"][0]
        for _ in self._read(choice["message"], choice["finish_reason"]):
            pass
        for _ in self._close():
            pass
        return self._end(answer.get("usage"))

    async def stream(self, chat: AsyncGenerator[str, None]) -> AsyncGenerator[str, None]:
        """Yield the events of the response; `chat` are those of a chat, with its usage."""
        for kind in ("created", "in_progress"):
            yield self._event(f"response.{kind}", response=self._show())
        usage = None
        async with aclosing(chat):
            async for event in chat:
                told = event.removeprefix("data:").strip()
                if told == "[DONE]":
                    continue
                chunk = json.loads(told)
                if "error" in chunk:
                    error = chunk["error"]
                    code = str(error["code"])
                    yield self._event("error", code=code, message=error["message"], param=None)
                    return
                usage = chunk.get("usage") or usage
                for choice in chunk["choices"]:
                    for made in self._read(choice["delta"], choice.get("finish_reason")):
                        yield made
        for made in self._close():
            yield made
        ended = self._end(usage)
        yield self._event(f"response.{ended['status']}", response=ended)

    def _read(self, said: dict[str, Any], finish: str | None) -> Iterator[str]:
        """Take in what a choice says, and yield the events of it."""
        self._finish = finish or self._finish
        if text := said.get("content"):
            yield from self._add_text(text)
        for place, call in enumerate(said.get("tool_calls") or ()):
            yield from self._add_call(call.get("index", place), call)

    def _add_text(self, text: str) -> Iterator[str]:
        if self._message is None:
            self._message = {
                "id": f"msg_{uuid.uuid4().hex}",
                "type": "message",
                "role": "assistant",
                "status": "in_progress",
                "content": [],
            }
            yield self._open(self._message)
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            yield self._part("response.content_part.added", part=part)
            self._message["content"].append(part)
        self._message["content"][0]["text"] += text
        yield self._part("response.output_text.delta", delta=text, logprobs=[])

    def _add_call(self, index: int, told: dict[str, Any]) -> Iterator[str]:
        function = told.get("function") or {}
        call = self._calls.get(index)
        if call is None:
            call = self._calls[index] = {
                "id": f"fc_{uuid.uuid4().hex}",
                "type": "function_call",
                "call_id": told.get("id") or f"call_{uuid.uuid4().hex}",
                "name": function.get("name") or "",
                "arguments": "",
                "status": "in_progress",
            }
            yield self._open(call)
        if more := function.get("arguments"):
            call["arguments"] += more
            yield self._of("response.function_call_arguments.delta", call, delta=more)

    def _close(self) -> Iterator[str]:
        """End every item; a response without any has an empty message."""
        if not self._output:
            yield from self._add_text("")
        for item in self._output:
            item["status"] = "completed"
            if item is self._message:
                if self._finish == "length":
                    item["status"] = "incomplete"
                (part,) = item["content"]
                yield self._part("response.output_text.done", text=part["text"], logprobs=[])
                yield self._part("response.content_part.done", part=part)
            else:
                said = item["arguments"]
                yield self._of("response.function_call_arguments.done", item, arguments=said)
            place = self._output.index(item)
            yield self._event("response.output_item.done", output_index=place, item=item)

    def _end(self, usage: dict[str, Any] | None) -> dict[str, Any]:
        used = usage or {}
        self._head["status"] = "incomplete" if self._finish == "length" else "completed"
        if self._finish == "length":
            self._head["incomplete_details"] = {"reason": "max_output_tokens"}
        self._head["usage"] = {
            "input_tokens": used.get("prompt_tokens", 0),
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": used.get("completion_tokens", 0),
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": used.get("total_tokens", 0),
        }
        return self._show()

    def _show(self) -> dict[str, Any]:
        return self._head | {"output": self._output}

    def _open(self, item: dict[str, Any]) -> str:
        self._output.append(item)
        place = len(self._output) - 1
        return self._event("response.output_item.added", output_index=place, item=item)

    def _part(self, kind: str, **told: Any) -> str:
        """Return an event of the message's one part."""
        if self._message is None:
            raise ValueError("there is no message yet")
        return self._of(kind, self._message, content_index=0, **told)

    def _of(self, kind: str, item: dict[str, Any], **told: Any) -> str:
        place = next(at for at, each in enumerate(self._output) if each is item)
        return self._event(kind, item_id=item["id"], output_index=place, **told)

    def _event(self, kind: str, **told: Any) -> str:
        told = {"type": kind, "sequence_number": self._number} | told
        self._number += 1
        return f"event: {kind}\ndata: {encode_json(told)}\n\n"
