"""Selection over Ray: parts of the pool lie in the object store, tasks and actors work on them."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import ray
from ray.exceptions import RayActorError

from atgen_ray.core.arrays import Integers, Numbers, Vectors
from atgen_ray.core.records import Progress
from atgen_ray.ray_runtime.hardware import fit_cpus
from atgen_ray.selection.kernels.coverage import Part, PartsCoverage
from atgen_ray.selection.kernels.executor import Executor, InProcessExecutor
from atgen_ray.selection.kernels.greedy import Coverage

T = TypeVar("T")
SMALL_POOL = 20_000  # candidates up to which one process selects
ATTEMPTS = 5  # crews that may lose a worker before selection gives up
WAIT_SECONDS = 1.0  # how often a long wait looks whether it shall stop


def choose_workers(count: int | None, candidates: int, progress: Progress) -> Executor:
    """This process for small pools, whose parts are not worth sending around; else `count` workers,
    null: one a CPU.
    """
    if candidates <= SMALL_POOL or count == 1:
        return InProcessExecutor(progress)
    return RayWorkers(count or max(1, int(ray.cluster_resources().get("CPU", 1))), progress)


class RayWorkers:
    """The `Executor` protocol on the nodes of a Ray cluster: a CPU for each of `count`, less where
    there are fewer.
    """

    def __init__(self, count: int, progress: Progress) -> None:
        self.count = count
        self.progress = progress
        self._cpus = fit_cpus(count, 1.0)

    def put(self, value: Any) -> Any:
        """Puts a value into the object store, from where workers on its node read it without a
        copy.
        """
        return ray.put(value)

    def map(
        self,
        function: Callable[..., T],
        calls: Sequence[tuple[Any, ...]],
        note: Callable[[int], None],
    ) -> list[T]:
        """At most `count` calls at a time; one whose worker dies is run again by Ray.

        What still runs is cancelled when `note`, which is asked at least every second, raises.
        """
        task = ray.remote(num_cpus=self._cpus, max_retries=ATTEMPTS)(function)
        waiting = deque(enumerate(calls))
        found = dict[int, T]()
        running: dict[Any, int] = {}
        try:
            while waiting or running:
                while waiting and len(running) < self.count:
                    place, call = waiting.popleft()
                    running[task.remote(*call)] = place
                ready, _ = ray.wait(list(running), timeout=WAIT_SECONDS)
                for ref in ready:
                    found[running.pop(ref)] = ray.get(ref)
                note(len(found))
        finally:
            for ref in running:
                ray.cancel(ref, force=True)
        return [found[place] for place in range(len(calls))]

    def cover(
        self, vectors: Vectors, parts: Sequence[Any], megabytes: int, follow: bool = True
    ) -> Coverage:
        """The ground shared out over at most `count` actors."""
        return ShardedCoverage(vectors, parts, self.count, megabytes, self._cpus, follow)


class ShardedCoverage:
    """What DenseCoverage is, to the last bit, its ground shared out over actors.

    An actor that dies takes with it how well its parts were covered: a new crew takes in what was
    chosen so far.
    """

    def __init__(
        self,
        vectors: Vectors,
        parts: Sequence[Any],
        count: int,
        megabytes: int,
        cpus: float,
        follow: bool = True,
    ) -> None:
        """`parts` are references to a `Part` each; every actor reserves `cpus`."""
        self.size = len(vectors)
        self._cpus = cpus
        self._shares = [parts[start::count] for start in range(min(count, len(parts)))]
        self._given = ray.put(vectors), max(1, megabytes // len(self._shares)), follow
        self._chosen: list[int] = []
        self._crew = self._hire()
        self._ground: int = sum(self._ask("measure"))

    def gains(self, rows: Integers) -> Numbers:
        """Marginal gain of each of `rows` over the whole ground."""
        return np.asarray(sum(self._ask("gains", rows)))

    def add(self, row: int) -> tuple[slice, Numbers] | None:
        """Takes `row` in; as DenseCoverage."""
        changed = sum(self._ask("take", row))
        self._chosen.append(row)
        if not all(self._ask("worth_following", changed, self._ground)):
            return None
        return slice(None), np.asarray(sum(self._ask("falls")))

    def _hire(self) -> list[Any]:
        shard = _Shard.options(num_cpus=self._cpus)  # type: ignore[attr-defined]
        return [shard.remote(*self._given, *share) for share in self._shares]

    def _ask(self, method: str, *arguments: Any) -> list[Any]:
        for _ in range(ATTEMPTS):
            try:
                return ray.get([getattr(shard, method).remote(*arguments) for shard in self._crew])
            except RayActorError as error:
                lost = error
                for shard in self._crew:
                    ray.kill(shard)
                self._crew = self._hire()
                for shard in self._crew:
                    for row in self._chosen:
                        shard.take.remote(row)  # in order, before what is asked next
        raise lost


@ray.remote(max_restarts=0)
class _Shard:
    """Some parts of the ground, and how well they are covered so far."""

    def __init__(self, vectors: Vectors, megabytes: int, follow: bool, *parts: Part) -> None:
        self._coverage = PartsCoverage(vectors, parts, megabytes, follow)

    def measure(self) -> int:
        return self._coverage.ground

    def gains(self, rows: Integers) -> Numbers:
        return self._coverage.gains(rows)

    def take(self, row: int) -> int:
        return self._coverage.take(row)

    def worth_following(self, changed: int, ground: int) -> bool:
        return self._coverage.worth_following(changed, ground)

    def falls(self) -> Numbers:
        return self._coverage.falls()
