"""Receipts of one person's requests: a request that is repeated under its idempotency key has the
same answer as the first, and counts once.
"""

from typing import Any

import sqlalchemy as sa

from atgen_ray.annotation.human.task_store import TaskConflictError
from atgen_ray.core.hashing import hash_text
from atgen_ray.core.strict_json import encode_json
from atgen_ray.store.tables import receipts

RECEIPT_SECONDS = 86_400.0  # for so long a request may be repeated
RECEIPTS = 5_000  # most of one person in one run
KEPT = ("state", "closed", "revision", "lease_seconds")  # of an answer
Body = dict[str, Any]


class Receipts:
    """The receipts of one person in one run, within transactions that hold the run's lock.

    A receipt has neither the example nor what was said of it: both are known when it is asked for.
    """

    def __init__(self, run: str, annotator: str) -> None:
        self._run = run
        self._annotator = annotator
        self._mine = (receipts.c.run == run) & (receipts.c.annotator == annotator)

    def find(self, connection: sa.Connection, key: str, request: list[str]) -> Body | None:
        """Return what was answered to `request` under `key`; None: it is new.

        Raises:
            TaskConflictError: the key was used for another request.
        """
        known = connection.execute(
            sa.select(receipts.c.digest, receipts.c.answer).where(
                self._mine & (receipts.c.key == key)
            )
        ).one_or_none()
        if known is None:
            return None
        if known.digest != _digest(request):
            raise TaskConflictError(f"Idempotency-Key {key!r} was used for another request")
        return dict(known.answer)

    def enter(
        self, connection: sa.Connection, key: str, request: list[str], answer: Body, now: float
    ) -> None:
        """Enter what was answered, and forget what is older than may be repeated."""
        entry = {
            "run": self._run,
            "annotator": self._annotator,
            "key": key,
            "digest": _digest(request),
            "answer": {name: answer[name] for name in KEPT},
            "time": now,
        }
        connection.execute(sa.insert(receipts).values(entry))
        newest = sa.select(receipts.c.time).where(self._mine).order_by(receipts.c.time.desc())
        last = connection.execute(newest.offset(RECEIPTS).limit(1)).scalar_one_or_none()
        oldest = max(now - RECEIPT_SECONDS, last or 0.0)
        connection.execute(sa.delete(receipts).where(self._mine & (receipts.c.time <= oldest)))


def _digest(request: list[str]) -> str:
    return hash_text(encode_json(request))
