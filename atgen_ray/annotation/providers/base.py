"""Providers of annotating models: the three hooks create, check and collect, which know a wire and
no policy.

A shard is what is created in one piece: a batch job of many requests, or one request that is
answered at once. What to do when a hook fails is decided by the engine alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from atgen_ray.annotation.llm.prompts import Ask


class ProviderError(Exception):
    """A call that did not succeed, as the wire told it.

    Attributes:
        status: the HTTP status; None when no answer came.
        code: the provider's own word for it.
        retry_after: seconds that the provider asks to wait.
        sent: whether the provider may have begun to work: False when no connection was made.
    """

    def __init__(
        self,
        status: int | None,
        code: str,
        message: str,
        retry_after: float | None = None,
        sent: bool = True,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.retry_after, self.sent = (
            status,
            code,
            message,
            retry_after,
            sent,
        )


class StillHidden(Exception):
    """Whether a shard was created cannot be told yet: ask again later."""


@dataclass(frozen=True)
class Sending:
    """One ask on its way, under the id that its answer carries."""

    custom_id: str
    ask: Ask
    attempt: int


@dataclass(frozen=True)
class Shard:
    """Requests that are created in one piece. `time` is when it was entered, in seconds since
    1970.
    """

    hash: str
    sendings: tuple[Sending, ...]
    time: float
    remote: str | None = None  # the provider's id, once it is known

    @property
    def custom_ids(self) -> set[str]:
        return {sending.custom_id for sending in self.sendings}


@dataclass(frozen=True)
class Reply:
    """What came back for one request: the provider's raw answer, or its word for having none.

    An answer is billed; a reply without a body is not.
    """

    custom_id: str
    body: dict[str, Any] | None = None
    code: str = ""
    message: str = ""


@dataclass(frozen=True)
class Ticket:
    """A created shard: its id at the provider, and its replies where they came at once."""

    remote: str
    replies: tuple[Reply, ...] | None = None


@dataclass(frozen=True)
class Standing:
    """How a shard stands: `status` in the provider's word."""

    status: str
    ended: bool
    cancelling: bool = False


@dataclass(frozen=True)
class Answer:
    """A raw answer, read: the text without its reasoning, why the model stopped, and the tokens
    billed.
    """

    text: str
    reasoning: str
    finish: Literal["stop", "length", "refusal", "filter"]
    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True)
class Limits:
    """How large a shard may be, and how many may be under way."""

    rows: int
    bytes: int
    parallel: int


class Provider(Protocol):
    """One way to ask one model. Its hooks are called from several threads and raise
    ProviderError.
    """

    name: str  # as messages say it
    limits: Limits
    remembers: bool  # whether `find` can tell if a shard was created

    def measure(self, ask: Ask) -> int:
        """Bytes of the request on the wire."""
        ...

    def create(self, shard: Shard) -> Ticket:
        """Sends the shard. Not to be repeated unless nothing was created."""
        ...

    def check(self, remote: str) -> Standing:
        """How a created shard stands."""
        ...

    def collect(self, shard: Shard, remote: str) -> Sequence[Reply]:
        """The replies of an ended shard in any order, those to failed requests too; a request may
        have none.
        """
        ...

    def find(self, shard: Shard, known: set[str]) -> Ticket | None:
        """A shard that was created by a process which did not live to say so; `known` ids are of
        other shards.

        Raises:
            StillHidden: it cannot be told yet.
        """
        ...

    def cancel(self, remote: str) -> None:
        """Asks for the shard to end soon; what is done by then stays billed."""
        ...

    def read(self, body: dict[str, Any]) -> Answer:
        """What a raw answer says. Raises ValueError for one that is not as the protocol has it."""
        ...
