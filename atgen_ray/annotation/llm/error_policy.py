"""Error policy for providers: pure functions from what happened to an action.

- `judge_call`: a call failed.
- `judge_batch`: a batch job has not ended yet.
- `judge_reply`: a request of an ended shard has no answer.

No other module decides about retries, ambiguous outcomes, pauses and lost rows.
"""

from dataclasses import dataclass
from typing import Literal

from atgen_ray.annotation.providers.base import BatchStatus, ProviderError, RawResponse

QUOTA = (
    "insufficient_quota",
    "billing_hard_limit_reached",
    "billing_not_active",
    "billing_error",
    "enforced_spend_limit_reached",
    "access_terminated",
)
QUOTA_WORDS = ("credit balance", "exceeded your current quota", "spend limit")
KEY_STATUS = (401, 403)
SAFE_STATUS = (429, 503, 529)  # the provider turned the request away before any work
# A proxy may have lost the answer to work that was done.
UNCLEAR_STATUS = (408, 409, 500, 502, 504, 520, 522, 524)
TRANSIENT_CODES = (
    "batch_expired",
    "batch_cancelled",
    "request_timeout",
    "expired",
    "canceled",
    "server_error",
    "api_error",
    "internal_error",
    "overloaded_error",
    "rate_limit_error",
    "rate_limit_exceeded",
    "token_limit_exceeded",
    "timeout_error",
    "no_reply",
)
ATTEMPTS = 5  # times that one question is sent when no answer is billed


@dataclass(frozen=True)
class Timeouts:
    """How long to wait for what, in seconds."""

    outage: float  # a provider that turns everything away
    first_wait: float = 1.0  # doubled after every failure
    longest_wait: float = 60.0
    lookup: float = 60.0  # until something that was created appears in the provider's lists
    poll: float = 30.0
    batch: float = 26 * 3600.0
    cancelling: float = 3600.0  # for a cancelled batch job to end
    drain: float = 1.2  # for requests under way when the run is stopped
    call: float = 120.0  # for requests under way when the run pauses


@dataclass(frozen=True)
class Retry:
    """Call again after `seconds`; with `everyone` no other call is made before."""

    seconds: float
    everyone: bool = False


@dataclass(frozen=True)
class LookUp:
    """The shard may have been created: look for it, and if it does not exist, call again after
    `seconds`.
    """

    seconds: float


@dataclass(frozen=True)
class Refuse:
    """The provider will never answer this request."""

    reason: str


@dataclass(frozen=True)
class Pause:
    """Stop the run with everything saved: the account or the provider is in trouble, not this
    row.
    """

    reason: str


@dataclass(frozen=True)
class Abort:
    """Stop the run: the user's configuration is wrong."""

    reason: str


# What a call does: read, create a batch, create a request that can be looked up, or create one that
# cannot ("create blindly").
Call = Literal["read", "create batch", "create", "create blindly"]
CallAction = Retry | LookUp | Refuse | Pause | Abort
BatchAction = Literal["collect", "wait", "cancel", "pause"]
ReplyAction = Literal["answered", "again", "refused", "pause"]


def judge_call(
    error: ProviderError, tries: int, failing: float, timeouts: Timeouts, call: Call, provider: str
) -> CallAction:
    """Return what to do about a call that failed.

    Args:
        tries: failures in a row, this one included.
        failing: seconds since the first of them.
        call: what it was to do.
        provider: its name, for messages.
    """
    creates = call != "read"
    if is_quota(error.code, error.message):
        return Pause(
            f"{provider} says that its quota or credit is spent "
            f"({error.code or error.message[:100]})"
        )
    if error.status in KEY_STATUS:
        where = f"set {provider.upper()}_API_KEY, or api_key_file of the annotator"
        return Abort(f"{provider} does not accept the key, {where}: {error.message[:200]}")
    if error.status == 404 and creates:
        return Abort(f"{provider} does not know the model or the address: {error.message[:200]}")
    wait = min(timeouts.longest_wait, timeouts.first_wait * 2 ** min(tries - 1, 16))
    if error.retry_after is not None:
        wait = max(0.0, error.retry_after)
    if failing + wait > timeouts.outage and tries > 1:
        return Pause(f"{provider} has failed for {failing:.0f} s, now with {describe_error(error)}")
    if error.status in SAFE_STATUS or (error.status is None and not error.sent):
        return Retry(wait, everyone=True)
    if (
        error.status is None
        or error.status in UNCLEAR_STATUS
        or error.status >= 500
        or error.status < 400
    ):
        # Where a request cannot be looked up we trust an error status: providers do not bill
        # those. A connection that ended without a status may have been billed.
        answered = error.status is not None and error.status >= 400
        if not creates or (answered and call == "create blindly"):
            return Retry(wait)
        return LookUp(wait)
    if call == "create batch":
        return Abort(f"{provider} refuses the whole batch: {error.message[:200]}")
    return Refuse(f"{provider} refuses it: {error.message[:200]}")


def judge_batch(batch: BatchStatus, age: float, timeouts: Timeouts) -> BatchAction:
    """Return what to do with a batch job that is `age` seconds old. Only an ended job is ever sent
    again.
    """
    if batch.ended:
        return "collect"
    if age <= timeouts.batch:
        return "wait"
    if not batch.cancelling and age <= timeouts.batch + timeouts.cancelling:
        return "cancel"
    return "wait" if age <= timeouts.batch + timeouts.cancelling else "pause"


def judge_reply(reply: RawResponse, attempt: int) -> ReplyAction:
    """Return what happens to a request whose shard has ended; `attempt` is the number of earlier
    attempts.
    """
    if reply.body is not None:
        return "answered"
    if is_quota(reply.code, reply.message):
        return "pause"
    return "again" if reply.code in TRANSIENT_CODES and attempt + 1 < ATTEMPTS else "refused"


def is_quota(code: str, message: str) -> bool:
    """Return whether the provider rejects the account (its quota or credit) and not the request."""
    return code in QUOTA or any(words in message.lower() for words in QUOTA_WORDS)


def describe_error(error: ProviderError) -> str:
    """Return an error in a few words."""
    status = "no answer" if error.status is None else f"status {error.status}"
    return f"{status} ({error.message[:100]})"
