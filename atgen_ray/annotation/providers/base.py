"""Providers of annotating models: the three hooks create, check and collect, which know a wire and
no policy.

A shard is what is created in one piece: a batch job of many requests, or one request that is
answered at once. What to do when a hook fails is decided by the engine alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from atgen_ray.annotation.request import AnnotationRequest

# Why an answer ended.
Finish = Literal["stop", "length", "refusal", "filter"]


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
        self.status = status
        self.code = code
        self.message = message
        self.retry_after = retry_after
        self.sent = sent


class LookupPendingError(Exception):
    """Whether a shard was created cannot be told yet: ask again later."""


@dataclass(frozen=True)
class RequestAttempt:
    """One ask on its way, under the id that its answer carries."""

    custom_id: str
    ask: AnnotationRequest
    attempt: int


@dataclass(frozen=True)
class Shard:
    """Requests that are created in one piece. `time` is when it was entered, in seconds since
    1970.
    """

    hash: str
    sendings: tuple[RequestAttempt, ...]
    time: float
    remote: str | None = None  # the provider's id, once it is known

    @property
    def custom_ids(self) -> set[str]:
        return {sending.custom_id for sending in self.sendings}


@dataclass(frozen=True)
class RawResponse:
    """What came back for one request: the provider's raw answer, or its word for having none.

    An answer is billed; a reply without a body is not.
    """

    custom_id: str
    body: dict[str, Any] | None = None
    code: str = ""
    message: str = ""


@dataclass(frozen=True)
class SubmittedShard:
    """A created shard: its id at the provider, and its replies where they came at once."""

    remote: str
    replies: tuple[RawResponse, ...] | None = None


@dataclass(frozen=True)
class BatchStatus:
    """How a shard stands: `status` in the provider's word."""

    status: str
    ended: bool
    cancelling: bool = False


@dataclass(frozen=True)
class ParsedResponse:
    """A raw answer, read: the text without its reasoning, why the model stopped, and the tokens
    billed.
    """

    text: str
    reasoning: str
    finish: Finish
    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True)
class BatchLimits:
    """How large a shard may be, and how many may be under way."""

    rows: int
    bytes: int
    parallel: int


class Provider(Protocol):
    """One way to ask one model. Its hooks are called from several threads and raise
    ProviderError.
    """

    name: str  # as messages say it
    limits: BatchLimits
    remembers: bool  # whether `find` can tell if a shard was created

    def measure(self, ask: AnnotationRequest) -> int:
        """Bytes of the request on the wire."""
        ...

    def create(self, shard: Shard) -> SubmittedShard:
        """Sends the shard. Not to be repeated unless nothing was created."""
        ...

    def check(self, remote: str) -> BatchStatus:
        """How a created shard stands."""
        ...

    def collect(self, shard: Shard, remote: str) -> Sequence[RawResponse]:
        """The replies of an ended shard in any order, those to failed requests too; a request may
        have none.
        """
        ...

    def find(self, shard: Shard, known: set[str]) -> SubmittedShard | None:
        """A shard that was created by a process which did not live to say so; `known` ids are of
        other shards.

        Raises:
            LookupPendingError: it cannot be told yet.
        """
        ...

    def cancel(self, remote: str) -> None:
        """Asks for the shard to end soon; what is done by then stays billed."""
        ...

    def read(self, body: dict[str, Any]) -> ParsedResponse:
        """What a raw answer says. Raises ValueError for one that is not as the protocol has it."""
        ...
