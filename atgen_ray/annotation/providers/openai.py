"""Client of OpenAI and of servers that speak its protocol: single chat completions.

https://platform.openai.com/docs/api-reference/chat
"""

from collections.abc import Sequence
from typing import Any

from atgen_ray.annotation.providers.base import (
    BatchLimits,
    BatchStatus,
    ProviderError,
    RawResponse,
    Shard,
    SubmittedShard,
)
from atgen_ray.annotation.providers.chat_wire import ChatWire, find_failure
from atgen_ray.annotation.providers.sdk import REQUEST_HEADER, forget_each, read_object, translated
from atgen_ray.config import OpenAIAnnotatorConfig, RemoteAnnotatorConfig
from atgen_ray.config.dialects import DIALECTS, find_dialect, stores_answers
from atgen_ray.core.credentials import redact
from atgen_ray.core.request_ids import trace

MOST_BYTES = 190_000_000  # of a request


class OpenAIChat(ChatWire):
    """One request, answered at once. With `recovery: stored` OpenAI stores it under the request's
    id, so it can be looked up.
    """

    def __init__(self, config: OpenAIAnnotatorConfig, run: str, key: str) -> None:
        dialect = find_dialect(config.dialect, config.base_url)
        super().__init__(config, dialect, run, key, config.api_version)
        self.remembers = stores_answers(config.recovery, config.dialect, config.base_url)
        self.limits = BatchLimits(1, MOST_BYTES, config.concurrency)

    def create(self, shard: Shard) -> SubmittedShard:
        (attempt,) = shard.attempts
        body = self.encode(attempt.request)
        if self.remembers:
            body |= {"store": True, "metadata": {"atgen_request": attempt.custom_id}}
        known = {name: body.pop(name) for name in ("model", "messages")}
        with translated(self._sdk):
            # The SDK's signature lags behind what servers take.
            raw = self._client.chat.completions.with_raw_response.create(
                **known, extra_body=body, extra_headers={REQUEST_HEADER: trace(attempt.custom_id)}
            )
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
