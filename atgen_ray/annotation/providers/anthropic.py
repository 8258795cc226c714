"""Anthropic client: single Messages, or Message Batches.

https://docs.anthropic.com/en/api/messages and
https://docs.anthropic.com/en/api/creating-message-batches
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from atgen_ray.annotation.providers.base import (
    BatchLimits,
    BatchStatus,
    Finish,
    LookupPendingError,
    ParsedResponse,
    ProviderError,
    RawResponse,
    Shard,
    SubmittedShard,
)
from atgen_ray.annotation.providers.reasoning import split_reasoning
from atgen_ray.annotation.providers.sdk import (
    ANTHROPIC,
    CACHED_BYTES,
    REQUEST_HEADER,
    SKEW,
    batch_limits,
    client_settings,
    describe_counts,
    fill_gaps,
    forget_each,
    measure_body,
    read_count,
    read_error,
    read_lines,
    read_object,
    read_text,
    translated,
)
from atgen_ray.annotation.request import AnnotationRequest
from atgen_ray.config import AnthropicAnnotatorConfig
from atgen_ray.core.credentials import redact
from atgen_ray.core.errors import UserError
from atgen_ray.core.request_ids import trace
from atgen_ray.core.schema import merge_trees

BATCH_ROWS = 100_000
BATCH_BYTES = 240_000_000
FINISHES: dict[str, Finish] = {
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "refusal",
}
# HTTP status of the errors that say something about the account or the time.
STATUS = {
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "rate_limit_error": 429,
    "overloaded_error": 529,
}


class _Anthropic:
    """Code that single messages and batches share."""

    name = "anthropic"

    def __init__(self, config: AnthropicAnnotatorConfig, run: str, key: str) -> None:
        try:
            import anthropic
        except ImportError as error:
            raise UserError(
                f'{key}.type is anthropic, which needs `pip install "atgen-ray[anthropic]"`'
            ) from error
        self._sdk = anthropic
        self._config = config
        self._client = anthropic.Anthropic(
            **client_settings(config, "ANTHROPIC_API_KEY", key, ANTHROPIC)
        )
        self._client.auth_token = None  # the environment may hold another key

    def encode(self, request: AnnotationRequest) -> dict[str, Any]:
        """Return the body of a message."""
        config = self._config
        prompt = request.prompt
        turns: list[dict[str, Any]] = [
            {"role": role, "content": text} for role, text in prompt.turns
        ]
        body: dict[str, Any] = {
            "model": config.model,
            "max_tokens": request.output_limit or config.max_output_tokens,
            "system": prompt.system,
            "messages": turns,
        }
        if config.prompt_cache and prompt.shared_bytes >= CACHED_BYTES:
            mark_shared(body)
        thought = config.thinking_tokens
        off = config.reasoning_effort == "none" or thought == 0
        if off:
            body["thinking"] = {"type": "disabled"}
        elif thought:
            body["thinking"] = {"type": "enabled", "budget_tokens": thought}
        # With a budget of thought, no temperature is taken.
        if config.sent_temperature is not None and (off or not thought):
            body["temperature"] = min(1.0, config.sent_temperature)
        output: dict[str, Any] = {}
        if prompt.schema is not None:
            output["format"] = {"type": "json_schema", "schema": prompt.schema}
        if config.reasoning_effort not in (None, "none"):
            output["effort"] = config.reasoning_effort
        if output:
            body["output_config"] = output
        return merge_trees(body, config.extra_body)

    def measure(self, request: AnnotationRequest) -> int:
        return measure_body(self.encode(request))

    def read(self, body: dict[str, Any]) -> ParsedResponse:
        try:
            blocks = body["content"]
            text = "".join(str(block["text"]) for block in blocks if block["type"] == "text")
            hidden = "\n".join(
                str(block["thinking"]) for block in blocks if block["type"] == "thinking"
            )
            finish = FINISHES.get(str(body.get("stop_reason")), "stop")
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from None
        thought = split_reasoning(text)
        reasoning = "\n".join(filter(None, (hidden, thought.reasoning)))
        finish = "length" if thought.cut else finish
        return ParsedResponse(
            thought.answer, reasoning, finish, *read_usage(body), *count_cached(body)
        )


def mark_shared(body: dict[str, Any]) -> None:
    """Mark the end of what all prompts share, the system turn and the worked examples, so that
    Anthropic caches it.
    """
    mark = {"cache_control": {"type": "ephemeral"}}
    turns = body["messages"]
    if len(turns) == 1:
        body["system"] = [{"type": "text", "text": body["system"], **mark}]
    else:
        last = turns[-2]
        last["content"] = [{"type": "text", "text": last["content"], **mark}]


class AnthropicMessages(_Anthropic):
    """One message, answered at once. The provider stores none, so a lost answer cannot be looked
    up.
    """

    remembers = False

    def __init__(self, config: AnthropicAnnotatorConfig, run: str, key: str) -> None:
        super().__init__(config, run, key)
        self.limits = BatchLimits(1, BATCH_BYTES, config.concurrency)

    def create(self, shard: Shard) -> SubmittedShard:
        (attempt,) = shard.attempts
        body = self.encode(attempt.request)
        known: Any = {name: body.pop(name) for name in ("model", "max_tokens", "messages")}
        with translated(self._sdk):
            # The SDK's signature lags behind the wire, or has left it: temperature.
            raw = self._client.messages.with_raw_response.create(
                **known, extra_body=body, extra_headers={REQUEST_HEADER: trace(attempt.custom_id)}
            )
        answer = read_object(raw.http_response.text)
        if answer.get("type") == "error" and "content" not in answer:  # from a gateway
            code, message = read_error(answer)
            raise ProviderError(STATUS.get(code, 502), code, redact(message))
        return SubmittedShard(str(answer.get("id")), (RawResponse(attempt.custom_id, answer),))

    def check(self, remote: str) -> BatchStatus:
        return BatchStatus("ended", True)

    def collect(self, shard: Shard, remote: str) -> Sequence[RawResponse]:
        raise NotImplementedError("a message comes with its submission")

    def find(self, shard: Shard, known: set[str]) -> SubmittedShard | None:
        raise NotImplementedError("messages are not kept")

    def cancel(self, remote: str) -> None:
        """Do nothing: the message is answered already."""

    def forget(self, remote: str, rehearse: bool = False) -> Sequence[str]:
        return []


class AnthropicBatch(_Anthropic):
    """Message Batches. They carry no metadata: a shard is recognised by the ids of its requests,
    which contain its hash.
    """

    remembers = True

    def __init__(self, config: AnthropicAnnotatorConfig, run: str, key: str) -> None:
        super().__init__(config, run, key)
        self.limits = batch_limits(config, BATCH_ROWS, BATCH_BYTES)

    def create(self, shard: Shard) -> SubmittedShard:
        requests: Any = [
            {"custom_id": each.custom_id, "params": self.encode(each.request)}
            for each in shard.attempts
        ]
        with translated(self._sdk):
            raw = self._client.messages.batches.with_raw_response.create(requests=requests)
        return SubmittedShard(read_text(read_object(raw.http_response.text), "id"))

    def check(self, remote: str) -> BatchStatus:
        batch = self._retrieve(remote)
        status = read_text(batch, "processing_status")
        counts = describe_counts(batch.get("request_counts"))
        return BatchStatus(status, status == "ended", status == "canceling", counts)

    def collect(self, shard: Shard, remote: str) -> Sequence[RawResponse]:
        counts = self._retrieve(remote).get("request_counts") or {}
        done = read_count(counts.get("succeeded")) or 0
        rows, broken = read_lines(self._results(remote))
        return fill_gaps(shard, [_read_reply(row) for row in rows], done, broken)

    def find(self, shard: Shard, known: set[str]) -> SubmittedShard | None:
        hidden = False
        after = dict[str, Any]()
        while True:
            with translated(self._sdk):
                raw = self._client.messages.batches.with_raw_response.list(limit=100, **after)
            page = read_object(raw.http_response.text)
            batches = page.get("data") or []  # the newest first
            for batch in batches:
                if batch["id"] in known or sum((batch.get("request_counts") or {}).values()) != len(
                    shard.attempts
                ):
                    continue
                if batch["processing_status"] != "ended":
                    hidden = True  # only the results of an ended batch tell whose it is
                elif any(
                    row["custom_id"] in shard.custom_ids
                    for row in read_lines(self._results(batch["id"]))[0]
                ):
                    return SubmittedShard(batch["id"])
            oldest = (
                datetime.fromisoformat(batches[-1]["created_at"]).timestamp() if batches else 0.0
            )
            if not page.get("has_more") or oldest < shard.time - SKEW:
                break
            after = {"after_id": batches[-1]["id"]}
        if hidden:
            raise LookupPendingError
        return None

    def cancel(self, remote: str) -> None:
        with translated(self._sdk):
            self._client.messages.batches.with_raw_response.cancel(remote)

    def forget(self, remote: str, rehearse: bool = False) -> Sequence[str]:
        batches = self._client.messages.batches.with_raw_response
        call = batches.retrieve if rehearse else batches.delete
        return forget_each(self._sdk, {f"batch {remote}": lambda: call(remote)})

    def _retrieve(self, remote: str) -> dict[str, Any]:
        with translated(self._sdk):
            raw = self._client.messages.batches.with_raw_response.retrieve(remote)
        return read_object(raw.http_response.text)

    def _results(self, remote: str) -> str:
        """Return the raw result file: the SDK's own reader gives up at the first broken line."""
        import httpx2

        with translated(self._sdk):
            response = self._client.get(
                f"/v1/messages/batches/{remote}/results", cast_to=httpx2.Response
            )
        return response.text


