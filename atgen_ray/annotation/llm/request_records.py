"""Requests as the log has them: each attempt of a question, and how it was settled."""

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from atgen_ray.annotation.request import Key


@dataclass(frozen=True)
class RequestRecord:
    """One attempt of a question, and what happened to it.

    `state` is sent, answered, unanswered (may be sent again; billed only where it has tokens),
    refused (will never be answered) or lost (perhaps billed, the answer is gone).
    """

    custom_id: str
    shard: str
    key: Key
    attempt: int
    state: str
    response: dict[str, Any] | None
    reason: str | None
    prompt_tokens: int | None
    output_tokens: int | None
    output_limit: int | None
    prompt_hash: str
    time: float

    @property
    def cut(self) -> bool:
        """Return whether its answer reached a shortened limit and is asked for again."""
        billed = self.output_tokens is not None and self.output_limit is not None
        return self.state == "unanswered" and billed


@dataclass(frozen=True)
class Settlement:
    """Outcome of a request, and its cost in billionths of a dollar."""

    custom_id: str
    state: str
    paid: int
    response: dict[str, Any] | None = None
    reason: str | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None


@dataclass(frozen=True)
class LostTime:
    """The time of which the journal knows nothing, as it was restored from a backup: requests may
    have been sent in it. Both ends are seconds since 1970.
    """

    since: float
    until: float


def read_record(row: sa.RowMapping) -> RequestRecord:
    """Return a row of the table `requests`."""
    return RequestRecord(
        custom_id=row["custom_id"],
        shard=row["shard"],
        key=(row["example_id"], row["vote"], row["repair"]),
        attempt=row["attempt"],
        state=row["state"],
        response=row["response"],
        reason=row["reason"],
        prompt_tokens=row["prompt_tokens"],
        output_tokens=row["output_tokens"],
        output_limit=row["output_limit"],
        prompt_hash=row["prompt_hash"],
        time=row["time"],
    )
