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