def read_usage(body: dict[str, Any]) -> tuple[int | None, int | None]:
    """Return the prompt and output tokens of a message; None where its usage does not say them."""
    usage = body.get("usage")
    if not isinstance(usage, dict):
        return None, None
    prompt = read_count(usage.get("input_tokens"))
    if prompt is not None:
        cached = ("cache_creation_input_tokens", "cache_read_input_tokens")
        prompt += sum(read_count(usage.get(name)) or 0 for name in cached)
    return prompt, read_count(usage.get("output_tokens"))


def count_cached(body: dict[str, Any]) -> tuple[int, int]:
    """Return the prompt tokens that came out of the provider's cache, and those that went into
    it; 0 where usage does not say.
    """
    usage = body.get("usage")
    names = ("cache_read_input_tokens", "cache_creation_input_tokens")
    found, written = (
        (read_count(usage.get(name)) or 0) if isinstance(usage, dict) else 0 for name in names
    )
    return found, written


def _read_reply(row: dict[str, Any]) -> RawResponse:
    """Parse a line of a result file."""
    result = row.get("result") or {}
    kind = str(result.get("type"))
    if kind == "succeeded":
        message = result.get("message")
        return RawResponse(
            row["custom_id"], message if isinstance(message, dict) else {"unreadable": str(message)}
        )
    error = result.get("error") or {}
    error = error.get("error") or error
    return RawResponse(
        row["custom_id"],
        code=str(error.get("type") or kind),
        message=str(error.get("message") or ""),
    )
