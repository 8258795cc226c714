"""Client of OpenAI and of servers that speak its protocol: single chat completions, or batch jobs.

https://platform.openai.com/docs/api-reference/chat and
https://platform.openai.com/docs/guides/batch
"""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from atgen_ray.annotation.providers.base import (
    BatchLimits,
    BatchStatus,
    Finish,
    ParsedResponse,
    ProviderError,
    RawResponse,
    ResultsPendingError,
    Shard,
    SubmittedShard,
)
from atgen_ray.annotation.providers.reasoning import split_reasoning, write_thinking
from atgen_ray.annotation.providers.sdk import (
    SKEW,
    batch_limits,
    client_settings,
    count_cached,
    describe_counts,
    fill_gaps,
    forget_each,
    forget_files,
    measure_body,
    read_count,
    read_error,
    read_files,
    read_object,
    read_text,
    translated,
)
from atgen_ray.annotation.request import AnnotationRequest
from atgen_ray.config import OpenAIAnnotatorConfig, RemoteAnnotatorConfig
from atgen_ray.config.dialects import (
    DIALECTS,
    Dialect,
    find_dialect,
    is_own_address,
    stores_answers,
    wants_completion_limit,
)
from atgen_ray.core.credentials import redact
from atgen_ray.core.errors import UserError
from atgen_ray.core.schema import merge_trees
from atgen_ray.core.strict_json import encode_json

ENDED = ("completed", "failed", "expired", "cancelled")
BATCH_ROWS = 50_000
BATCH_BYTES = 190_000_000
FINISHES: dict[str, Finish] = {"stop": "stop", "length": "length", "content_filter": "filter"}


class ChatWire:
    """Code of all that speak chat completions: the client, bodies and answers."""

    name = "openai"

    def __init__(
        self,
        config: RemoteAnnotatorConfig,
        dialect: Dialect,
        run: str,
        key: str,
        api_version: str | None = None,
    ) -> None:
        try:
            import openai
        except ImportError as error:
            raise UserError(
                f'{key}.type is {self.name}, which needs `pip install "atgen-ray[openai]"`'
            ) from error
        self._sdk = openai
        self._config = config
        self._run = run
        self._dialect = dialect
        settings = client_settings(config, dialect.variable, key, dialect.url)
        self._client: Any = (
            openai.OpenAI(**settings)
            if api_version is None
            else openai.AzureOpenAI(api_version=api_version, **settings)
        )
        if not is_own_address(DIALECTS["openai"], config.base_url or dialect.url):
            # The SDK would tell any server of the account that the environment names.
            self._client.organization = None
            self._client.project = None

    def encode(self, request: AnnotationRequest) -> dict[str, Any]:
        """Return the body of a chat completion."""
        config = self._config
        dialect = self._dialect
        prompt = request.prompt
        turns = [{"role": "system", "content": prompt.system}]
        turns += [{"role": role, "content": text} for role, text in prompt.turns]
        limit = dialect.limit
        if limit == "by model":
            new = wants_completion_limit(config.model)
            limit = "max_completion_tokens" if new else "max_tokens"
        body = {
            "model": config.model,
            "messages": turns,
            limit: request.output_limit or config.max_output_tokens,
        }
        if config.sent_temperature is not None:
            body["temperature"] = config.sent_temperature
        if prompt.schema is not None:
            schema = {"name": "label", "schema": prompt.schema, "strict": True}
            body["response_format"] = (
                {"type": "json_schema", "json_schema": schema}
                if dialect.schema == "json_schema"
                else {"type": "json_object"}
            )
        body |= write_thinking(dialect.thinking, config.reasoning_effort, config.thinking_tokens)
        return merge_trees(body, config.extra_body)

    def measure(self, request: AnnotationRequest) -> int:
        return measure_body(self.encode(request))

    def read(self, body: dict[str, Any]) -> ParsedResponse:
        try:
            choice = body["choices"][0]
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
        except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from None
        reasoning = "\n".join(filter(None, (hidden, thought.reasoning)))
        ending: Finish = "length" if thought.cut else finish
        return ParsedResponse(
            thought.answer, reasoning, ending, *read_usage(body), *count_cached(body)
        )


