"""Helpers of the paid providers' clients: SDK errors, and files of JSON lines."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from atgen_ray.annotation.providers.base import BatchLimits, ProviderError, RawResponse, Shard
from atgen_ray.config import RemoteAnnotatorConfig
from atgen_ray.config.dialects import DIALECTS, KEY
from atgen_ray.core.credentials import read_key, redact
from atgen_ray.core.errors import UserError
from atgen_ray.core.strict_json import encode_json

NOT_SENT = ("ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol")
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
        inner: dict[str, Any] = error.body if isinstance(error.body, dict) else {}
        # One SDK has unwrapped the outer object, the other has not.
        if isinstance(inner.get("error"), dict):
            inner = inner["error"]
        code = str(inner.get("code") or inner.get("type") or "")
        message = redact(str(inner.get("message") or error.message))
        raise ProviderError(
            error.status_code, code, message, read_wait(error.response.headers)
        ) from None
    except sdk.APIConnectionError as error:
        cause = type(error.__cause__).__name__
        raise ProviderError(
            None, cause, redact(f"{error.message} {cause}"), sent=cause not in NOT_SENT
        ) from None
    except sdk.APIResponseValidationError as error:
        raise ProviderError(200, "malformed", redact(error.message)) from None


def read_wait(headers: Any) -> float | None:
    """Return the seconds of a Retry-After header, or None; a date there is ignored, and our own
    waits apply.
    """
    try:
        return float(headers.get("retry-after", ""))
    except ValueError:
        return None


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
    for _ in range(2):  # a line may have been broken in transit
        rows = list[dict[str, Any]]()
        broken = 0
        for file in files:
            with translated(sdk):
                content = client.files.content(file).text
            more, lost = read_lines(content)
            rows = rows + more
            broken = broken + lost
        if not broken:
            break
    return rows, broken


def count_cached(usage: Mapping[str, Any]) -> tuple[int, int]:
    """Return the prompt tokens that came out of the provider's cache, and those that went into it,
    by a chat completion's `usage`; 0 where it does not say.
    """
    details = usage.get("prompt_tokens_details")
    details = details if isinstance(details, dict) else {}
    # DeepSeek counts in a key of its own.
    found = details.get("cached_tokens") or usage.get("prompt_cache_hit_tokens") or 0
    written = details.get("cache_write_tokens") or 0
    return int(found), int(written)


def measure_body(body: dict[str, Any]) -> int:
    """Return the bytes of a request in a batch file: its JSON, and an allowance for the id and the
    envelope.
    """
    return len(encode_json(body).encode()) + ENVELOPE


def fill_gaps(
    shard: Shard, replies: list[RawResponse], done: int, broken: int
) -> list[RawResponse]:
    """Return `replies`, and a body that says so for each request that is done but cannot be read.

    `done` is the number of answers by the provider's count. An unreadable answer is paid for, so it
    is not requested again.
    """
    answered = sum(
        reply.body is not None and reply.custom_id in shard.custom_ids for reply in replies
    )
    missing = sorted(shard.custom_ids - {reply.custom_id for reply in replies})
    if not broken and answered >= done:
        return replies
    return replies + [
        RawResponse(custom_id, {"unreadable": f"{broken} broken lines in the file"})
        for custom_id in missing
    ]
