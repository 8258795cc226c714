"""Client of Gemini: single requests through its compatible endpoint, or batch jobs of its own
protocol.

https://ai.google.dev/api/batch-api: a job has its requests inline, up to 20 MB, each with a key,
and an ended one its responses under the same keys. Its state is BATCH_STATE_PENDING, _RUNNING,
_SUCCEEDED, _FAILED, _CANCELLED or _EXPIRED; only the responses of a job that succeeded are kept.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from atgen_ray.annotation.providers.base import (
    BatchStatus,
    Finish,
    ParsedResponse,
    ProviderError,
    RawResponse,
    Shard,
    SubmittedShard,
)
from atgen_ray.annotation.providers.openai import UnstoredChat
from atgen_ray.annotation.providers.sdk import (
    NOT_SENT,
    SKEW,
    batch_limits,
    client_settings,
    fill_gaps,
    measure_body,
    read_count,
    read_error,
    read_object,
    read_text,
    read_wait,
)
from atgen_ray.annotation.request import AnnotationRequest
from atgen_ray.config import GeminiAnnotatorConfig
from atgen_ray.config.dialects import DIALECTS
from atgen_ray.core.credentials import redact
from atgen_ray.core.errors import UserError
from atgen_ray.core.schema import merge_trees

ENDED = tuple(f"BATCH_STATE_{word}" for word in ("SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED"))
BATCH_ROWS = 20_000
BATCH_BYTES = 18_000_000
PAGE = 100  # jobs
# Codes of google.rpc as they stand in single responses.
TRANSIENT = {4: "timeout_error", 8: "rate_limit_error", 13: "internal_error", 14: "server_error"}
FINISHES: dict[str, Finish] = {
    "MAX_TOKENS": "length",
    "SAFETY": "filter",
    "PROHIBITED_CONTENT": "filter",
    "BLOCKLIST": "filter",
    "SPII": "filter",
    "RECITATION": "refusal",
}


class GeminiChat(UnstoredChat):
    """Single chat completions, in Gemini's dialect."""

    name = "gemini"
    most_bytes = BATCH_BYTES


