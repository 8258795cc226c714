"""Rows of a fine-tuning file: what a job can train on, told by the line that it cannot.

A row is `{"messages": [system?, user, assistant]}`. The system message is one for the whole file,
because it is a setting of the run (`prompt.system`).
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from atgen_ray.core.errors import UserError

KEYS = {"messages", "tools", "parallel_tool_calls", "functions"}
MESSAGE_KEYS = {"role", "content", "weight", "name"}
LINE_BYTES = 4 * 2**20


@dataclass
class TuningRows:
    """What the rows of a file have in common."""

    rows: int = 0
    system: str | None = None


def read_rows(lines: Iterable[bytes]) -> TuningRows:
    """Check every line of a fine-tuning file; empty ones do not count.

    Raises:
        UserError: a line cannot be trained on, or there is none; says which, and what was expected.
    """
    found = TuningRows()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        system = _read_row(parse_line(line, number), number)
        if found.rows and system != found.system:
            raise UserError(
                f"line {number} has another system message than the lines before it, expected one "
                f"for the whole file"
            )
        found.system = system
        found.rows += 1
    if not found.rows:
        raise UserError("the file has no lines, expected a JSON object on each")
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


def _read_row(row: dict[str, Any], number: int) -> str | None:
    """Return the row's system message."""
    for key in row:
        if key not in KEYS:
            raise UserError(f"line {number} has the key {key[:40]!r}, expected messages")
        if key != "messages" and row[key] not in (None, [], True):
            raise UserError(
                f"line {number} has {key}: tool calls are not trained here, expected text alone"
            )
    messages = row.get("messages")
    if not isinstance(messages, list) or not messages:
        raise UserError(f"line {number} has no messages, expected a list of them")
    roles = [_read_message(message, number) for message in messages]
    system = roles[0] in ("system", "developer")
    if roles[system:] != ["user", "assistant"]:
        raise UserError(
            f"line {number} has the roles {', '.join(roles)[:80]}, expected a system message (or "
            f"none), one of the user and the assistant's answer: longer conversations are not "
            f"trained here"
        )
    if messages[-1].get("weight") not in (None, 1):
        raise UserError(f"line {number} has weight 0 on its only answer, which leaves nothing")
    return str(messages[0]["content"]) if system else None


def _read_message(message: Any, number: int) -> str:
    """Return the role of a message with a text."""
    if not isinstance(message, dict):
        raise UserError(f"line {number} has a message that is no object with role and content")
    if unknown := [key for key in message if key not in MESSAGE_KEYS and message[key] is not None]:
        raise UserError(
            f"line {number} has a message with {str(unknown[0])[:40]!r}, expected role, content "
            f"and weight"
        )
    role, content, weight = message.get("role"), message.get("content"), message.get("weight")
    if not isinstance(content, str) or not content.strip():
        raise UserError(f"line {number} has a message of role {role!r} without text as its content")
    if weight not in (None, 0, 1):
        raise UserError(f"line {number} has the weight {weight!r}, expected 0 or 1")
    return str(role)
