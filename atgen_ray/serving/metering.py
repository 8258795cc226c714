"""Count of the tokens of models that an answer took, whole or as a stream."""

import json
from typing import Any

from atgen_ray.serving.security.callers import Caller
from atgen_ray.serving.security.rates import ModelBudget

CHARS = 4  # of a token, where an answer broke off before it told its tokens


class Meter:
    """Meter of one answer to `caller`. A stream is asked for its usage; one whose caller leaves
    early is counted by its characters, so that leaving early saves nothing.
    """

    def __init__(self, budget: ModelBudget, caller: Caller, question: Any) -> None:
        """Check that the token has some left.

        Args:
            question: body of the request.

        Raises:
            ApiError: 429, the token has used its tokens of the day.
        """
        budget.check(caller)
        self._budget = budget
        self._caller = caller
        self._question = question
        self._written = 0  # characters, roughly
        self._told: dict[str, Any] | None = None

    def read(self, answer: dict[str, Any]) -> None:
        """Read the usage of a whole answer."""
        self._told = answer.get("usage") or {}

    def look(self, event: str, wanted: bool) -> bool:
        """Look at an event of a stream; return whether it is for the caller, which one with the
        usage alone is only where it is `wanted`.
        """
        self._written += len(event) // CHARS  # most of an event is not text
        if '"usage"' not in event:
            return True
        found = json.loads(event.removeprefix("data: ").strip())
        if not found.get("usage"):
            return True
        self.read(found)
        return wanted or bool(found.get("choices"))

    def close(self) -> None:
        """Count what the answer took."""
        if self._told is None:
            asked = len(json.dumps(self._question.model_dump(mode="json")))
            read, written = -(-asked // CHARS), -(-self._written // CHARS)
            total = read + written
        else:
            total, read, written = (
                int(self._told.get(f"{name}_tokens") or 0)
                for name in ("total", "prompt", "completion")
            )
        self._budget.add(self._caller, total)
        self._budget.book.add(self._caller, self._question.model, read, written)
