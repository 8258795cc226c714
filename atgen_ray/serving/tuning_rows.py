"""Rows of a fine-tuning file: what a job can train on, told by the line that it cannot.

A row is `{"messages": [...]}`, which ends with an answer of the assistant, and may have `tools`
beside it. A file whose rows all end before that answer is a pool: what is to be labelled. A file of
single questions with one system message is trained on as texts, with that message as
`prompt.system`; any other is trained on as conversations.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from atgen_ray.core.errors import UserError
from atgen_ray.data.conversations import LayoutError, is_conversation, read_answer, read_question

KEYS = {"messages", "tools", "parallel_tool_calls", "functions"}
MESSAGE_KEYS = {
    "role",
    "content",
    "weight",
    "name",
    "refusal",
    "tool_calls",
    "tool_call_id",
    "function_call",
}
LINE_BYTES = 4 * 2**20


@dataclass
class TuningRows:
    """What the rows of a file have in common.

    Attributes:
        system: the system message of all rows, where `plain`.
        plain: whether each row is one question with its answer, under one system message.
        answers_before: whether an answer in an earlier turn is trained on.
        labelled: whether each row ends with its answer.
    """

    rows: int = 0
    labelled: bool = True
    system: str | None = None
    plain: bool = True
    answers_before: bool = False


@dataclass(frozen=True)
class _Row:
    labelled: bool
    system: str | None
    plain: bool
    answers_before: bool


def read_rows(lines: Iterable[bytes]) -> TuningRows:
    """Check every line of a fine-tuning file; empty ones do not count.

    Raises:
        UserError: a line cannot be trained on, or there is none; says which, and what was expected.
    """
    found = TuningRows()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        row = _read_row(parse_line(line, number), number)
        if not found.rows:
            found.labelled = row.labelled
        elif row.labelled != found.labelled:
            ends = "with an answer", "without one"
            mine, others = ends if row.labelled else ends[::-1]
            raise UserError(
                f"line {number} ends {mine}, expected a file of one kind: the lines before it end "
                f"{others}"
            )
        found.plain &= row.plain and (not found.rows or row.system == found.system)
        found.system = row.system
        found.answers_before |= row.answers_before
        found.rows += 1
    if not found.rows:
        raise UserError("the file has no lines, expected a JSON object on each")
    if not found.plain:
        found.system = None
    return found


def parse_line(line: bytes, number: int) -> dict[str, Any]:
    """Return the object on a line; raises UserError."""
    if len(line) > LINE_BYTES:
        raise UserError(f"line {number} has more than {LINE_BYTES:,} bytes")
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"line {number} is no JSON: {str(error)[:100]}") from None
    if not isinstance(row, dict):
        raise UserError(f"line {number} is a {type(row).__name__}, expected a JSON object")
    return row


def _read_row(row: dict[str, Any], number: int) -> _Row:
    for key in row:
        if key not in KEYS:
            raise UserError(f"line {number} has the key {key[:40]!r}, expected messages")
    messages = row.get("messages")
    if not isinstance(messages, list) or not messages:
        raise UserError(f"line {number} has no messages, expected a list of them")
    for message in messages:
        _check_message(message, number)
    answer = _check_conversation(messages, row, number)
    if answer is not None and not answer.strip():
        raise UserError(f"line {number} ends with an empty answer, expected a text or a call")
    if messages[-1].get("weight") == 0:
        raise UserError(
            f"line {number} has weight 0 on its last answer, expected the messages up to an answer "
            f"that is trained on"
        )
    system = messages[0]["role"] in ("system", "developer")
    texts = [message.get("content") for message in messages]
    roles = [message["role"] for message in messages[system:]]
    expected = ["user"] if answer is None else ["user", "assistant"]
    plain = roles == expected and all(isinstance(text, str) for text in texts)
    plain &= not row.get("tools") and not row.get("functions") and not _calls(messages[-1])
    before = any(
        message["role"] == "assistant" and message.get("weight") != 0 for message in messages[:-1]
    )
    return _Row(answer is not None, str(texts[0]) if system else None, plain, before)


def _check_conversation(
    messages: Sequence[dict[str, Any]], row: dict[str, Any], number: int
) -> str | None:
    """Return the answer that closes the messages, as the pool's reader has it, None where they end
    before it; raises UserError.
    """
    turns = list(messages)
    try:
        if not is_conversation(turns):
            raise LayoutError("holds a message without content, expected role and content")
        answer = read_answer(turns)
        if answer is None and messages[-1]["role"] not in ("user", "tool"):
            roles = ", ".join(str(message["role"]) for message in messages)
            raise LayoutError(
                f"has the roles {roles[:80]}, expected the assistant's at the end, or the user's "
                f"in a file without answers"
            )
        read_question(turns, row)
    except LayoutError as error:
        raise UserError(f"line {number} {error}") from None
    return answer


def _check_message(message: Any, number: int) -> None:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise UserError(f"line {number} has a message that is no object with role and content")
    if unknown := [key for key in message if key not in MESSAGE_KEYS and message[key] is not None]:
        raise UserError(
            f"line {number} has a message with {str(unknown[0])[:40]!r}, expected role, content, "
            f"weight and tool calls"
        )
    if not message.get("content") and not _calls(message):
        role = message["role"]
        raise UserError(f"line {number} has a message of role {role!r} without text as its content")
    if message.get("weight") not in (None, 0, 1):
        raise UserError(f"line {number} has the weight {message['weight']!r}, expected 0 or 1")


def _calls(message: dict[str, Any]) -> bool:
    return bool(message.get("tool_calls") or message.get("function_call"))
