"""Calls of tools in the text of a model, in the forms that chat templates teach: Hermes' tags
(Qwen, SmolLM and many others), a bare object or list (Llama), Mistral's mark.
"""

import json
import uuid
from collections.abc import Collection
from typing import Any

from atgen_ray.serving.schemas.chat import ChatBody
from atgen_ray.text.tool_calls import split_calls


def read_message(
    text: str, names: Collection[str], most: int | None = None
) -> tuple[str | None, list[dict[str, Any]]]:
    """Return the content of a message and its calls, as in a response.

    Args:
        text: the whole output.
        names: the tools that may be called. A text with a call of another, or none, is content.
        most: calls that are kept; None keeps all.
    """
    content, found = split_calls(text, names)
    if not found:
        return text, []
    return content or None, [_show(name, arguments) for name, arguments in found[:most]]


class CallReader:
    """Reads the calls in the answers to one conversation."""

    def __init__(self, body: ChatBody) -> None:
        """`body`: the request, which offers tools."""
        self._names = {tool.function.name for tool in body.offered}
        self._most = None if body.parallel_tool_calls else 1
        self._texts: dict[int, str] = {}

    def message(self, text: str, streamed: bool = False) -> dict[str, Any]:
        """Return the message, or the delta of a stream, that says the whole `text`."""
        content, calls = read_message(text, self._names, self._most)
        if not calls:
            return {"role": "assistant", "content": text}
        if streamed:
            calls = [{"index": index} | call for index, call in enumerate(calls)]
        return {"role": "assistant", "content": content, "tool_calls": calls}

    def read(self, choices: list[dict[str, Any]]) -> None:
        """Read the calls of whole choices, which are changed."""
        for choice in choices:
            choice["message"] |= self.message(choice["message"]["content"] or "")
            self._tell(choice, choice["message"])

    def hold_back(self, choices: list[dict[str, Any]]) -> None:
        """Keep the text of a stream's choices until each ends: only the whole text tells whether
        it is a call. The choices are changed.
        """
        for choice in choices:
            index = choice["index"]
            whole = self._texts.pop(index, "") + (choice["delta"].pop("content", None) or "")
            if choice["finish_reason"] is None:
                self._texts[index] = whole
            else:
                choice["delta"] |= self.message(whole, streamed=True)
                self._tell(choice, choice["delta"])

    @staticmethod
    def _tell(choice: dict[str, Any], message: dict[str, Any]) -> None:
        if message.get("tool_calls"):
            choice["finish_reason"] = "tool_calls"


def _show(name: str, arguments: Any) -> dict[str, Any]:
    return {
        "id": f"call_{uuid.uuid4().hex[:24]}",
        "type": "function",
        "function": {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)},
    }
