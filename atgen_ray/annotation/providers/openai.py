"""Client of OpenAI and of servers that speak its protocol: single chat completions, or batch jobs.

https://platform.openai.com/docs/api-reference/chat and
https://platform.openai.com/docs/guides/batch
"""

import json
from collections.abc import Sequence
from typing import Any

from atgen_ray.annotation.providers.base import (
    BatchLimits,
    BatchStatus,
    Finish,
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
from atgen_ray.config import OpenAIAnnotatorConfig
from atgen_ray.core.errors import UserError
from atgen_ray.core.strict_json import encode_json

ENDED = ("completed", "failed", "expired", "cancelled")
BATCH_ROWS = 50_000
BATCH_BYTES = 190_000_000
FINISHES: dict[str, Finish] = {"stop": "stop", "length": "length", "content_filter": "filter"}


class _OpenAI:
    """Code that single requests and batch jobs share."""

    name = "openai"

    def __init__(self, config: OpenAIAnnotatorConfig, run: str, key: str) -> None:
        try:
            import openai
        except ImportError as error:
            raise UserError(
                f'{key}.type is openai, which needs `pip install "atgen-ray[openai]"`'
            ) from error
        self._sdk = openai
        self._config = config
        self._run = run
        self._client = openai.OpenAI(**client_settings(config, "OPENAI_API_KEY", key))

    def encode(self, request: AnnotationRequest) -> dict[str, Any]:
        """Return the body of a chat completion."""
        config = self._config
        prompt = request.prompt
        turns = [{"role": "system", "content": prompt.system}]
        turns += [{"role": role, "content": text} for role, text in prompt.turns]
        # OpenAI's reasoning models refuse max_tokens, many compatible servers know nothing else.
        limit = "max_completion_tokens" if config.base_url is None else "max_tokens"
        body = {"model": config.model, "messages": turns, limit: config.max_output_tokens}
        if config.temperature is not None:
            body["temperature"] = config.temperature
        if prompt.schema is not None:
            schema = {"name": "label", "schema": prompt.schema, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return body

    def measure(self, request: AnnotationRequest) -> int:
        return measure_body(self.encode(request))

    def read(self, body: dict[str, Any]) -> ParsedResponse:
        try:
            choice = body["choices"][0]
            usage = body["usage"]
            message = choice["message"]
            content = message.get("content") or ""
            if isinstance(content, list):  # Mistral's servers return reasoning and text as parts
                parts = [part if isinstance(part, dict) else {} for part in content]
                content = "".join(
                    str(part.get("text") or "") for part in parts if part.get("type") == "text"
                )
            thought = split_reasoning(str(content))
            hidden = str(message.get("reasoning_content") or message.get("reasoning") or "")
            finish: Finish = (
                "refusal"
                if message.get("refusal")
                else FINISHES.get(str(choice.get("finish_reason")), "stop")
            )
            tokens = int(usage["prompt_tokens"]), int(usage.get("completion_tokens") or 0)
        except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from None
        reasoning = "\n".join(filter(None, (hidden, thought.reasoning)))
        ending: Finish = "length" if thought.cut else finish
        return ParsedResponse(thought.answer, reasoning, ending, *tokens)


class OpenAIChat(_OpenAI):
    """One request, answered at once. With `recovery: stored` OpenAI stores it under the request's
    id, so it can be looked up.
    """

    def __init__(self, config: OpenAIAnnotatorConfig, run: str, key: str) -> None:
        super().__init__(config, run, key)
        stored = config.recovery == "stored" or (
            config.recovery == "auto" and config.base_url is None
        )
        self.remembers = stored
        self.limits = BatchLimits(1, BATCH_BYTES, config.concurrency)

    def create(self, shard: Shard) -> SubmittedShard:
        (attempt,) = shard.attempts
        body = self.encode(attempt.request)
        if self.remembers:
            body |= {"store": True, "metadata": {"atgen_request": attempt.custom_id}}
        with translated(self._sdk):
            raw = self._client.chat.completions.with_raw_response.create(**body)
        return self._submitted(attempt.custom_id, read_object(raw.text))

    def find(self, shard: Shard, known: set[str]) -> SubmittedShard | None:
        (attempt,) = shard.attempts
        mine = {"atgen_request": attempt.custom_id}
        with translated(self._sdk):
            raw = self._client.chat.completions.with_raw_response.list(metadata=mine, limit=1)
        for found in read_object(raw.text).get("data") or []:
            if (found.get("metadata") or {}).get("atgen_request") == attempt.custom_id:
                return self._submitted(attempt.custom_id, found)
        return None

    def check(self, remote: str) -> BatchStatus:
        return BatchStatus("completed", True)

    def collect(self, shard: Shard, remote: str) -> Sequence[RawResponse]:
        raise NotImplementedError("a chat completion comes with its submission")

    def cancel(self, remote: str) -> None:
        """Do nothing: the request is answered already."""

    def _submitted(self, custom_id: str, body: dict[str, Any]) -> SubmittedShard:
        return SubmittedShard(str(body.get("id")), (RawResponse(custom_id, body),))


class OpenAIBatch(_OpenAI):
    """Batch jobs: a file of requests, a job with the shard's hash in its metadata, and its two
    result files.
    """

    remembers = True

    def __init__(self, config: OpenAIAnnotatorConfig, run: str, key: str) -> None:
        super().__init__(config, run, key)
        self.limits = batch_limits(config, BATCH_ROWS, BATCH_BYTES)

    def create(self, shard: Shard) -> SubmittedShard:
        lines = [
            encode_json(
                {
                    "custom_id": attempt.custom_id,
                    "method": "POST",
                    "url": "/v1/chat/completions",
                    "body": self.encode(attempt.request),
                }
            )
            for attempt in shard.attempts
        ]
        content = "".join(f"{line}\n" for line in lines).encode()
        with translated(self._sdk):
            file = self._client.files.with_raw_response.create(
                file=(f"{shard.hash}.jsonl", content), purpose="batch"
            )
            batch = self._client.batches.with_raw_response.create(
                completion_window="24h",
                endpoint="/v1/chat/completions",
                input_file_id=read_text(read_object(file.text), "id"),
                metadata={"atgen_run": self._run, "atgen_shard": shard.hash},
            )
        return SubmittedShard(read_text(read_object(batch.text), "id"))

    def check(self, remote: str) -> BatchStatus:
        status = read_text(self._retrieve(remote), "status")
        return BatchStatus(status, status in ENDED, status == "cancelling")

    def collect(self, shard: Shard, remote: str) -> Sequence[RawResponse]:
        batch = self._retrieve(remote)
        files = [
            str(batch[name]) for name in ("output_file_id", "error_file_id") if batch.get(name)
        ]
        if batch.get("status") == "failed" and not files:
            said = ((batch.get("errors") or {}).get("data") or [{}])[0]
            code = str(said.get("code") or "failed")
            message = str(said.get("message") or "the batch failed")
            return [
                RawResponse(attempt.custom_id, code=code, message=message)
                for attempt in shard.attempts
            ]
        for _ in range(2):  # a line may have been broken in transit
            rows = list[dict[str, Any]]()
            broken = 0
            for file in files:
                with translated(self._sdk):
                    content = self._client.files.content(file).text
                more, lost = read_lines(content)
                rows = rows + more
                broken = broken + lost
            if not broken:
                break
        done = int((batch.get("request_counts") or {}).get("completed") or 0)
        return fill_gaps(shard, [_read_reply(row) for row in rows], done, broken)

    def find(self, shard: Shard, known: set[str]) -> SubmittedShard | None:
        after: dict[str, Any] = {}
        while True:
            with translated(self._sdk):
                raw = self._client.batches.with_raw_response.list(limit=100, **after)
            page = read_object(raw.text)
            batches = page.get("data") or []  # the newest first
            for batch in batches:
                if (batch.get("metadata") or {}).get("atgen_shard") == shard.hash:
                    return SubmittedShard(read_text(batch, "id"))
            if (
                not (page.get("has_more") and batches)
                or batches[-1]["created_at"] < shard.time - SKEW
            ):
                return None
            after = {"after": batches[-1]["id"]}

    def cancel(self, remote: str) -> None:
        with translated(self._sdk):
            self._client.batches.with_raw_response.cancel(remote)

    def _retrieve(self, remote: str) -> dict[str, Any]:
        with translated(self._sdk):
            return read_object(self._client.batches.with_raw_response.retrieve(remote).text)


def _read_reply(row: dict[str, Any]) -> RawResponse:
    """Parse a line of an output or error file."""
    response = row.get("response") or {}
    error = row.get("error") or {}
    body = response.get("body")
    if response.get("status_code") == 200:
        return RawResponse(
            row["custom_id"], body if isinstance(body, dict) else {"unreadable": json.dumps(body)}
        )
    inner = (body.get("error") if isinstance(body, dict) else None) or error
    code = str(inner.get("code") or inner.get("type") or response.get("status_code") or "no_reply")
    if int(response.get("status_code") or 0) >= 500:
        code = "server_error"
    return RawResponse(row["custom_id"], code=code, message=str(inner.get("message") or ""))
