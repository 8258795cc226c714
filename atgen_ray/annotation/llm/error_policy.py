"""Error policy for providers: pure functions from what happened to an action.

- `judge_call`: a call failed.
- `judge_batch`: a batch job has not ended yet.
- `judge_reply`: a request of an ended shard has no answer.

No other module decides about retries, ambiguous outcomes, pauses and lost rows. What time or the
user can cure is never final: the run waits, then pauses.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from atgen_ray.annotation.providers.base import (
    FILE_PENDING,
    BatchStatus,
    ProviderError,
    RawResponse,
)

QUOTA = (
    "insufficient_quota",
    "billing_hard_limit_reached",
    "billing_not_active",
    "billing_error",
    "enforced_spend_limit_reached",
    "access_terminated",
)
QUOTA_WORDS = (
    "credit balance",
    "exceeded your current quota",
    "spend limit",
    "insufficient balance",
    "insufficient credits",
)
RATE_CODES = ("RESOURCE_EXHAUSTED",)  # a limit by the minute or day, in the words of a quota
MODERATED = re.compile(r"moderat|flagged|content.?(?:filter|policy)|safety", re.IGNORECASE)
# Providers queue batches up to a number of tokens: what is above it waits for batches under way.
QUEUE_CODE = "token_limit_exceeded"
QUEUE_WORDS = ("enqueued token", "processing queue")
FILE_MISSING = re.compile(
    r"(?:can(?:no|')t|could not|unable to) find[^.]*\bfile|no such file|\bfile\b[^.]*not found"
    r"|\bfile\b[^.]*does not exist",
    re.IGNORECASE,
)
SAFE_STATUS = (429, 503, 529)  # the provider turned the request away before any work
# A proxy may have lost the answer to work that was done.
UNCLEAR_STATUS = (408, 409, 500, 502, 504, 520, 522, 524)
# Why a request has no answer: the row may be at fault if it happens again and again ...
TRANSIENT_CODES = (
    "request_timeout",
    "server_error",
    "api_error",
    "internal_error",
    "timeout_error",
    "no_reply",
)
# ... or the provider, or whoever cancels batches there, and never the row.
BATCH_CODES = (
    "batch_expired",
    "batch_cancelled",
    "expired",
    "canceled",
    "cancelled",
    "no_replies",
    "overloaded_error",
    "rate_limit_error",
    "rate_limit_exceeded",
    *RATE_CODES,
)
ATTEMPTS = 5  # times that one question is sent by one command when no answer is billed
STUBBORN = 8  # failures of one request, while others are answered, after which it is at fault


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
    missing: float = 600.0  # until what was created, or has ended, can be seen


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
    """The provider does not answer this request; `code` says so as that of a reply does."""

    reason: str
    code: str = "refused"


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
# `quota`: the account is out of money; `queue`: wait for room in the provider's queue; `stuck`: the
# provider has failed too often, so that the run pauses.
ReplyAction = Literal["answered", "again", "refused", "quota", "queue", "stuck"]


def judge_call(
    error: ProviderError,
    tries: int,
    failing: float,
    timeouts: Timeouts,
    call: Call,
    provider: str,
    proven: bool = False,
    others: bool = False,
) -> CallAction:
    """Return what to do about a call that failed.

    Args:
        tries: failures in a row, this one included.
        failing: seconds since the first of them.
        call: what it was to do.
        provider: its name, for messages.
        proven: the provider has answered a request of this annotator, so the key is good.
        others: it has answered others since the first failure.
    """
    creates = call != "read"
    single = call in ("create", "create blindly")
    said = error.message[:200]
    if call == "create batch" and is_queue_full(error.code, error.message):
        return Refuse(said, QUEUE_CODE)
    if is_quota(error.status, error.code, error.message):
        return Pause(f"{provider} says that its quota or credit is spent ({_name_error(error)})")
    if (
        error.status == 403
        and single
        and (proven or MODERATED.search(f"{error.code} {error.message}"))
    ):
        return Refuse(f"{provider} does not allow it: {said}")
    if error.status in (401, 403):
        where = f"set {provider.upper()}_API_KEY, or api_key_file of the annotator"
        return Abort(f"{provider} does not accept the key, {where}: {said}")
    wait = min(timeouts.longest_wait, timeouts.first_wait * 2 ** min(tries - 1, 16))
    if error.code == FILE_PENDING and failing + wait <= timeouts.outage:
        return Retry(wait)
    if is_unseen(error, call):
        if tries > 1 and failing + wait > min(timeouts.missing, timeouts.outage):
            return Pause(
                f"{provider} has not found for {failing:.0f} s what was created there "
                f"({describe_error(error)}). Nothing was given up: check that the key belongs to "
                f"the same account and project, and the same command looks again"
            )
        return Retry(wait)
    if error.status == 404 and creates:
        return Abort(f"{provider} does not know the model or the address: {said}")
    if error.retry_after is not None:
        wait = max(0.0, error.retry_after)
        if wait > timeouts.outage:
            return Pause(
                f"{provider} wants no call before {format_time(wait)}, which is beyond "
                f"outage_minutes ({describe_error(error)}); the same command goes on then"
            )
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
        if single and answered and others and tries >= STUBBORN:
            return Refuse(f"{provider} fails at it again and again: {said}")
        if not creates or (answered and call == "create blindly"):
            return Retry(wait)
        return LookUp(wait)
    if call == "create batch":
        return Abort(f"{provider} refuses the whole batch: {said}")
    return Refuse(f"{provider} refuses it: {said}")


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


def judge_reply(reply: RawResponse, failures: int) -> ReplyAction:
    """Return what happens to a request whose shard has ended; `failures` is how often this command
    has sent it in vain before.
    """
    if reply.body is not None:
        return "answered"
    if is_queue_full(reply.code, reply.message):
        return "queue"
    if is_quota(reply.status, reply.code, reply.message):
        return "quota"
    last = failures + 1 >= ATTEMPTS
    status = int(reply.code) if reply.code.isdecimal() else reply.status
    if (
        reply.code in BATCH_CODES
        or status in SAFE_STATUS
        or FILE_MISSING.search(f"{reply.code}: {reply.message}")
    ):
        return "stuck" if last else "again"
    transient = reply.code in TRANSIENT_CODES or status in UNCLEAR_STATUS
    return "again" if transient and not last else "refused"


def is_quota(status: int | None, code: str, message: str) -> bool:
    """Return whether the provider rejects the account (its quota or credit) and not the request."""
    if status == 402 or code in QUOTA or code == "402":
        return True
    return code not in RATE_CODES and any(words in message.lower() for words in QUOTA_WORDS)


def is_queue_full(code: str, message: str) -> bool:
    """Return whether the provider has too many tokens in its queue to take another batch now."""
    return code == QUEUE_CODE or any(words in message.lower() for words in QUEUE_WORDS)


def is_unseen(error: ProviderError, call: Call) -> bool:
    """Return whether a call found nothing where something was created: it may appear later, or
    under another key.
    """
    if error.status is None or not 400 <= error.status < 500:
        return False
    if call == "read":
        return error.status not in (*SAFE_STATUS, *UNCLEAR_STATUS)
    if call != "create batch":
        return False
    return error.code == FILE_PENDING or FILE_MISSING.search(error.message) is not None


def format_time(seconds: float) -> str:
    """Return the time in so many seconds, in UTC."""
    until = datetime.now(UTC) + timedelta(seconds=min(seconds, 10 * 365 * 86400.0))
    return f"{until:%Y-%m-%d %H:%M:%S} UTC"


def _name_error(error: ProviderError) -> str:
    return error.code or error.message[:100] or f"status {error.status}"


def describe_error(error: ProviderError) -> str:
    """Return an error in a few words."""
    status = "no answer" if error.status is None else f"status {error.status}"
    return f"{status} ({error.message[:100]})"
