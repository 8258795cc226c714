"""The questions of a round as they are sent out in shards and come back."""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence

from atgen_ray.annotation.llm.request_log import RequestRecord, Settlement
from atgen_ray.annotation.providers.base import Provider, Shard
from atgen_ray.annotation.request import AnnotationRequest, Key


class PendingRequests:
    """Which questions wait to be sent, which are under way, and which are done."""

    def __init__(
        self,
        asks: Mapping[Key, AnnotationRequest],
        latest: Mapping[Key, RequestRecord],
        provider: Provider,
    ) -> None:
        self._provider = provider
        self.total = len(asks)
        self.finished = 0
        self.todo: deque[tuple[AnnotationRequest, int]] = deque()
        for key, ask in asks.items():
            row = latest.get(key)
            if row is None:
                self.todo.append((ask, 0))
            elif row.state == "unanswered":
                self.todo.append((ask, row.attempt + 1))
            elif row.state != "sent":
                self.finished += 1

    def take(self, shards: int) -> list[list[tuple[AnnotationRequest, int]]]:
        """The questions of the next `shards` shards, each within the provider's limits."""
        limits = self._provider.limits
        pieces = list[list[tuple[AnnotationRequest, int]]]()
        while self.todo and len(pieces) < shards:
            piece = list[tuple[AnnotationRequest, int]]()
            size = 0
            while self.todo and len(piece) < limits.rows:
                size += self._provider.measure(self.todo[0][0])
                if piece and size > limits.bytes:
                    break
                piece.append(self.todo.popleft())
            pieces.append(piece)
        return pieces

    def put_back(
        self, pieces: Sequence[Sequence[tuple[AnnotationRequest, int]]], sent: int
    ) -> None:
        """Returns all but the first `sent` of what was taken."""
        taken = [each for piece in pieces for each in piece]
        self.todo.extendleft(reversed(taken[sent:]))

    def note(self, receipts: Mapping[str, Settlement], shards: Iterable[Shard]) -> None:
        """Questions that stayed unanswered wait again."""
        for shard in shards:
            for sending in shard.sendings:
                receipt = receipts.get(sending.custom_id)
                if receipt is None:
                    continue
                if receipt.state == "unanswered":
                    self.todo.append((sending.ask, sending.attempt + 1))
                else:
                    self.finished += 1
