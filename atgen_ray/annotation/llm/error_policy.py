"""What to do when a provider does not do what it should: pure functions from what happened to an
action.

Three questions: a call failed (`judge_call`), a batch job takes its time (`judge_batch`), a request
came back without an answer (`judge_reply`). No other place decides about retries, money in doubt,
pauses and lost rows.
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
SAFE_STATUS = (429, 503, 529)  # turned away before any work
UNCLEAR_STATUS = (
    408,
    409,
    500,
    502,
    504,
    520,
    522,
    524,
)  # a proxy may have lost the answer to work that was done
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
ATTEMPTS = 5  # sendings of one question that ended without a bill


@dataclass(frozen=True)
class Timeouts:
    """How long to wait for what, in seconds."""

    outage: float  # a provider that turns everything away
    first_wait: float = 1.0  # doubled after every failure
    longest_wait: float = 60.0
    doubt: float = 60.0  # until something created shows in the provider's lists
    poll: float = 30.0
    batch: float = 26 * 3600.0
    cancelling: float = 3600.0  # for a cancelled batch job to end
    landing: float = 1.2  # for requests under way when the run is stopped
    call: float = 120.0  # for requests under way when the run pauses


@dataclass(frozen=True)
class Retry:
    """Call again after `seconds`; with `everyone` no other call is made before."""

    seconds: float
    everyone: bool = False


@dataclass(frozen=True)
class LookUp:
    """It may have been created: look for it; if it is certainly not there, call again after
    `seconds`.
    """

    seconds: float


@dataclass(frozen=True)
class Refuse:
    """The provider will never answer this request."""

    reason: str


@dataclass(frozen=True)
class Pause:
    """Stop the run with everything saved: not this row but the account or the provider is in
    trouble.
    """

    reason: str


@dataclass(frozen=True)
class Abort:
    """Stop the run: the user's configuration is wrong."""

    reason: str


# What a call does: read what is there, or create a batch, or a request that can be looked up, or
# one that cannot.
Call = Literal["read", "create batch", "create", "create blindly"]
CallAction = Retry | LookUp | Refuse | Pause | Abort
BatchAction = Literal["collect", "wait", "cancel", "pause"]
ReplyAction = Literal["answered", "again", "refused", "pause"]


def judge_call(
    error: ProviderError, tries: int, failing: float, patience: Timeouts, call: Call, provider: str
) -> CallAction:
    """What to do about a call that failed.

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
    wait = min(patience.longest_wait, patience.first_wait * 2 ** min(tries - 1, 16))
    if error.retry_after is not None:
        wait = max(0.0, error.retry_after)
    if failing + wait > patience.outage and tries > 1:
        return Pause(f"{provider} has failed for {failing:.0f} s, now with {describe_error(error)}")
    if error.status in SAFE_STATUS or (error.status is None and not error.sent):
        return Retry(wait, everyone=True)
    if (
        error.status is None
        or error.status in UNCLEAR_STATUS
        or error.status >= 500
        or error.status < 400
    ):
        # Who cannot look believes an error that was told: providers do not bill those. Silence may
        # be billed.
        told = error.status is not None and error.status >= 400
        return Retry(wait) if not creates or (told and call == "create blindly") else LookUp(wait)
    if call == "create batch":
        return Abort(f"{provider} refuses the whole batch: {error.message[:200]}")
    return Refuse(f"{provider} refuses it: {error.message[:200]}")


def judge_batch(standing: BatchStatus, age: float, patience: Timeouts) -> BatchAction:
    """What to do with a batch job of that `age` in seconds. Only an ended one is ever sent
    again.
    """
    if standing.ended:
        return "collect"
    if age <= patience.batch:
        return "wait"
    if not standing.cancelling and age <= patience.batch + patience.cancelling:
        return "cancel"
    return "wait" if age <= patience.batch + patience.cancelling else "pause"


def judge_reply(reply: RawResponse, attempt: int) -> ReplyAction:
    """What becomes of a request whose shard has ended; `attempt` counts its earlier sendings."""
    if reply.body is not None:
        return "answered"
    if is_quota(reply.code, reply.message):
        return "pause"
    return "again" if reply.code in TRANSIENT_CODES and attempt + 1 < ATTEMPTS else "refused"


def is_quota(code: str, message: str) -> bool:
    """Whether the account, not the request, is what the provider complains about."""
    return code in QUOTA or any(words in message.lower() for words in QUOTA_WORDS)


def describe_error(error: ProviderError) -> str:
    """An error in a few words."""
    status = "no answer" if error.status is None else f"status {error.status}"
    return f"{status} ({error.message[:100]})"
