"""Helpers of the paid providers' clients: SDK errors, counts of tokens, and files of JSON lines."""

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any

from atgen_ray.annotation.providers.base import (
    BatchLimits,
    ProviderError,
    RawResponse,
    ResultsPendingError,
    Shard,
)
from atgen_ray.config import RemoteAnnotatorConfig
from atgen_ray.config.dialects import DIALECTS, KEY
from atgen_ray.core.credentials import read_key, redact
from atgen_ray.core.errors import UserError
from atgen_ray.core.strict_json import encode_json

NOT_SENT = ("ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol")
# OpenAI keeps what this says with its logs of the call. Anthropic's API has no place for it: a
# gateway before it may log it.
REQUEST_HEADER = "X-Client-Request-Id"
CONNECT_SECONDS = 10.0
ANTHROPIC = "https://api.anthropic.com"
# Addresses in whose place the SDKs take one from the environment.
OWN_ADDRESSES = (DIALECTS["openai"].url, ANTHROPIC)
# Of the shared part of prompts, from which on it is cached; models want 512 to 4,096 tokens.
CACHED_BYTES = 4096
ENVELOPE = 200  # bytes
SKEW = 3600.0  # seconds that clocks may differ by
BATCHES = 4  # under way at once


def client_settings(
    config: RemoteAnnotatorConfig, variable: str, key: str, address: str | None
) -> dict[str, Any]:
    """Return the arguments of an SDK's client: the key, the address, more headers, a deadline, and
    no retries of its own. `address` is the provider's own; None where it has none.

    Raises:
        UserError: there is no key (one's own server, `base_url`, may do without), or the
            environment would send the requests elsewhere.
    """
    import httpx2

    _check_environment(config, key, address)
    secret = read_key(variable, config.api_key_file, f"{key}.api_key_file")
    if secret is None and config.base_url is not None and address != ANTHROPIC:
        secret = read_key(KEY, None, "")  # compatible servers may be given OpenAI's variable
    if secret is None and config.base_url is None:
        raise UserError(
            f"{variable} is not set, expected the key of the provider there or in "
            f"{key}.api_key_file"
        )
    return {
        "api_key": secret.get_secret_value() if secret else "none",
        "base_url": config.base_url or address,
        "default_headers": config.extra_headers,
        # A create that the SDK repeats silently is paid twice; the dispatcher decides on retries.
        "max_retries": 0,
        "timeout": httpx2.Timeout(
            config.timeout_seconds, connect=min(CONNECT_SECONDS, config.timeout_seconds)
        ),
    }


def _check_environment(config: RemoteAnnotatorConfig, key: str, address: str | None) -> None:
    """Raise UserError where variables of the environment would have an SDK send pool text and key
    elsewhere, or more than the configuration says.
    """
    maker = "ANTHROPIC" if address == ANTHROPIC else "OPENAI"  # whose SDK carries the calls
    variable = f"{maker}_BASE_URL"
    elsewhere = os.environ.get(variable, "").strip()
    read = config.base_url is None and address in OWN_ADDRESSES
    if elsewhere and read and elsewhere.rstrip("/") != address:
        shown = "an address with a password" if "@" in elsewhere else repr(elsewhere[:200])
        raise UserError(
            f"{variable} is {shown} in the environment, but {key}.base_url is null: unset it, or "
            f"set {key}.base_url to that address, which then gets pool text and key"
        )
    headers = f"{maker}_CUSTOM_HEADERS"
    if os.environ.get(headers, "").strip():
        raise UserError(
            f"{headers} is set in the environment, expected {key}.extra_headers in its place, "
            f"which the run records"
        )


def batch_limits(config: RemoteAnnotatorConfig, rows: int, size: int) -> BatchLimits:
    """Return the limits of batch jobs, where the provider accepts at most `rows` requests and
    `size` bytes.
    """
    return BatchLimits(max(2, min(config.shard_rows, rows)), size, min(config.concurrency, BATCHES))


@contextmanager
def translated(sdk: Any) -> Iterator[None]:
    """Raise errors of an SDK (its module) as ProviderError, with every key redacted."""
    try:
        yield
    except sdk.APIStatusError as error:
        code, message = read_error(error.body)
        raise ProviderError(
            error.status_code,
            code,
            redact(message or error.message),
            read_wait(error.response.headers),
        ) from None
    except sdk.APIConnectionError as error:
        cause = type(error.__cause__).__name__
        raise ProviderError(
            None, cause, redact(f"{error.message} {cause}"), sent=cause not in NOT_SENT
        ) from None
    except sdk.APIResponseValidationError as error:
        raise ProviderError(200, "malformed", redact(error.message)) from None


def read_error(body: Any) -> tuple[str, str]:
    """Return code and message of an error's body; each is empty where the body does not say it.

    The code is the provider's own word where it has one (`RESOURCE_EXHAUSTED` beside 429).
    """
    if isinstance(body, list):  # Gemini's endpoint wraps its errors so
        body = body[0] if body else None
    if isinstance(body, dict) and isinstance(body.get("error"), dict | str):
        body = body["error"]  # one SDK has unwrapped the outer object, the other has not
    if not isinstance(body, dict):
        return "", body if isinstance(body, str) else ""
    words = [body.get(name) for name in ("code", "type", "status")]
    said = next((word for word in words if isinstance(word, str) and word), None)
    code = said or next((word for word in words if word), "")
    message = body.get("message")
    # A router of models puts the cause below the message: which rule of moderation, whose limit.
    detail = body.get("metadata")
    parts = [message if isinstance(message, str) else "", json.dumps(detail) if detail else ""]
    return str(code), " ".join(filter(None, parts))


