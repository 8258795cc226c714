"""Rows that hold conversations, in the layouts of OpenAI, Hugging Face, Anthropic and ShareGPT.

The assistant's last turn is the reference, the turns before it are the question. Tools and the
system message may stand beside the turns, in the columns `tools` (`functions`) and `system`.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from atgen_ray.core.errors import nearest
from atgen_ray.text.conversation import Conversation, Role, Turn
from atgen_ray.text.tool_calls import Call

# Roles by their spellings in the layouts.
SPOKEN: dict[str, Role] = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user",
    "assistant": "assistant", "gpt": "assistant", "model": "assistant",
    "function_call": "assistant", "tool_call": "assistant",
    "tool": "tool", "function": "tool", "observation": "tool", "tool_response": "tool",
    "ipython": "tool",
}  # fmt: skip
CALLING = ("function_call", "tool_call")  # turns of ShareGPT whose text is a call
SAID = ("content", "value", "tool_calls", "function_call")  # what a turn has beside its role
THOUGHTS = ("thinking", "redacted_thinking", "reasoning")
# Templates of some families want ids of nine letters and digits.
UNNAMED = "call{:05}"


class LayoutError(ValueError):
    """Turns that cannot be read; the message completes "<column> ..."."""


def is_conversation(value: Any) -> bool:
    """Return whether a value is a list of turns, each with its role and what it says."""
    return isinstance(value, list) and bool(value) and all(map(_is_turn, value))


def find_answers(turns: list[dict[str, Any]]) -> list[int]:
    """Return the positions of the answering turns at the end; empty if the last turn is the
    user's.
    """
    first = len(turns)
    while first and SPOKEN.get(_role(turns[first - 1])) == "assistant":
        first -= 1
    return list(range(first, len(turns)))


def read_answer(turns: list[dict[str, Any]]) -> str | None:
    """Return the answer that closes the conversation, calls as canonical JSON; None without one.

    Raises:
        LayoutError: a turn cannot be read.
    """
    answers = _read_turns(turns)
    return answers[-1].answer if answers and answers[-1].role == "assistant" else None


def read_question(turns: list[dict[str, Any]], beside: Mapping[str, Any]) -> Conversation:
    """Return the conversation up to the answer that closes it.

    Args:
        beside: the object that holds the turns, with its other keys.

    Raises:
        LayoutError: a turn or a tool cannot be read, or the user says nothing.
    """
    asked = _read_turns(turns[: len(turns) - len(find_answers(turns))])
    asked = [turn for turn in asked if turn.role != "system" or turn.content.strip()]
    if not any(turn.role == "user" for turn in asked):
        raise LayoutError("has no turn of the user before the answer, expected one")
    system = beside.get("system")
    if system is not None and asked[0].role != "system":
        text, _ = _read_content(system, "its 'system'")
        if text.strip():
            asked.insert(0, Turn("system", text))
    return Conversation(tuple(asked), tuple(_read_tools(beside)))


def is_plain(conversation: Conversation) -> bool:
    """Return whether a conversation is one question and nothing else, which is a plain text."""
    return not conversation.tools and [turn.role for turn in conversation.turns] == ["user"]


def _is_turn(turn: Any) -> bool:
    return (
        isinstance(turn, dict)
        and isinstance(turn.get("role") or turn.get("from"), str)
        and any(key in turn for key in SAID)
    )


def _role(turn: dict[str, Any]) -> str:
    return str(turn.get("role") or turn.get("from"))


@dataclass
class _Ids:
    """Ids of calls: those of the row, or numbers; a result without one belongs to the first call
    that has none yet.
    """

    made: int = 0
    open: dict[str, str] | None = None  # names by id of the calls without a result

    def name(self, given: Any, tool: str) -> str:
        self.made += 1
        id = str(given) if given else UNNAMED.format(self.made)
        self.open = (self.open or {}) | {id: tool}
        return id

    def close(self, given: Any) -> tuple[str, str]:
        """Return the id of a result, and the tool that was called."""
        waiting = self.open or {}
        id = str(given) if given else next(iter(waiting), "")
        return id, waiting.pop(id, "")


def _read_turns(turns: Sequence[dict[str, Any]]) -> list[Turn]:
    ids = _Ids()
    read: list[Turn] = []
    for number, turn in enumerate(turns, 1):
        role = _role(turn)
        if role not in SPOKEN:
            expected = ", ".join(sorted(SPOKEN))
            hint = nearest(role, SPOKEN)
            raise LayoutError(
                f"has the role {role[:40]!r} in turn {number}, expected one of {expected}{hint}"
            )
        for new in _read_turn(turn, SPOKEN[role], f"turn {number}", ids):
            # ShareGPT has a text and each call in turns of their own.
            if role in CALLING and read and read[-1].role == "assistant":
                last = read.pop()
                new = replace(new, calls=last.calls + new.calls, ids=last.ids + new.ids)
                new = replace(new, content=last.content)
            read.append(new)
    return read


def _read_turn(turn: dict[str, Any], role: Role, place: str, ids: _Ids) -> Iterator[Turn]:
    """Yield the turns in one of a layout: Anthropic has results of tools in turns of the user."""
    said = turn.get("content", turn.get("value"))
    if _role(turn) in CALLING:
        found = [_read_call(each, place) for each in _list_calls(said, place)]
        yield Turn(role, "", tuple(found), tuple(ids.name(None, name) for name, _ in found))
        return
    results = [part for part in _list_parts(said) if part.get("type") == "tool_result"]
    for part in results:
        text, _ = _read_content(part.get("content"), place)
        id, name = ids.close(part.get("tool_use_id"))
        yield Turn("tool", text, (), (id,), name)
    text, used = _read_content(said, place)
    if role == "tool":
        id, name = ids.close(turn.get("tool_call_id"))
        yield Turn("tool", text, (), (id,), str(turn.get("name") or name))
        return
    asked = [(each.get("id"), each) for each in turn.get("tool_calls") or ()]
    if turn.get("function_call"):
        asked.append((None, turn["function_call"]))
    called = [(id, _read_call(each, place)) for id, each in (*used, *asked)]
    if called and role != "assistant":
        raise LayoutError(f"has calls of tools in {place}, which is of the {role}, expected none")
    if results and not text.strip():
        return
    yield Turn(
        role,
        text,
        tuple(call for _, call in called),
        tuple(ids.name(id, call[0]) for id, call in called),
        learned=turn.get("weight") != 0,
    )


def _list_parts(said: Any) -> list[dict[str, Any]]:
    return [part for part in said if isinstance(part, dict)] if isinstance(said, list) else []


def _read_content(said: Any, place: str) -> tuple[str, list[tuple[Any, dict[str, Any]]]]:
    """Return the text of a turn, and the calls among its parts with their ids."""
    if said is None:
        return "", []
    if isinstance(said, str):
        return said, []
    if not isinstance(said, list):
        return _encode(said), []  # a result of a tool, as an object
    texts = []
    calls = []
    for part in said:
        kind = part.get("type", "text") if isinstance(part, dict) else "text"
        if isinstance(part, str):
            texts.append(part)
        elif kind == "tool_use":
            calls.append(
                (part.get("id"), {"name": part.get("name"), "arguments": part.get("input")})
            )
        elif kind in ("text", "refusal") and isinstance(part, dict):
            texts.append(str(part.get("text") or part.get("refusal") or ""))
        elif kind not in ("tool_result", *THOUGHTS):
            raise LayoutError(f"has a part of type {str(kind)[:40]!r} in {place}, expected text")
    return "".join(texts), calls


def _list_calls(said: Any, place: str) -> list[Any]:
    value = _parse(said)
    if not isinstance(value, dict | list):
        raise LayoutError(f"has a call in {place} that is no JSON, expected name and arguments")
    return value if isinstance(value, list) else [value]


def _read_call(call: Any, place: str) -> Call:
    inner = call.get("function") or call if isinstance(call, dict) else None
    name = inner.get("name") if isinstance(inner, dict) else None
    if not isinstance(inner, dict) or not isinstance(name, str) or not name:
        raise LayoutError(f"has a call without a name in {place}, expected name and arguments")
    arguments = inner.get("arguments", inner.get("parameters"))
    if isinstance(arguments, str):
        parsed = _parse(arguments) if arguments.strip() else {}
        if parsed is None:
            raise LayoutError(f"has arguments of {name[:40]!r} in {place} that are no JSON")
        return name, parsed
    # Tables have every key that any of their rows has.
    return name, _drop_nulls({} if arguments is None else arguments)


def _read_tools(beside: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the tools in OpenAI's form; Anthropic's and bare functions are put into it."""
    given = beside.get("tools") or beside.get("functions") or ()
    tools = _parse(given) if isinstance(given, str) and given.strip() else given or ()
    if not isinstance(tools, list | tuple):
        raise LayoutError("has 'tools' beside it that are no list, expected a list of functions")
    for number, tool in enumerate(tools, 1):
        tool = _parse(tool) if isinstance(tool, str) else tool
        inner = tool.get("function") or tool if isinstance(tool, dict) else None
        if not isinstance(inner, dict) or not isinstance(inner.get("name"), str):
            raise LayoutError(f"has no name in tool {number} beside it, expected a function")
        function = _drop_nulls({key: each for key, each in inner.items() if key != "type"})
        if "input_schema" in function:
            function["parameters"] = function.pop("input_schema")
        if isinstance(function.get("parameters"), str):
            function["parameters"] = _parse(function["parameters"])
        yield {"type": "function", "function": function}


def _drop_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _drop_nulls(each) for key, each in value.items() if each is not None}
    return [_drop_nulls(each) for each in value] if isinstance(value, list) else value


def _parse(text: Any) -> Any:
    """Return the value of a JSON text, None where it is none; any other value as it is."""
    if not isinstance(text, str):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _encode(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
