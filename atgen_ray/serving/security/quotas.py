"""Usage of a service's models by caller, and quotas.

Each replica of the API adds up what it answered and writes the sums every few seconds, as
`rates.py` does: a replica that is killed loses these seconds of answers. Fine-tuning jobs
are counted from the journal, and lose nothing.
"""

import math
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime

from atgen_ray.config.usage import QuotaConfig, UsageConfig
from atgen_ray.core.errors import StorageUnavailableError
from atgen_ray.core.money import NANO, to_nano
from atgen_ray.serving.errors import ApiError
from atgen_ray.serving.security.callers import Caller
from atgen_ray.store.database import Database
from atgen_ray.store.usage import DAY, Spent, add_usage, price_tokens, sum_usage

FLUSH_SECONDS = 5.0
EXHAUSTED = "insufficient_quota"


class UsageBook:
    """Counts and bounds what callers use. Safe to use from threads."""

    def __init__(
        self, database: Database, config: UsageConfig, clock: Callable[[], float] = time.time
    ) -> None:
        self.config = config
        self._database = database
        self._clock = clock
        self._lock = threading.Lock()
        self._unsaved: dict[tuple[str, str, int], Spent] = {}
        self._saved = 0.0

    def add(self, caller: Caller, model: str, input_tokens: int, output_tokens: int) -> None:
        """Count an answer."""
        now = self._clock()
        with self._lock:
            spent = self._unsaved.setdefault((caller.name, model, int(now // DAY)), Spent())
            spent.input_tokens += input_tokens
            spent.output_tokens += output_tokens
            due = now - self._saved >= FLUSH_SECONDS
        if due:
            self.flush()

    def flush(self) -> None:
        """Write the sums to the database; they are kept where it is away."""
        with self._lock, suppress(StorageUnavailableError):
            for key, spent in self._unsaved.items():
                spent.nano = self._price(key[1], spent)
            add_usage(self._database, self._unsaved)
            self._unsaved = {}
            self._saved = self._clock()

    def _price(self, model: str, spent: Spent) -> int:
        price = self.config.find_price(model)
        return price_tokens(spent.input_tokens, price.input) + price_tokens(
            spent.output_tokens, price.output
        )

    def find_quota(self, caller: Caller) -> QuotaConfig:
        """Return the quota of a caller; admins have none but under their names."""
        named = self.config.quotas.get(caller.name)
        if named is not None:
            return named
        return QuotaConfig() if caller.role == "admin" else self.config.quota

    def check(self, caller: Caller, tokens: int = 0, nano: int = 0) -> None:
        """Check that a caller has some left of each quota.

        Args:
            tokens: that the work is expected to take; 0: that is not known.
            nano: what they cost, in billionths of a dollar.

        Raises:
            ApiError: 429 of the code insufficient_quota, with Retry-After.
        """
        quota = self.find_quota(caller)
        if not quota.is_set:
            return
        now = datetime.fromtimestamp(self._clock(), UTC)
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
        later = midnight.replace(day=28).timestamp() + 4 * DAY  # in the next month
        next_month = datetime.fromtimestamp(later, UTC).replace(day=1).timestamp()
        periods = {
            "day": (midnight.timestamp(), midnight.timestamp() + DAY),
            "month": (midnight.replace(day=1).timestamp(), next_month),
        }
        for period, (start, end) in periods.items():
            limits = (getattr(quota, f"{period}_{unit}") for unit in ("tokens", "dollars"))
            most_tokens, most_dollars = limits
            if most_tokens is None and most_dollars is None:
                continue
            used, paid = self._count(caller, int(start // DAY))
            wait = math.ceil(end - now.timestamp())
            if most_tokens is not None and (used >= most_tokens or used + tokens > most_tokens):
                _refuse(caller, f"{used:,} tokens", f"{tokens:,}", f"{most_tokens:,}", period, wait)
            most = None if most_dollars is None else to_nano(most_dollars)
            if most is not None and (paid >= most or paid + nano > most):
                shown = (f"{paid / NANO:.4f} dollars", f"{nano / NANO:.4f}", f"{most_dollars:g}")
                _refuse(caller, *shown, period, wait)

    def _count(self, caller: Caller, first: int) -> tuple[int, int]:
        """Return tokens and billionths of a dollar of a caller from the day `first` on."""
        tokens, nano = sum_usage(self._database, caller.name, first)
        with self._lock:
            for (by, model, day), spent in self._unsaved.items():
                if by == caller.name and day >= first:
                    tokens += spent.input_tokens + spent.output_tokens
                    nano += self._price(model, spent)
        return tokens, nano


def _refuse(caller: Caller, used: str, more: str, most: str, period: str, wait: int) -> None:
    asked = "" if more.strip("0.") == "" else f", and this would take about {more} more"
    raise ApiError(
        429,
        f"{caller.name!r} has used {used} this {period}{asked}, expected at most {most} (usage of "
        f"the service); a new {period} begins in {wait} s",
        wait,
        code=EXHAUSTED,
    )
