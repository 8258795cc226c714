"""Conversations as inputs of examples: one canonical text, and what is made of it for the model,
for people and for selection.

The text of an example is a string everywhere. That of a conversation is JSON that begins with
MARK; the pool takes no other text with that beginning, so that no row can pass for a conversation
by what it says. This module alone knows the form.

Example:
    text = Conversation((Turn("system", "Be brief"), Turn("user", "Hi"))).write()
    read_conversation(text).last_question  # "Hi"
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import pyarrow as pa
import pyarrow.compute as pc

from atgen_ray.text.tool_calls import Call, write_calls

MARK = '{"atgen": "conversation", '
Role = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[str, ...] = get_args(Role)
Choice = Literal["last", "whole"]


@dataclass(frozen=True)
class Turn:
    """What one side says; `content` may be empty beside calls.

    Attributes:
        calls: tools that the assistant calls.
        ids: ids of the calls, or of the one call that a turn of role tool is the result of.
        name: the tool that gave a result, where it is known.
        learned: whether the assistant's turn counts in the loss where earlier turns do.
    """

    role: Role
    content: str
    calls: tuple[Call, ...] = ()
    ids: tuple[str, ...] = ()
    name: str = ""
    learned: bool = True

    @property
    def answer(self) -> str:
        """Return content and calls as the text of a label."""
        return write_calls(self.calls, self.content) if self.calls else self.content

    def to_message(self) -> dict[str, Any]:
        """Return the turn as chat templates expect it, with arguments as JSON values."""
        message: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.calls:
            message["tool_calls"] = [
                {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}
                for id, (name, arguments) in zip(self.ids, self.calls, strict=True)
            ]
        if self.role == "tool":
            message |= {"tool_call_id": "".join(self.ids), "name": self.name}
        return message


@dataclass(frozen=True)
class Conversation:
    """The turns before the answer that is asked for, and the tools that it may call."""

    turns: tuple[Turn, ...]
    tools: tuple[dict[str, Any], ...] = ()

    @property
    def messages(self) -> list[dict[str, Any]]:
        """Return the turns as chat templates expect them."""
        return [turn.to_message() for turn in self.turns]

    @property
    def tool_names(self) -> tuple[str, ...]:
        """Return the names of the tools."""
        return tuple(str(tool["function"]["name"]) for tool in self.tools)

    @property
    def last_question(self) -> str:
        """Return the content of the user's last turn; an empty text without one."""
        at = self._find_question()
        return "" if at is None else self.turns[at].content

    def ask(self, question: str) -> "Conversation":
        """Return the conversation with another content of the user's last turn."""
        at = self._find_question()
        if at is None:
            return self
        asked = replace(self.turns[at], content=question)
        return replace(self, turns=(*self.turns[:at], asked, *self.turns[at + 1 :]))

    @property
    def spoken(self) -> str:
        """Return the turns but for those of the system as text, each with its role."""
        return _show(turn for turn in self.turns if turn.role != "system")

    def show(self) -> str:
        """Return the conversation as a person reads it: the tools, then turn after turn."""
        tools = "\n".join(map(_encode, self.tools))
        return _show(self.turns) + (f"\n\ntools:\n{tools}" if tools else "")

    def write(self) -> str:
        """Return the canonical text; raises ValueError for a number that JSON does not have."""
        messages = [
            turn.to_message() | ({} if turn.learned else {"weight": 0}) for turn in self.turns
        ]
        whole: dict[str, Any] = {"atgen": "conversation", "messages": messages}
        return _encode(whole | ({"tools": [*self.tools]} if self.tools else {}))

    def _find_question(self) -> int | None:
        places = [at for at, turn in enumerate(self.turns) if turn.role == "user"]
        return places[-1] if places else None


def read_conversation(text: str) -> Conversation | None:
    """Return the conversation whose canonical text this is; None for any other text."""
    if not text.startswith(MARK):
        return None
    try:
        value = json.loads(text)
        turns = tuple(map(_read_message, value["messages"]))
        return Conversation(turns, tuple(value.get("tools", ())))
    except (ValueError, KeyError, TypeError, RecursionError):
        return None  # cut, or written by another version: a text as any other


def show_example(text: str) -> str:
    """Return the text of an example as a person reads it."""
    conversation = read_conversation(text)
    return text if conversation is None else conversation.show()


def choose_text(text: str, turns: Choice) -> str:
    """Return what of an example's text is compared with others: the user's last turn, or the whole
    conversation without system turn and tools.
    """
    conversation = read_conversation(text)
    if conversation is None:
        return text
    last = conversation.last_question if turns == "last" else ""
    return last or conversation.spoken


def choose_texts(texts: pa.ChunkedArray, turns: Choice) -> pa.ChunkedArray:
    """Return `choose_text` of each text of a column."""
    if not pc.any(pc.starts_with(texts, MARK)).as_py():
        return texts
    chosen = [choose_text(text, turns) for text in texts.to_pylist()]
    return pa.chunked_array([pa.array(chosen, texts.type)])


def _read_message(message: dict[str, Any]) -> Turn:
    calls = [
        (call["id"], call["function"]["name"], call["function"]["arguments"])
        for call in message.get("tool_calls", ())
    ]
    ids = [id for id, _, _ in calls]
    if message["role"] == "tool":
        ids.append(message["tool_call_id"])
    return Turn(
        message["role"],
        message["content"],
        tuple((name, arguments) for _, name, arguments in calls),
        tuple(ids),
        message.get("name", ""),
        message.get("weight") != 0,
    )


def _show(turns: Iterable[Turn]) -> str:
    return "\n\n".join(
        f"{turn.role}{f' ({turn.name})' if turn.name else ''}: {turn.answer}" for turn in turns
    )


def _encode(value: Any) -> str:
    # Keys keep their order: templates write tools and arguments in it, as a service's callers do.
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
