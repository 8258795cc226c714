"""Messages with tools for a chat template that has a section of them, and for one that has not.

A template without such a section would leave the tools out in silence. The tools are then told in
a system message, and calls and their results are written into the turns, in the form that most
open models know (Hermes').
"""

import json
from collections.abc import Sequence
from typing import Any

from atgen_ray.text.tool_calls import CLOSING, OPENING

Message = dict[str, Any]

INSTRUCTIONS = (
    "You may call functions to answer. These are their signatures:\n<tools>\n{tools}\n</tools>\n"
    "For each call, return a JSON object with the function's name and its arguments between tags:\n"
    '<tool_call>\n{{"name": NAME, "arguments": OBJECT}}\n</tool_call>'
)


def fit_tools(
    tokenizer: Any, messages: Sequence[Message], tools: Sequence[Message]
) -> tuple[list[Message], list[Message] | None]:
    """Return the messages for the tokenizer's chat template, and its tools (None: no section of
    them).

    Args:
        messages: with arguments as JSON values under `tool_calls`.
        tools: functions in OpenAI's form.
    """
    with_calls = bool(tools) or any(
        message.get("tool_calls") or message["role"] == "tool" for message in messages
    )
    if not with_calls:
        return [*messages], None
    if has_tools(tokenizer, tools):
        return [*messages], [*tools] or None
    turns = [_write(message) for message in messages]
    if not tools:
        return turns, None
    told = INSTRUCTIONS.format(tools="\n".join(json.dumps(tool["function"]) for tool in tools))
    if turns[0]["role"] == "system":
        turns[0] = {"role": "system", "content": f"{turns[0]['content']}\n\n{told}"}
        return turns, None
    return [{"role": "system", "content": told}, *turns], None


def has_tools(tokenizer: Any, tools: Sequence[Message] = ()) -> bool:
    """Return whether the chat template has a section of tools."""
    if tokenizer.chat_template is None:
        return False
    return "tools" in str(tokenizer.get_chat_template(None, [*tools] or None))


def write_call(name: str, arguments: Any) -> str:
    """Return a call between tags."""
    return f"{OPENING}\n{json.dumps({'name': name, 'arguments': arguments})}\n{CLOSING}"


def _write(message: Message) -> Message:
    """Return the message with calls and results as text."""
    content = message["content"]
    if message["role"] == "tool":
        return {"role": "user", "content": f"<tool_response>\n{content}\n</tool_response>"}
    called = [call["function"] for call in message.get("tool_calls") or ()]
    written = [write_call(each["name"], each["arguments"]) for each in called]
    return {"role": message["role"], "content": "\n".join([*filter(None, [content]), *written])}
