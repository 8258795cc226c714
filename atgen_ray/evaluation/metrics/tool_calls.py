"""Tool calls as JSON: whether an answer calls the right functions with the right arguments."""

import math
from collections.abc import Sequence
from typing import Any

from atgen_ray.text.tool_calls import find_calls


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


def whole_calls(prediction: str, references: Sequence[str]) -> float:
    """Return 1 when the prediction makes the calls of a reference, as `tool_calls`, or no call
    where the reference is a text, as a turn of a conversation may be; else 0; NaN without
    references.
    """
    made = find_calls(prediction)
    scores = (_agree(made, each) if find_calls(each) else float(not made) for each in references)
    return max(scores, default=math.nan)


def _agree(made: list[Any] | None, reference: str) -> float:
    right = find_calls(reference)
    if right is None:
        raise ValueError(
            f"reference {reference[:80]!r} is no tool call, expected JSON with name and arguments"
        )
    if made is None or len(made) != len(right):
        return 0.0
    # As JSON values: 1 is 1.0, and true is not 1.
    left = [_tell_apart(call) for call in right]
    for call in map(_tell_apart, made):
        if call not in left:
            return 0.0
        left.remove(call)
    return 1.0


def _tell_apart(value: Any) -> Any:
    """Return a JSON value in which true and false equal no number."""
    if isinstance(value, bool):
        return str(value), None
    if isinstance(value, dict):
        return {key: _tell_apart(each) for key, each in value.items()}
    return [_tell_apart(each) for each in value] if isinstance(value, list) else value
