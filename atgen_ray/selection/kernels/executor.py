"""Executors: where the parts of a large pool are worked on, in this process or by many workers."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from atgen_ray.core.arrays import Vectors
from atgen_ray.core.records import Progress
from atgen_ray.selection.kernels.coverage import Part, PartsCoverage
from atgen_ray.selection.kernels.greedy import Coverage

T = TypeVar("T")
BLOCK = 1 << 14  # rows of a large table that are worked on together


class Executor(Protocol):
    """Workers for pure functions and for sums over the parts of a pool.

    No result depends on the number of workers: functions see one part or a fixed group of parts,
    and sums are exact, so that no order matters. `progress` is called as the work proceeds and may
    raise to end it.
    """

    count: int
    progress: Progress
    block: int  # rows of a large table that one call is given

    def share(self, value: Any) -> Any:
        """Share a value, such as a `Part`, with the workers; return a reference to it for the calls
        below.
        """
        ...

    def map(
        self,
        function: Callable[..., T],
        calls: Sequence[tuple[Any, ...]],
        report: Callable[[int], None],
    ) -> list[T]:
        """Return `function(*call)` for each of `calls`, in their order; arguments may be references
        from `share`.

        `report` is given the number of finished calls, and may raise to end the work.
        """
        ...

    def cover(self, vectors: Vectors, parts: Sequence[Any], megabytes: int) -> Coverage:
        """Return facility location by the rows of `vectors` over all `parts`, references from
        `share`.
        """
        ...


class Steps:
    """Progress of work in several steps, of which some are calls of `Executor.map`."""

    def __init__(self, workers: Executor, total: int) -> None:
        self._workers = workers
        self._total = total
        self._done = 0

    def map(self, function: Callable[..., T], calls: Sequence[tuple[Any, ...]]) -> list[T]:
        """Return what `Executor.map` returns; every call is a step."""
        found = self._workers.map(function, calls, self.report)
        self.finish(len(calls))
        return found

    def report(self, done: int) -> None:
        """Report that `done` steps are done beside those that are finished."""
        self._workers.progress(self._done + done, self._total)

    def finish(self, steps: int) -> None:
        """Count `steps` as finished."""
        self._done += steps


class InProcessExecutor:
    """The `Executor` protocol in this process, one call after the other."""

    count = 1

    def __init__(self, progress: Progress = lambda done, total: None, block: int = BLOCK) -> None:
        self.progress = progress
        self.block = block

    def share(self, value: Any) -> Any:
        return value

    def map(
        self,
        function: Callable[..., T],
        calls: Sequence[tuple[Any, ...]],
        report: Callable[[int], None],
    ) -> list[T]:
        found = []
        for call in calls:
            found.append(function(*call))
            report(len(found))
        return found

    def cover(self, vectors: Vectors, parts: Sequence[Part], megabytes: int) -> Coverage:
        return PartsCoverage(vectors, parts, megabytes)
