"""Requests of a round that are still to be sent, cut into shards within the provider's limits."""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from atgen_ray.annotation.llm.request_records import RequestRecord, Settlement
from atgen_ray.annotation.providers.base import Provider, Shard
from atgen_ray.annotation.request import AnnotationRequest, Key


class PendingRequests:
    """Queue of requests to send, and the count of those that are finished."""

    def __init__(
        self,
        requests: Mapping[Key, AnnotationRequest],
        latest: Mapping[Key, RequestRecord],
        provider: Provider,
    ) -> None:
        self._provider = provider
        self.total = len(requests)
        self.finished = 0
        self.todo: deque[tuple[AnnotationRequest, int]] = deque()
        for key, request in requests.items():
            row = latest.get(key)
            if row is None:
                self.todo.append((request, 0))
            elif row.state == "unanswered":
                self.todo.append((request, row.attempt + 1))
            elif row.state != "sent":
                self.finished += 1

    def next_shards(self, shards: int, rows: int) -> list[list[tuple[AnnotationRequest, int]]]:
        """Remove and return the requests of the next `shards` shards, each of at most `rows` and
        within the provider's limits.
        """
        limits = self._provider.limits
        pieces = list[list[tuple[AnnotationRequest, int]]]()
        while self.todo and len(pieces) < shards:
            piece = list[tuple[AnnotationRequest, int]]()
            size = 0
            while self.todo and len(piece) < min(rows, limits.rows):
                size += self._provider.measure(self.todo[0][0])
                if piece and size > limits.bytes:
                    break
                piece.append(self.todo.popleft())
            pieces.append(piece)
        return pieces

    def put_back(
        self, pieces: Sequence[Sequence[tuple[AnnotationRequest, int]]], sent: int
    ) -> None:
        """Return all but the first `sent` of the taken requests to the head of the queue."""
        taken = [each for piece in pieces for each in piece]
        self.todo.extendleft(reversed(taken[sent:]))

    def record(self, settlements: Mapping[str, Settlement], shards: Iterable[Shard]) -> None:
        """Count settled requests as finished; requests that stayed unanswered wait again."""
        for shard in shards:
            for attempt in shard.attempts:
                settlement = settlements.get(attempt.custom_id)
                if settlement is None:
                    continue
                if settlement.state == "unanswered":
                    # Whether the answer must be short is decided when it is sent.
                    request = replace(attempt.request, output_limit=None)
                    self.todo.append((request, attempt.number + 1))
                else:
                    self.finished += 1
