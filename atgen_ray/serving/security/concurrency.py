"""Limit on concurrent requests, in total and by caller."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from atgen_ray.serving.errors import ApiError


class ConcurrencyLimit:
    """Counter of concurrent requests. It belongs to one event loop."""

    def __init__(self, what: str, total: int) -> None:
        """Allow `total` at once; `what` names them, in the plural, in messages."""
        self._what = what
        self._total = total
        self._inside: Counter[str] = Counter()

    @contextmanager
    def take(self, caller: str = "", each: int | None = None) -> Iterator[None]:
        """Take a slot for the block; `each` is how many `caller` may have at once.

        Raises:
            ApiError: 429, no slot is free.
        """
        if self._inside.total() >= self._total:
            raise ApiError(429, f"too many {self._what} are under way")
        if each is not None and self._inside[caller] >= each:
            raise ApiError(
                429, f"too many {self._what} of this token are under way, expected at most {each}"
            )
        self._inside[caller] += 1
        try:
            yield
        finally:
            self._inside[caller] -= 1
            if not self._inside[caller]:
                del self._inside[caller]
