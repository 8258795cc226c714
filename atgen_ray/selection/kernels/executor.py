"""Where the parts of a large pool are worked on: in this process, or by many."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from atgen_ray.core.arrays import Vectors
from atgen_ray.core.records import Progress
from atgen_ray.selection.kernels.coverage import Part, PartsCoverage
from atgen_ray.selection.kernels.greedy import Coverage

T = TypeVar("T")


class Executor(Protocol):
    """A crew for pure functions and for sums over the parts of a pool.

    Nothing that it computes depends on how many there are: functions see one part, or a fixed group
    of parts, and sums are on a grid where no order matters.
    """

    count: int
    progress: Progress

    def put(self, value: Any) -> Any:
        """Hands a value, as a `Part`, to the crew; what comes back stands for it in the calls
        below.
        """
        ...

    def map(
        self,
        function: Callable[..., T],
        calls: Sequence[tuple[Any, ...]],
        note: Callable[[int], None],
    ) -> list[T]:
        """`function(*call)` for each of `calls`, in their order; arguments may be values that were
        `put`.

        `note` is told how many calls are done, and may raise to end it all.
        """
        ...

    def cover(
        self, vectors: Vectors, parts: Sequence[Any], megabytes: int, follow: bool = True
    ) -> Coverage:
        """Facility location by the rows of `vectors` over all `parts`, which were `put`; `follow`
        as DenseCoverage.
        """
        ...


class InProcessExecutor:
    """No crew: everything is done here, one thing after the other."""

    count = 1

    def __init__(self, progress: Progress = lambda done, total: None) -> None:
        self.progress = progress

    def put(self, value: Any) -> Any:
        return value

    def map(
        self,
        function: Callable[..., T],
        calls: Sequence[tuple[Any, ...]],
        note: Callable[[int], None],
    ) -> list[T]:
        found = []
        for call in calls:
            found.append(function(*call))
            note(len(found))
        return found

    def cover(
        self, vectors: Vectors, parts: Sequence[Part], megabytes: int, follow: bool = True
    ) -> Coverage:
        return PartsCoverage(vectors, parts, megabytes, follow)
