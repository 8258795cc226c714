"""Rows that hold chats, in OpenAI's format for fine-tuning and similar ones: the last answer is the
reference, the turns before it are the question.
"""

from typing import Any

KEYS = (("role", "content"), ("from", "value"))
ANSWERING = {"assistant", "gpt", "model"}


def is_conversation(value: Any) -> bool:
    """Return whether a value is a list of turns, each with its role and text."""
    return (
        isinstance(value, list)
        and bool(value)
        and any(all(_is_turn(turn, keys) for turn in value) for keys in KEYS)
    )


def find_answers(turns: list[dict[str, Any]]) -> list[int]:
    """Return the positions of the answering turns at the end; empty if the last turn is the
    user's.
    """
    first = len(turns)
    while first and _role(turns[first - 1]) in ANSWERING:
        first -= 1
    return list(range(first, len(turns)))


def read_answer(turns: list[dict[str, Any]]) -> str | None:
    """Return the answer that closes the chat, or None."""
    answers = find_answers(turns)
    return _text(turns[answers[-1]]) if answers else None


def render_question(turns: list[dict[str, Any]]) -> str:
    """Return the turns before the answer, a blank line between them, with their roles if there are
    several.
    """
    asked = turns[: len(turns) - len(find_answers(turns))]
    spoken = [turn for turn in asked if _role(turn) != "system"]
    named = len(spoken) > 1
    return "\n\n".join(
        f"{_role(turn)}: {_text(turn)}" if named and _role(turn) != "system" else _text(turn)
        for turn in asked
    )


def _is_turn(turn: Any, keys: tuple[str, str]) -> bool:
    return isinstance(turn, dict) and isinstance(turn.get(keys[0]), str) and keys[1] in turn


def _role(turn: dict[str, Any]) -> str:
    return str(turn.get("role", turn.get("from")))


def _text(turn: dict[str, Any]) -> str:
    content = turn.get("content", turn.get("value"))
    if isinstance(content, list):  # parts, of which some may be pictures
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return "" if content is None else str(content)
