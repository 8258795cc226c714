"""Labels as chats, in OpenAI's format for fine-tuning."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from atgen_ray.core.strict_json import encode_json
from atgen_ray.text.conversation import Conversation, Turn, read_conversation
from atgen_ray.text.tool_calls import split_calls


def write_messages(
    rows: Iterable[Mapping[str, Any]], system: str | None
) -> Iterator[dict[str, Any]]:
    """Yield a chat for each label: the system turn where there is one, what was asked, and the
    label as the answer; for a conversation its turns and tools.

    Args:
        rows: with `input` and `text`.
        system: prompt.system of the run, which conversations with a system turn go without.
    """
    for row in rows:
        asked = read_conversation(row["input"]) or Conversation((Turn("user", row["input"]),))
        turns = [*asked.turns, _answer(row["text"], asked.tool_names)]
        if system is not None and turns[0].role != "system":
            turns.insert(0, Turn("system", system))
        chat: dict[str, Any] = {"messages": [_write_turn(turn) for turn in turns]}
        yield chat | ({"tools": [*asked.tools]} if asked.tools else {})


def _answer(text: str, tools: Sequence[str]) -> Turn:
    """Return the turn that a label is, with its calls of `tools`."""
    content, calls = split_calls(text, tools, beside_text=True)
    ids = tuple(f"call_{place}" for place in range(len(calls)))
    return Turn("assistant", content, tuple(calls), ids)


def _write_turn(turn: Turn) -> dict[str, Any]:
    """Return a turn as OpenAI has it: arguments of calls are JSON texts."""
    message = turn.to_message()
    for call in message.get("tool_calls", ()):
        call["function"]["arguments"] = encode_json(call["function"]["arguments"])
    return message
