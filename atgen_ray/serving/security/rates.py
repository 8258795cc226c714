"""Rates and budgets of tokens: requests a minute, and tokens of models a day.

Requests are counted in the memory of a replica, as the other limits are. Tokens of models are
counted in the database, to which each replica writes its sums every few seconds.
"""

import math
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import sqlalchemy as sa

from atgen_ray.config.usage import UsageConfig
from atgen_ray.core.errors import StorageUnavailableError
from atgen_ray.serving.errors import ApiError
from atgen_ray.serving.security.callers import Caller
from atgen_ray.serving.security.quotas import UsageBook
from atgen_ray.store.database import Database
from atgen_ray.store.tables import token_usage

DAY = 86_400.0
FLUSH_SECONDS = 5.0
MOST_CALLERS = 10_000  # whose requests are remembered at once


class RequestRates:
    """Requests a minute by token: a bucket that holds a minute's requests and fills evenly."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}  # what is left, and when

    def take(self, caller: Caller, default: int | None) -> None:
        """Count a request of `caller`; `default` is the limit of tokens that have none.

        Raises:
            ApiError: 429 with Retry-After, the token has sent too many.
        """
        limit = caller.minute_requests or default
        if limit is None:
            return
        now = self._clock()
        left, last = self._buckets.pop(caller.id, (float(limit), now))
        left = min(float(limit), left + (now - last) * limit / 60)
        if len(self._buckets) >= MOST_CALLERS:
            self._buckets.pop(next(iter(self._buckets)))  # the one that was silent longest
        allowed = left >= 1
        self._buckets[caller.id] = (left - 1 if allowed else left, now)
        if not allowed:
            wait = math.ceil((1 - left) * 60 / limit)
            raise ApiError(
                429,
                f"the token has sent {limit} requests in a minute, expected no more; the next one "
                f"in {wait} s",
                wait,
            )


class ModelBudget:
    """Tokens of models by token and day (UTC). Safe to use from threads."""

    def __init__(
        self,
        database: Database,
        clock: Callable[[], float] = time.time,
        usage: UsageConfig | None = None,
    ) -> None:
        """Prepare for one database; `usage` are prices and quotas."""
        self.book = UsageBook(database, usage or UsageConfig(), clock)
        self._database = database
        self._clock = clock
        self._lock = threading.Lock()
        self._unsaved: dict[tuple[str, int], int] = {}
        self._saved = 0.0

    def check(self, caller: Caller) -> None:
        """Check that the token has some left of today, and its person of each quota.

        Raises:
            ApiError: 429 with Retry-After, it has used them all.
        """
        self.book.check(caller)
        if caller.day_tokens is None:
            return
        now = self._clock()
        used = self.count(caller.id, now)
        if used >= caller.day_tokens:
            wait = math.ceil(DAY - now % DAY)
            raise ApiError(
                429,
                f"the token has used {used} tokens of models today, expected at most "
                f"{caller.day_tokens}; a new day begins in {wait} s",
                wait,
            )

    def add(self, caller: Caller, model_tokens: int) -> None:
        """Count what an answer took."""
        if caller.day_tokens is None or model_tokens <= 0:
            return
        now = self._clock()
        key = (caller.id, int(now // DAY))
        with self._lock:
            self._unsaved[key] = self._unsaved.get(key, 0) + model_tokens
            due = now - self._saved >= FLUSH_SECONDS
        if due:
            self.flush()

    def count(self, token: str, now: float) -> int:
        """Return how many the token has used on the day of `now`, by all replicas."""
        day = int(now // DAY)
        mine = (token_usage.c.token == token) & (token_usage.c.day == day)
        with self._lock:
            unsaved = self._unsaved.get((token, day), 0)
        with self._database.reading() as connection:
            query = sa.select(token_usage.c.model_tokens).where(mine)
            return unsaved + (connection.execute(query).scalar_one_or_none() or 0)

    def flush(self) -> None:
        """Write the sums to the database; they are kept where it is away."""
        self.book.flush()
        with self._lock, suppress(StorageUnavailableError):
            with self._database.writing() as connection:
                for (token, day), used in self._unsaved.items():
                    row = {"token": token, "day": day}
                    new = self._database.insert_new(token_usage)
                    connection.execute(new.values(row | {"model_tokens": 0}))
                    mine = (token_usage.c.token == token) & (token_usage.c.day == day)
                    total = token_usage.c.model_tokens + used
                    connection.execute(
                        sa.update(token_usage).where(mine).values(model_tokens=total)
                    )
            self._unsaved = {}
            self._saved = self._clock()
