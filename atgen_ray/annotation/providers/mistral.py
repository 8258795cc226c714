"""Client of Mistral: single chat completions, or batch jobs of its own kind.

https://docs.mistral.ai/api/#tag/batch: a job has one model and files of requests, and its results
are two files whose lines are as OpenAI's. Its status is QUEUED, RUNNING, SUCCESS, FAILED,
TIMEOUT_EXCEEDED, CANCELLATION_REQUESTED or CANCELLED. OpenAI's SDK carries the calls.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from atgen_ray.annotation.providers.base import (
    BatchStatus,
    RawResponse,
    Shard,
    SubmittedShard,
)
from atgen_ray.annotation.providers.chat_wire import ChatWire
from atgen_ray.annotation.providers.openai import UnstoredChat
from atgen_ray.annotation.providers.openai_batch import read_reply
from atgen_ray.annotation.providers.sdk import (
    SKEW,
    batch_limits,
    fill_gaps,
    forget_files,
    read_files,
    read_object,
    read_text,
    translated,
)
from atgen_ray.config import MistralAnnotatorConfig
from atgen_ray.config.dialects import DIALECTS, PATH
from atgen_ray.core.strict_json import encode_json

ENDED = ("SUCCESS", "FAILED", "TIMEOUT_EXCEEDED", "CANCELLED")
BATCH_ROWS = 100_000
BATCH_BYTES = 480_000_000
PAGE = 100  # jobs
MOST_HOURS = 24


class MistralChat(UnstoredChat):
    """Single chat completions, in Mistral's dialect."""

    name = "mistral"
    most_bytes = BATCH_BYTES


class MistralBatch(ChatWire):
    """Batch jobs: a file of requests, and a job with the shard's hash in its metadata."""

    name = "mistral"
    remembers = True

    def __init__(self, config: MistralAnnotatorConfig, run: str, key: str) -> None:
        super().__init__(config, DIALECTS["mistral"], run, key)
        self.limits = batch_limits(config, BATCH_ROWS, BATCH_BYTES)

    def create(self, shard: Shard) -> SubmittedShard:
        lines = []
        for attempt in shard.attempts:
            body = self.encode(attempt.request)
            del body["model"]  # the job has it
            lines.append(encode_json({"custom_id": attempt.custom_id, "body": body}))
        content = "".join(f"{line}\n" for line in lines).encode()
        with translated(self._sdk):
            file = self._client.files.with_raw_response.create(
                file=(f"{shard.hash}.jsonl", content), purpose="batch"
            )
        job = {
            "input_files": [read_text(read_object(file.text), "id")],
            "endpoint": PATH,
            "model": self._config.model,
            "metadata": {"atgen_run": self._run, "atgen_shard": shard.hash},
            "timeout_hours": MOST_HOURS,
        }
        return SubmittedShard(read_text(self._call("post", "", body=job), "id"))

    def check(self, remote: str) -> BatchStatus:
        status = read_text(self._call("get", f"/{remote}"), "status")
        return BatchStatus(status, status in ENDED, status == "CANCELLATION_REQUESTED")

    def collect(self, shard: Shard, remote: str) -> Sequence[RawResponse]:
        job = self._call("get", f"/{remote}")
        files = [str(job[name]) for name in ("output_file", "error_file") if job.get(name)]
        if job.get("status") == "FAILED" and not files:
            said = (job.get("errors") or [{}])[0]
            message = str(said.get("message") or "the job failed")
            return [
                RawResponse(attempt.custom_id, code="failed", message=message)
                for attempt in shard.attempts
            ]
        rows, broken = read_files(self._sdk, self._client, files)
        done = int(job.get("succeeded_requests") or 0)
        return fill_gaps(shard, [_read_row(row) for row in rows], done, broken)

    def find(self, shard: Shard, known: set[str]) -> SubmittedShard | None:
        page = 0
        while True:
            query = {"page": page, "page_size": PAGE, "order_by": "-created"}
            jobs = self._call("get", "", query=query).get("data") or []  # the newest first
            for job in jobs:
                if (job.get("metadata") or {}).get("atgen_shard") == shard.hash:
                    return SubmittedShard(read_text(job, "id"))
            if len(jobs) < PAGE or jobs[-1]["created_at"] < shard.time - SKEW:
                return None
            page += 1

    def cancel(self, remote: str) -> None:
        self._call("post", f"/{remote}/cancel")

    def forget(self, remote: str, rehearse: bool = False) -> Sequence[str]:
        job = self._call("get", f"/{remote}")
        files = [str(file) for file in job.get("input_files") or ()]
        files += [str(job[name]) for name in ("output_file", "error_file") if job.get(name)]
        return forget_files(self._sdk, self._client, files, rehearse)

    def _call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Return what the jobs' endpoint answers."""
        import httpx2

        options: dict[str, Any] = {"params": dict(query)} if query else {}
        more: dict[str, Any] = {"body": body} if body is not None else {}
        with translated(self._sdk):
            answer = getattr(self._client, method)(
                f"/batch/jobs{path}", cast_to=httpx2.Response, options=options, **more
            )
        return read_object(answer.text)


def _read_row(row: dict[str, Any]) -> RawResponse:
    """Parse a line of an output or error file. An error is the body itself here."""
    response = row.get("response") or {}
    body = response.get("body")
    if isinstance(body, dict) and body.get("object") == "error":
        row = row | {"response": response | {"body": {"error": body}}}
    return read_reply(row)
