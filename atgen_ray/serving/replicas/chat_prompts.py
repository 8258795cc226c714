"""Prompts of conversations by the model's chat template, with its section of tools."""

import json
from typing import Any

from atgen_ray.models.chat_template import render_turns
from atgen_ray.models.tool_prompts import fit_tools
from atgen_ray.serving.errors import ApiError
from atgen_ray.serving.schemas.chat import ChatBody, Message


def prepare_chat(tokenizer: Any, body: ChatBody) -> tuple[list[dict[str, Any]], list[Any] | None]:
    """Return the turns for the tokenizer's chat template, and its tools (None: no section of
    them).
    """
    tools = [tool.model_dump(exclude={"function": {"strict"}}) for tool in body.offered]
    return fit_tools(tokenizer, [_read(message) for message in body.messages], tools)


def render_chat(tokenizer: Any, body: ChatBody, tuned: bool) -> str:
    """Return the prompt of a conversation.

    Args:
        tuned: whether a model with an adapter answers, which has learnt to answer without thoughts
            and gets the prompt that training gave it. The base model gets what its template has.

    Raises:
        ApiError: 400, the template refuses the messages.
    """
    from jinja2 import TemplateError

    turns, tools = prepare_chat(tokenizer, body)
    given = {"tools": tools} if tools else {}
    try:
        if tuned:
            return render_turns(tokenizer, turns, generation=True, tools=tools)
        return str(
            tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=True, **given
            )
        )
    except (TemplateError, ValueError) as error:
        raise ApiError(400, f"the model's chat template refuses these messages: {error}") from None


def _read(message: Message) -> dict[str, Any]:
    """Return a message in the form of chat templates."""
    role = "system" if message.role == "developer" else message.role
    turn: dict[str, Any] = {"role": role, "content": message.text}
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


def _parse(arguments: str) -> Any:
    """Return the arguments as templates expect them: an object rather than its text."""
    try:
        return json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