class OpenAIChat(ChatWire):
    """One request, answered at once. With `recovery: stored` OpenAI stores it under the request's
    id, so it can be looked up.
    """

    def __init__(self, config: OpenAIAnnotatorConfig, run: str, key: str) -> None:
        dialect = find_dialect(config.dialect, config.base_url)
        super().__init__(config, dialect, run, key, config.api_version)
        self.remembers = stores_answers(config.recovery, config.dialect, config.base_url)
        self.limits = BatchLimits(1, BATCH_BYTES, config.concurrency)

    def create(self, shard: Shard) -> SubmittedShard:
        (attempt,) = shard.attempts
        body = self.encode(attempt.request)
        if self.remembers:
            body |= {"store": True, "metadata": {"atgen_request": attempt.custom_id}}
        known = {name: body.pop(name) for name in ("model", "messages")}
        with translated(self._sdk):
            # The SDK's signature lags behind what servers take.
            raw = self._client.chat.completions.with_raw_response.create(**known, extra_body=body)
        answer = read_object(raw.text)
        if (failure := find_failure(answer)) is not None:
            raise ProviderError(failure.status, failure.code, redact(failure.message))
        return self._submitted(attempt.custom_id, answer)

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

    def forget(self, remote: str, rehearse: bool = False) -> Sequence[str]:
        if not self.remembers:
            return []
        completions = self._client.chat.completions.with_raw_response
        call = completions.retrieve if rehearse else completions.delete
        return forget_each(self._sdk, {f"stored answer {remote}": lambda: call(remote)})

    def _submitted(self, custom_id: str, body: dict[str, Any]) -> SubmittedShard:
        return SubmittedShard(str(body.get("id")), (RawResponse(custom_id, body),))


class UnstoredChat(OpenAIChat):
    """One request, answered at once, of a provider whose dialect has its name. It stores none, so a
    lost answer cannot be looked up.
    """

    remembers = False
    most_bytes: int  # of a request

    def __init__(self, config: RemoteAnnotatorConfig, run: str, key: str) -> None:
        ChatWire.__init__(self, config, DIALECTS[self.name], run, key)
        self.limits = BatchLimits(1, self.most_bytes, config.concurrency)


