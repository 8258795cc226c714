"""Prompts of conversations by the model's chat template, with its section of tools.

A template without such a section would leave the tools out in silence. The tools are then told in
a system message, and calls and their results are written into the turns, in the form that most
open models know (Hermes').
"""

import json
from typing import Any

from atgen_ray.serving.errors import ApiError
from atgen_ray.serving.replicas.tool_calls import OPENING
from atgen_ray.serving.schemas.chat import ChatBody, Message

INSTRUCTIONS = (
    "You may call functions to answer. These are their signatures:\n<tools>\n{tools}\n</tools>\n"
    "For each call, return a JSON object with the function's name and its arguments between tags:\n"
    '<tool_call>\n{{"name": NAME, "arguments": OBJECT}}\n</tool_call>'
)


def prepare_chat(tokenizer: Any, body: ChatBody) -> tuple[list[dict[str, Any]], list[Any] | None]:
    """Return the turns for the tokenizer's chat template, and its tools (None: no section of
    them).
    """
    tools = [tool.model_dump(exclude={"function": {"strict"}}) for tool in body.offered]
    with_calls = bool(tools) or any(
        message.tool_calls or message.role == "tool" for message in body.messages
    )
    if not with_calls:
        return [_plain(message) for message in body.messages], None
    if "tools" in str(tokenizer.get_chat_template(None, tools or None)):
        return [_with_calls(message) for message in body.messages], tools or None
    turns = [_written(message) for message in body.messages]
    if not tools:
        return turns, None
    told = INSTRUCTIONS.format(tools="\n".join(json.dumps(tool["function"]) for tool in tools))
    if turns[0]["role"] == "system":
        turns[0] = {"role": "system", "content": f"{turns[0]['content']}\n\n{told}"}
        return turns, None
    return [{"role": "system", "content": told}, *turns], None


def render_chat(tokenizer: Any, body: ChatBody) -> str:
    """Return the prompt of a conversation.

    Raises:
        ApiError: 400, the template refuses the messages.
    """
    from jinja2 import TemplateError

    turns, tools = prepare_chat(tokenizer, body)
    given = {"tools": tools} if tools else {}
    try:
        return str(
            tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=True, **given
            )
        )
    except (TemplateError, ValueError) as error:
        raise ApiError(400, f"the model's chat template refuses these messages: {error}") from None


def _plain(message: Message) -> dict[str, Any]:
    role = "system" if message.role == "developer" else message.role
    return {"role": role, "content": message.text}


def _with_calls(message: Message) -> dict[str, Any]:
    turn = _plain(message)
    if message.tool_calls:
        turn["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {
                    "name": call.function.name,
                    "arguments": _parse(call.function.arguments),
                },
            }
            for call in message.tool_calls
        ]
    if message.role == "tool":
        turn |= {"tool_call_id": message.tool_call_id or "", "name": message.name or ""}
    return turn


def _written(message: Message) -> dict[str, Any]:
    """Return the turn with calls and results as text."""
    turn = _plain(message)
    if message.role == "tool":
        return {
            "role": "user",
            "content": f"<tool_response>\n{message.text}\n</tool_response>",
        }
    calls = [
        json.dumps({"name": call.function.name, "arguments": _parse(call.function.arguments)})
        for call in message.tool_calls or []
    ]
    written = [f"{OPENING}\n{call}\n</tool_call>" for call in calls]
    turn["content"] = "\n".join([*([turn["content"]] if turn["content"] else []), *written])
    return turn


def _parse(arguments: str) -> Any:
    """Return the arguments as templates expect them: an object rather than its text."""
    try:
        return json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