class GeminiBatch:
    """Batch jobs, recognised by the shard's hash in their names."""

    name = "gemini"
    remembers = True

    def __init__(self, config: GeminiAnnotatorConfig, run: str, key: str) -> None:
        try:
            import httpx2
        except ImportError as error:
            raise UserError(
                f'{key}.type is gemini, which needs `pip install "atgen-ray[openai]"`'
            ) from error
        self._config = config
        settings = client_settings(config, "GEMINI_API_KEY", key, DIALECTS["gemini"].url)
        root = str(settings["base_url"]).rstrip("/").removesuffix("/openai")
        self._client = httpx2.Client(
            base_url=root,
            timeout=settings["timeout"],
            headers={**config.extra_headers, "x-goog-api-key": settings["api_key"]},
        )
        self.limits = batch_limits(config, BATCH_ROWS, BATCH_BYTES)

    def encode(self, request: AnnotationRequest) -> dict[str, Any]:
        """Return the body of a request to generate content."""
        config = self._config
        prompt = request.prompt
        roles = {"user": "user", "assistant": "model"}
        settings: dict[str, Any] = {
            "maxOutputTokens": request.output_limit or config.max_output_tokens
        }
        if config.sent_temperature is not None:
            settings["temperature"] = config.sent_temperature
        if prompt.schema is not None:
            settings["responseMimeType"] = "application/json"
            settings["responseJsonSchema"] = prompt.schema
        if config.thinking_tokens is not None:
            settings["thinkingConfig"] = {"thinkingBudget": config.thinking_tokens}
        elif config.reasoning_effort == "none":
            settings["thinkingConfig"] = {"thinkingBudget": 0}
        elif config.reasoning_effort is not None:
            settings["thinkingConfig"] = {"thinkingLevel": config.reasoning_effort}
        body = {
            "systemInstruction": {"parts": [{"text": prompt.system}]},
            "contents": [
                {"role": roles[role], "parts": [{"text": text}]} for role, text in prompt.turns
            ],
            "generationConfig": settings,
        }
        return merge_trees(body, config.extra_body)

    def measure(self, request: AnnotationRequest) -> int:
        return measure_body(self.encode(request))

    def create(self, shard: Shard) -> SubmittedShard:
        requests = [
            {"request": self.encode(each.request), "metadata": {"key": each.custom_id}}
            for each in shard.attempts
        ]
        batch = {"displayName": shard.hash, "inputConfig": {"requests": {"requests": requests}}}
        model = self._config.model.removeprefix("models/")
        job = self._call("POST", f"/models/{model}:batchGenerateContent", {"batch": batch})
        return SubmittedShard(read_text(job, "name"))

    def check(self, remote: str) -> BatchStatus:
        state = read_text(self._describe(remote)[1], "state")
        return BatchStatus(state, state in ENDED)

    def collect(self, shard: Shard, remote: str) -> Sequence[RawResponse]:
        job, about = self._describe(remote)
        state = about.get("state")
        if state == "BATCH_STATE_FAILED":
            message = str((job.get("error") or {}).get("message") or "the job failed")
            return [
                RawResponse(attempt.custom_id, code="failed", message=message)
                for attempt in shard.attempts
            ]
        output = about.get("output") or job.get("response") or {}
        rows = (output.get("inlinedResponses") or {}).get("inlinedResponses") or []
        done = 0  # of a job that did not succeed, no answer is kept
        if state == "BATCH_STATE_SUCCEEDED":
            done = int((about.get("batchStats") or {}).get("successfulRequestCount") or 0)
        return fill_gaps(shard, [_read_row(row) for row in rows], done, 0)

    def find(self, shard: Shard, known: set[str]) -> SubmittedShard | None:
        token = ""
        while True:
            more = {"pageToken": token} if token else {}
            page = self._call("GET", "/batches", query={"pageSize": PAGE, **more})
            jobs = page.get("operations") or []  # the newest first
            for job in jobs:
                if (job.get("metadata") or {}).get("displayName") == shard.hash:
                    return SubmittedShard(read_text(job, "name"))
            token = page.get("nextPageToken") or ""
            if not token or _read_time(jobs[-1]) < shard.time - SKEW:
                return None

    def cancel(self, remote: str) -> None:
        self._call("POST", f"/{remote}:cancel", {})

    def forget(self, remote: str, rehearse: bool = False) -> Sequence[str]:
        try:
            self._call("GET" if rehearse else "DELETE", f"/{remote}")
        except ProviderError as error:
            if error.status == 404:
                return []
            raise
        return [f"batch {remote}"]

    def read(self, body: dict[str, Any]) -> ParsedResponse:
        usage = body.get("usageMetadata")
        usage = usage if isinstance(usage, dict) else {}
        prompt_tokens = read_count(usage.get("promptTokenCount"))
        output_tokens = read_count(usage.get("candidatesTokenCount"))
        thought_tokens = read_count(usage.get("thoughtsTokenCount")) or 0
        cached = read_count(usage.get("cachedContentTokenCount")) or 0
        if prompt_tokens is not None:  # a count of 0 is left out
            output_tokens = (output_tokens or 0) + thought_tokens
        try:
            if not body.get("candidates") and (body.get("promptFeedback") or {}).get("blockReason"):
                return ParsedResponse("", "", "filter", prompt_tokens, output_tokens, cached)
            candidate = body["candidates"][0]
            parts = (candidate.get("content") or {}).get("parts") or []
            text = "".join(str(p.get("text") or "") for p in parts if not p.get("thought"))
            hidden = "\n".join(str(p.get("text") or "") for p in parts if p.get("thought"))
            finish = FINISHES.get(str(candidate.get("finishReason")), "stop")
        except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from None
        return ParsedResponse(text.strip(), hidden, finish, prompt_tokens, output_tokens, cached)

    def _describe(self, remote: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return a job and its metadata."""
        job = self._call("GET", f"/{remote}")
        about = job.get("metadata")
        return job, about if isinstance(about, dict) else {}

    def _call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Return what the service answers. Raise ProviderError for an error."""
        import httpx2

        try:
            answer = self._client.request(method, path, json=body, params=query)
        except httpx2.HTTPError as error:
            cause = type(error).__name__
            raise ProviderError(
                None, cause, redact(f"{error} {cause}"), sent=cause not in NOT_SENT
            ) from None
        if answer.status_code < 400:
            return read_object(answer.text)
        try:
            code, message = read_error(answer.json())
        except ValueError:
            code, message = "", answer.text[:200]
        raise ProviderError(answer.status_code, code, redact(message), read_wait(answer.headers))


def _read_row(row: Mapping[str, Any]) -> RawResponse:
    """Parse one response of a job."""
    key = str((row.get("metadata") or {}).get("key"))
    response = row.get("response")
    if isinstance(response, dict):
        return RawResponse(key, response)
    error = row.get("error") or {}
    number = error.get("code") or 0
    code = TRANSIENT.get(number, str(error.get("status") or number or "no_reply"))
    return RawResponse(key, code=code, message=str(error.get("message") or ""))


def _read_time(job: Mapping[str, Any]) -> float:
    """Return when a job was created, in seconds since 1970."""
    created = str((job.get("metadata") or {}).get("createTime") or "")
    try:
        return datetime.fromisoformat(created).timestamp()
    except ValueError:
        return 0.0