class OpenAIBatch(ChatWire):
    """Batch jobs: a file of requests, a job with the shard's hash in its metadata, and its two
    result files.
    """

    remembers = True

    def __init__(self, config: OpenAIAnnotatorConfig, run: str, key: str) -> None:
        dialect = find_dialect(config.dialect, config.base_url)
        super().__init__(config, dialect, run, key, config.api_version)
        self.limits = batch_limits(config, BATCH_ROWS, BATCH_BYTES)
        # Files by the hash of their shard: a new one may not be found for a while, and to upload
        # another each time would never come to an end.
        self._uploads: dict[str, str] = {}

    def create(self, shard: Shard) -> SubmittedShard:
        file = self._uploads.get(shard.hash) or self._upload(shard)
        self._uploads[shard.hash] = file
        path: Any = self._dialect.batches
        with translated(self._sdk):
            batch = self._client.batches.with_raw_response.create(
                completion_window="24h",
                endpoint=path,
                input_file_id=file,
                metadata={"atgen_run": self._run, "atgen_shard": shard.hash},
            )
        remote = read_text(read_object(batch.text), "id")
        del self._uploads[shard.hash]
        return SubmittedShard(remote)

    def _upload(self, shard: Shard) -> str:
        """Upload the requests of a shard; return the id of their file."""
        lines = [
            encode_json(
                {
                    "custom_id": attempt.custom_id,
                    "method": "POST",
                    "url": self._dialect.batches,
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
        return read_text(read_object(file.text), "id")

    def check(self, remote: str) -> BatchStatus:
        batch = self._retrieve(remote)
        status = read_text(batch, "status")
        counts = describe_counts(batch.get("request_counts"))
        return BatchStatus(status, status in ENDED, status == "cancelling", counts)

    def collect(self, shard: Shard, remote: str) -> Sequence[RawResponse]:
        batch = self._retrieve(remote)
        done = read_count((batch.get("request_counts") or {}).get("completed")) or 0
        if done and not batch.get("output_file_id"):
            raise ResultsPendingError(
                f"{done} answers are there by its count, and no file with them"
            )
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
        rows, broken = read_files(self._sdk, self._client, files)
        return fill_gaps(shard, [read_reply(row) for row in rows], done, broken)

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

    def forget(self, remote: str, rehearse: bool = False) -> Sequence[str]:
        batch = self._retrieve(remote)
        names = ("input_file_id", "output_file_id", "error_file_id")
        files = [str(batch[name]) for name in names if batch.get(name)]
        return forget_files(self._sdk, self._client, files, rehearse)

    def _retrieve(self, remote: str) -> dict[str, Any]:
        with translated(self._sdk):
            return read_object(self._client.batches.with_raw_response.retrieve(remote).text)


def read_reply(row: dict[str, Any]) -> RawResponse:
    """Parse a line of an output or error file."""
    response = row.get("response") or {}
    body = response.get("body")
    status = read_count(response.get("status_code")) or 0
    if status == 200 and isinstance(body, dict) and (failure := find_failure(body)) is not None:
        code = failure.code or str(failure.status)
        return RawResponse(
            row["custom_id"], code=code, message=failure.message, status=failure.status
        )
    if status == 200:
        return RawResponse(
            row["custom_id"], body if isinstance(body, dict) else {"unreadable": json.dumps(body)}
        )
    code, message = read_error(body)
    if not (code or message):
        code, message = read_error(row.get("error"))
    if status >= 500:
        code = "server_error"
    return RawResponse(
        row["custom_id"],
        code=code or str(status or "no_reply"),
        message=message,
        status=status or None,
    )


class Failure(NamedTuple):
    """An error within a response of status 200: the status that it should have had."""

    status: int
    code: str
    message: str


def find_failure(body: dict[str, Any]) -> Failure | None:
    """Return the error in a response of status 200 that has no answer, as routers of models send
    it; None where there is an answer, or no error.
    """
    choices = body.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    error = body.get("error")
    if choice is not None:
        message = choice.get("message") if isinstance(choice, dict) else None
        if not isinstance(choice, dict) or (isinstance(message, dict) and message.get("content")):
            return None
        error = choice.get("error") or error
    if not error or any(read_usage(body)):
        return None  # an error after billed tokens is an answer, if a bad one
    code, message = read_error({"error": error})
    number = error.get("code") if isinstance(error, dict) else None
    status = int(str(number)) if str(number).isdecimal() else 0
    status = status if 400 <= status < 600 else 502
    return Failure(status, code, message or "status 200 with an error and no answer")


def read_usage(body: dict[str, Any]) -> tuple[int | None, int | None]:
    """Return the prompt and output tokens of a response; None where its usage does not say them.

    Some servers leave reasoning out of the tokens of the completion: the total has it.
    """
    usage = body.get("usage")
    if not isinstance(usage, dict):
        return None, None
    prompt = read_count(usage.get("prompt_tokens"))
    output = read_count(usage.get("completion_tokens"))
    total = read_count(usage.get("total_tokens"))
    details = usage.get("completion_tokens_details")
    thought = read_count(details.get("reasoning_tokens")) if isinstance(details, dict) else None
    if total is not None and prompt is None and output is not None:
        prompt = max(0, total - output)
    elif total is not None and prompt is not None:
        output = max(output or 0, total - prompt)
    elif output is not None and (thought or 0) > output:
        output += thought or 0
    return prompt, output
