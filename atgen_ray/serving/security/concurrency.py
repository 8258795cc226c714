"""How many may be inside at once, all together and of one caller."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from atgen_ray.serving.errors import ApiError


class ConcurrencyLimit:
    """Counts who is inside; one event loop's own."""

    def __init__(self, what: str, total: int) -> None:
        """`what` they are, in the plural, for whoever is refused."""
        self._what = what
        self._total = total
        self._inside: Counter[str] = Counter()

    @contextmanager
    def take(self, caller: str = "", each: int | None = None) -> Iterator[None]:
        """A place while the block lasts; `each` is how many `caller` may have.

        Raises:
            ApiError: 429, there is none.
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
