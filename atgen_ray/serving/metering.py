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
        self.counts = caller.day_tokens is not None
        self._chars = len(json.dumps(question.model_dump(mode="json"))) if self.counts else 0
        self._told: int | None = None

    def read(self, answer: dict[str, Any]) -> None:
        """Read the usage of a whole answer."""
        self._told = int((answer.get("usage") or {}).get("total_tokens") or 0)

    def look(self, event: str, wanted: bool) -> bool:
        """Look at an event of a stream; return whether it is for the caller, which one with the
        usage alone is only where it is `wanted`.
        """
        if not self.counts:
            return True
        self._chars += len(event) // CHARS  # most of an event is not text
        if '"usage"' not in event:
            return True
        found = json.loads(event.removeprefix("data: ").strip())
        if not found.get("usage"):
            return True
        self.read(found)
        return wanted or bool(found.get("choices"))

    def close(self) -> None:
        """Count what the answer took."""
        if self.counts:
            told = self._told
            self._budget.add(self._caller, -(-self._chars // CHARS) if told is None else told)
