"""Tool calls as JSON: whether an answer calls the right functions with the right arguments."""

import json
import math
import re
from collections.abc import Sequence
from typing import Any

_FENCE = re.compile(r"```(?:json)?\s*(.*?)```", re.DOTALL)


def tool_calls(prediction: str, references: Sequence[str]) -> float:
    """Return 1 when the prediction makes the calls of a reference, in any order, else 0; NaN
    without references.

    A call is an object with `name` and `arguments` (or OpenAI's shape with both under `function`,
    arguments as JSON text); a text holds one call or a list. A prediction without calls is wrong.

    Raises:
        ValueError: a reference is not of this form.
    """
    made = find_calls(prediction)
    return max((_agree(made, reference) for reference in references), default=math.nan)


def _agree(made: list[Any] | None, reference: str) -> float:
    right = find_calls(reference)
    if right is None:
        raise ValueError(
            f"reference {reference[:80]!r} is no tool call, expected JSON with name and arguments"
        )
    if made is None or len(made) != len(right):
        return 0.0
    left = list(right)
    for call in made:
        if call not in left:
            return 0.0
        left.remove(call)
    return 1.0


def find_calls(text: str) -> list[Any] | None:
    """Return the calls in `text` as [name, arguments] pairs; None if it holds no such JSON."""
    fenced = _FENCE.search(text)
    body = fenced[1] if fenced else text
    start = min((at for at in (body.find("["), body.find("{")) if at >= 0), default=-1)
    if start < 0:
        return None
    try:
        value, _ = json.JSONDecoder().raw_decode(body[start:])
        return [_read_call(call) for call in (value if isinstance(value, list) else [value])]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _read_call(call: Any) -> Any:
    if not isinstance(call, dict):
        raise TypeError("no object")
    call = call.get("function", call)
    arguments = call.get("arguments", call.get("parameters", {}))
    return [call["name"], json.loads(arguments) if isinstance(arguments, str) else arguments]
