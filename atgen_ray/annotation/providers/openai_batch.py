"""Batch jobs of OpenAI, and of Azure and others that speak its protocol.

https://platform.openai.com/docs/guides/batch
https://learn.microsoft.com/azure/foundry/openai/how-to/batch: Azure's files are pending for a
while, its jobs may have no metadata, their status may begin with a capital and their times be
texts, and a job that failed names files that are empty.
"""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from atgen_ray.annotation.providers.base import (
    FILE_PENDING,
    BatchStatus,
    LookupPendingError,
    ProviderError,
    RawResponse,
    ResultsPendingError,
    Shard,
    SubmittedShard,
)
from atgen_ray.annotation.providers.chat_wire import ChatWire, find_failure
from atgen_ray.annotation.providers.sdk import (
    REQUEST_HEADER,
    SKEW,
    batch_limits,
    describe_counts,
    fill_gaps,
    forget_files,
    read_count,
    read_error,
    read_files,
    read_object,
    read_text,
    translated,
)
from atgen_ray.config import OpenAIAnnotatorConfig
from atgen_ray.config.dialects import DIALECTS, find_dialect
from atgen_ray.core.request_ids import trace
from atgen_ray.core.strict_json import encode_json

ENDED = ("completed", "failed", "expired", "cancelled")
UNPROCESSED = ("pending", "notrunning", "running")  # files that no job can read yet
KEPT_SECONDS = 14 * 86_400  # for which Azure keeps files of requests; it takes no fewer
BATCH_ROWS = 50_000
BATCH_BYTES = 190_000_000


class OpenAIBatch(ChatWire):
    """Batch jobs: a file of requests, a job with the shard's hash in its metadata, and its two
    result files. The hash is the name of the file too, for servers that drop the metadata.
    """

    remembers = True

    def __init__(self, config: OpenAIAnnotatorConfig, run: str, key: str) -> None:
        dialect = find_dialect(config.dialect, config.base_url)
        if config.api_version is not None and config.base_url is not None:
            # Files and jobs belong to the resource; each request names the deployment.
            address = config.base_url.partition("/deployments/")[0]
            config = config.model_copy(update={"base_url": address})
        super().__init__(config, dialect, run, key, config.api_version)
        self.limits = batch_limits(config, BATCH_ROWS, BATCH_BYTES)
        # Files by the hash of their shard: a new one may not be found for a while, and to upload
        # another each time would never come to an end.
        self._uploads: dict[str, str] = {}
        self._unprocessed: set[str] = set()
        self._options: dict[str, Any] = {}
        if dialect is DIALECTS["azure"] and config.api_version is None:
            # Azure has room for 500 files that never end, and for 10,000 that do.
            self._options["expires_after"] = {"anchor": "created_at", "seconds": KEPT_SECONDS}

    def create(self, shard: Shard) -> SubmittedShard:
        file = self._uploads.get(shard.hash) or self._upload(shard)
        if file in self._unprocessed:
            self._await_file(file)
        path: Any = self._dialect.batches
        with translated(self._sdk):
            batch = self._client.batches.with_raw_response.create(
                completion_window="24h",
                endpoint=path,
                input_file_id=file,
                metadata={"atgen_run": self._run, "atgen_shard": shard.hash},
                extra_headers={REQUEST_HEADER: trace(shard.hash)},
            )
        remote = read_text(read_object(batch.text), "id")
        del self._uploads[shard.hash]
        return SubmittedShard(remote)

    def _upload(self, shard: Shard) -> str:
        """Upload the requests of a shard and keep the id of their file, which is returned."""
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
            raw = self._client.files.with_raw_response.create(
                file=(name_file(shard), content), purpose="batch", **self._options
            )
        file = read_object(raw.text)
        self._uploads[shard.hash] = id_ = read_text(file, "id")
        if str(file.get("status")).lower() in UNPROCESSED:
            self._unprocessed.add(id_)
        return id_

    def _await_file(self, file: str) -> None:
        """Raise ProviderError while no job can read the file: it is looked at again later."""
        status = str(self._retrieve_file(file).get("status")).lower()
        if status in UNPROCESSED:
            raise ProviderError(404, FILE_PENDING, f"its file of requests is {status}")
        self._unprocessed.discard(file)

    def check(self, remote: str) -> BatchStatus:
        batch = self._retrieve(remote)
        status = read_text(batch, "status").lower()
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
        rows, broken = read_files(self._sdk, self._client, files)
        replies = [read_reply(row) for row in rows]
        if str(batch.get("status")).lower() == "failed" and not done:
            said = ((batch.get("errors") or {}).get("data") or [{}])[0]
            code = str(said.get("code") or "failed")
            message = str(said.get("message") or "the batch failed")
            silent = shard.custom_ids - {reply.custom_id for reply in replies}
            replies += [RawResponse(id_, code=code, message=message) for id_ in sorted(silent)]
        return fill_gaps(shard, replies, done, broken)

    def find(self, shard: Shard, known: set[str]) -> SubmittedShard | None:
        after: dict[str, Any] = {}
        while True:
            with translated(self._sdk):
                raw = self._client.batches.with_raw_response.list(limit=100, **after)
            page = read_object(raw.text)
            batches = page.get("data") or []  # the newest first
            for batch in batches:
                if self._is_of(batch, shard, known):
                    return SubmittedShard(read_text(batch, "id"))
            if not (page.get("has_more") and batches) or is_older(batches[-1], shard):
                return None
            after = {"after": batches[-1]["id"]}

    def _is_of(self, batch: dict[str, Any], shard: Shard, known: set[str]) -> bool:
        """Return whether a job was made for the shard, by its metadata or the name of its file."""
        metadata = batch.get("metadata")
        if metadata:
            return bool(metadata.get("atgen_shard") == shard.hash)
        if batch.get("id") in known or is_older(batch, shard) or not batch.get("input_file_id"):
            return False
        try:
            file = self._retrieve_file(str(batch["input_file_id"]))
        except ProviderError as error:
            if error.status != 404:
                raise
            # It may not be seen yet; and where it was deleted, nobody can tell whose job it is.
            raise LookupPendingError from error
        return file.get("filename") == name_file(shard)

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

    def _retrieve_file(self, file: str) -> dict[str, Any]:
        with translated(self._sdk):
            return read_object(self._client.files.with_raw_response.retrieve(file).text)


def name_file(shard: Shard) -> str:
    """Return the name of the file with the requests of a shard."""
    return f"{shard.hash}.jsonl"


def is_older(batch: dict[str, Any], shard: Shard) -> bool:
    """Return whether a job was made before the shard was logged, as far as its time tells."""
    created = batch.get("created_at")
    if isinstance(created, str):
        try:
            created = datetime.fromisoformat(created).timestamp()
        except ValueError:
            return False
    return isinstance(created, int | float) and created < shard.time - SKEW


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
