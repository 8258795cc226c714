"""Provider protocol: the hooks create, check, collect, find and cancel, which know the wire format
and no policy.

A shard is what is created in one call: a batch job of many requests, or one request that is
answered at once. The dispatcher alone decides what to do when a hook fails.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from atgen_ray.annotation.request import AnnotationRequest

# Why an answer ended.
Finish = Literal["stop", "length", "refusal", "filter"]
FILE_PENDING = "file_pending"  # code of an error: the provider has not read an uploaded file yet


class ProviderError(Exception):
    """A call that failed, as the provider or the network reported it.

    Attributes:
        status: the HTTP status; None when no answer came.
        code: the provider's own word for it.
        retry_after: seconds that the provider requests to wait.
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
    """The provider cannot tell yet whether a shard was created: ask again later."""


class ResultsPendingError(Exception):
    """An ended shard has more answers than can be read yet: collect it again later.

    `replies` are those to settle for if the rest never comes: each answer that is billed and cannot
    be read has an unreadable body. None where nothing can be read at all.
    """

    def __init__(self, message: str, replies: "Sequence[RawResponse] | None" = None) -> None:
        super().__init__(message)
        self.replies = replies


@dataclass(frozen=True)
class RequestAttempt:
    """One attempt of a request, under the id that its answer carries; `number` counts from 0."""

    custom_id: str
    request: AnnotationRequest
    number: int


@dataclass(frozen=True)
class Shard:
    """Requests that are created in one call. `time` is when they were logged, in seconds since
    1970.
    """

    hash: str
    attempts: tuple[RequestAttempt, ...]
    time: float
    remote: str | None = None  # the provider's id, once it is known

    @property
    def custom_ids(self) -> set[str]:
        """Return the ids of all requests."""
        return {attempt.custom_id for attempt in self.attempts}


@dataclass(frozen=True)
class RawResponse:
    """The provider's raw response to one request, or its error code for having none, with the HTTP
    status if it has one.

    A response with a body is billed; one without is not.
    """

    custom_id: str
    body: dict[str, Any] | None = None
    code: str = ""
    message: str = ""
    status: int | None = None


@dataclass(frozen=True)
class SubmittedShard:
    """A created shard: its id at the provider, and its replies where they came at once."""

    remote: str
    replies: tuple[RawResponse, ...] | None = None


@dataclass(frozen=True)
class BatchStatus:
    """State of a created shard; `status` is the provider's own word, and `counts` its numbers of
    requests by their state.
    """

    status: str
    ended: bool
    cancelling: bool = False
    counts: str = ""


@dataclass(frozen=True)
class ParsedResponse:
    """A parsed response: the text without its reasoning, why the model stopped, and the tokens
    billed; None where the provider does not say how many. `cached_tokens` and `written_tokens` of
    the prompt came out of the provider's cache and went into it.
    """

    text: str
    reasoning: str
    finish: Finish
    prompt_tokens: int | None
    output_tokens: int | None
    cached_tokens: int = 0
    written_tokens: int = 0


@dataclass(frozen=True)
class BatchLimits:
    """Largest size of a shard, and how many shards may be under way."""

    rows: int
    bytes: int
    parallel: int


class Provider(Protocol):
    """One way to send requests to one model. Its hooks are called from several threads and raise
    ProviderError.
    """

    name: str  # as messages say it
    limits: BatchLimits
    remembers: bool  # whether `find` can tell if a shard was created

    def measure(self, request: AnnotationRequest) -> int:
        """Return the bytes of the request on the wire."""
        ...

    def create(self, shard: Shard) -> SubmittedShard:
        """Send the shard. Do not repeat this unless nothing was created."""
        ...

    def check(self, remote: str) -> BatchStatus:
        """Return the state of a created shard."""
        ...

    def collect(self, shard: Shard, remote: str) -> Sequence[RawResponse]:
        """Return the replies of an ended shard in any order, with those of failed requests; a
        request may have none.

        Raises:
            ResultsPendingError: the provider counts more answers than it hands out.
        """
        ...

    def find(self, shard: Shard, known: set[str]) -> SubmittedShard | None:
        """Return a shard that was created by a process which died before it could record it;
        `known` ids belong to other shards.

        Raises:
            LookupPendingError: it cannot be told yet.
        """
        ...

    def cancel(self, remote: str) -> None:
        """Ask the provider to end the shard soon; what is done by then stays billed."""
        ...

    def forget(self, remote: str, rehearse: bool = False) -> Sequence[str]:
        """Delete what the provider keeps of a settled shard, as far as its API can; return what,
        in words. With `rehearse` only tell. What is gone already is not told.
        """
        ...

    def read(self, body: dict[str, Any]) -> ParsedResponse:
        """Parse a raw response. Raise ValueError for one that violates the protocol."""
        ...