def read_wait(headers: Any) -> float | None:
    """Return the seconds that the headers of a response ask to wait; None where they ask nothing
    that can be understood, so that our own waits apply.
    """
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) * unit
        except ValueError:
            continue
        if math.isfinite(seconds) and seconds >= 0:
            return seconds
    try:
        until = parsedate_to_datetime(headers.get("retry-after", ""))
    except ValueError:
        return None
    if until.tzinfo is None:
        until = until.replace(tzinfo=UTC)
    return max(0.0, (until - datetime.now(UTC)).total_seconds())


def read_count(value: Any) -> int | None:
    """Return a number of tokens; None for anything that is no whole number from 0."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if value >= 0 and value == value // 1 else None


def read_object(text: str) -> dict[str, Any]:
    """Parse a JSON object. Raise ProviderError where a response of status 200 holds something
    else.
    """
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ProviderError(200, "malformed", "the answer is no JSON object")
    return value


def read_text(value: dict[str, Any], name: str) -> str:
    """Return a text in an object. Raise ProviderError where there is none."""
    if not isinstance(text := value.get(name), str) or not text:
        raise ProviderError(200, "malformed", f"the answer has no {name}")
    return text


def describe_counts(counts: Any) -> str:
    """Return the numbers of a batch's requests by state in words; empty without any."""
    if not isinstance(counts, dict):
        return ""
    return ", ".join(f"{number} {name}" for name, number in counts.items() if read_count(number))


def read_lines(text: str) -> tuple[list[dict[str, Any]], int]:
    """Return the objects of a JSON Lines file that have a custom_id, and the number of other
    lines.
    """
    rows = []
    broken = 0
    for line in text.split("\n"):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if isinstance(row, dict) and isinstance(row.get("custom_id"), str):
                rows.append(row)
            else:
                broken += 1
    return rows, broken


def read_files(sdk: Any, client: Any, files: Sequence[str]) -> tuple[list[dict[str, Any]], int]:
    """Return the lines of all result `files`, and the number of broken ones, through a client of
    the SDK of OpenAI.
    """
    rows = list[dict[str, Any]]()
    broken = 0
    for file in files:
        with translated(sdk):
            content = client.files.content(file).text
        more, lost = read_lines(content)
        rows = rows + more
        broken = broken + lost
    return rows, broken


def count_cached(body: Mapping[str, Any]) -> tuple[int, int]:
    """Return the prompt tokens of a chat completion that came out of the provider's cache, and
    those that went into it; 0 where usage does not say.
    """
    usage = body.get("usage")
    if not isinstance(usage, dict):
        return 0, 0
    details = usage.get("prompt_tokens_details")
    details = details if isinstance(details, dict) else {}
    # DeepSeek counts in a key of its own.
    found = read_count(details.get("cached_tokens")) or read_count(
        usage.get("prompt_cache_hit_tokens")
    )
    return found or 0, read_count(details.get("cache_write_tokens")) or 0


def measure_body(body: dict[str, Any]) -> int:
    """Return the bytes of a request in a batch file: its JSON, and an allowance for the id and the
    envelope.
    """
    return len(encode_json(body).encode()) + ENVELOPE


def fill_gaps(
    shard: Shard, replies: list[RawResponse], done: int, broken: int
) -> list[RawResponse]:
    """Return `replies` where they are all.

    Args:
        done: the number of answers by the provider's count.
        broken: lines that are no reply.

    Raises:
        ResultsPendingError: answers are missing. In its replies each request without one has an
            unreadable body: the answer may be paid for, so it is not requested again.
    """
    answered = sum(
        reply.body is not None and reply.custom_id in shard.custom_ids for reply in replies
    )
    missing = sorted(shard.custom_ids - {reply.custom_id for reply in replies})
    if not missing or (not broken and answered >= done):
        return replies
    said = f"{answered} of {done} answers can be read, {broken} lines are broken"
    filled = [RawResponse(custom_id, {"unreadable": said}) for custom_id in missing]
    raise ResultsPendingError(said, replies + filled)


def forget_files(
    sdk: Any, client: Any, files: Sequence[str], rehearse: bool = False
) -> Sequence[str]:
    """Delete files through a client of OpenAI's SDK; return what was deleted, in words. With
    `rehearse` only look whether they are there.
    """
    kept = client.files.with_raw_response
    call = kept.retrieve if rehearse else kept.delete
    return forget_each(sdk, {f"file {file}": partial(call, file) for file in files})


def forget_each(sdk: Any, calls: Mapping[str, Callable[[], object]]) -> Sequence[str]:
    """Make each of `calls`, by the name of what it deletes; return the names of what was there.

    Raises:
        ProviderError: a call failed, and not because the thing is gone already.
    """
    done = []
    for name, call in calls.items():
        try:
            with translated(sdk):
                call()
        except ProviderError as error:
            if error.status == 404:
                continue
            raise
        done.append(name)
    return done
