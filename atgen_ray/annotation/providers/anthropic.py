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
    RawResponse,
    Shard,
    SubmittedShard,
)
from atgen_ray.annotation.providers.reasoning import split_reasoning
from atgen_ray.annotation.providers.sdk import (
    SKEW,
    batch_limits,
    client_settings,
    fill_gaps,
    measure_body,
    read_lines,
    read_object,
    read_text,
    translated,
)
from atgen_ray.annotation.request import AnnotationRequest
from atgen_ray.config import AnthropicAnnotatorConfig
from atgen_ray.core.errors import UserError

BATCH_ROWS = 100_000
BATCH_BYTES = 240_000_000
FINISHES: dict[str, Finish] = {
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "refusal",
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
        self._client = anthropic.Anthropic(**client_settings(config, "ANTHROPIC_API_KEY", key))

    def encode(self, request: AnnotationRequest) -> dict[str, Any]:
        """Return the body of a message."""
        config = self._config
        prompt = request.prompt
        body = {
            "model": config.model,
            "max_tokens": config.max_output_tokens,
            "system": prompt.system,
            "messages": [{"role": role, "content": text} for role, text in prompt.turns],
        }
        if config.temperature is not None:
            body["temperature"] = min(1.0, config.temperature)
        if prompt.schema is not None:
            body["output_config"] = {"format": {"type": "json_schema", "schema": prompt.schema}}
        return body

    def measure(self, request: AnnotationRequest) -> int:
        return measure_body(self.encode(request))

    def read(self, body: dict[str, Any]) -> ParsedResponse:
        try:
            blocks = body["content"]
            usage = body["usage"]
            text = "".join(str(block["text"]) for block in blocks if block["type"] == "text")
            hidden = "\n".join(
                str(block["thinking"]) for block in blocks if block["type"] == "thinking"
            )
            finish = FINISHES.get(str(body.get("stop_reason")), "stop")
            cached = ("cache_creation_input_tokens", "cache_read_input_tokens")
            prompt_tokens = int(usage["input_tokens"]) + sum(
                int(usage.get(name) or 0) for name in cached
            )
            output_tokens = int(usage["output_tokens"])
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from None
        thought = split_reasoning(text)
        reasoning = "\n".join(filter(None, (hidden, thought.reasoning)))
        finish = "length" if thought.cut else finish
        return ParsedResponse(thought.answer, reasoning, finish, prompt_tokens, output_tokens)


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
        extra: dict[str, Any] = {}
        if "temperature" in body:  # the SDK takes no such argument any more, the wire does
            extra["temperature"] = body.pop("temperature")
        with translated(self._sdk):
            raw = self._client.messages.with_raw_response.create(**body, extra_body=extra)
        answer = read_object(raw.http_response.text)
        return SubmittedShard(str(answer.get("id")), (RawResponse(attempt.custom_id, answer),))

    def check(self, remote: str) -> BatchStatus:
        return BatchStatus("ended", True)

    def collect(self, shard: Shard, remote: str) -> Sequence[RawResponse]:
        raise NotImplementedError("a message comes with its submission")

    def find(self, shard: Shard, known: set[str]) -> SubmittedShard | None:
        raise NotImplementedError("messages are not kept")

    def cancel(self, remote: str) -> None:
        """Do nothing: the message is answered already."""


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
        status = read_text(self._retrieve(remote), "processing_status")
        return BatchStatus(status, status == "ended", status == "canceling")

    def collect(self, shard: Shard, remote: str) -> Sequence[RawResponse]:
        done = int((self._retrieve(remote).get("request_counts") or {}).get("succeeded") or 0)
        for _ in range(2):  # a line may have been broken in transit
            rows, broken = read_lines(self._results(remote))
            if not broken:
                break
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
