"""Selection on a Ray cluster: an executor whose parts of the pool lie in Ray's object store.

The picks are the same as in one process, to the last bit. A task whose worker dies is run again by
Ray; actors that die are replaced by new ones, which first take in the rows chosen so far.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import ray
from ray.exceptions import RayActorError, RayTaskError

from atgen_ray.core.arrays import Integers, Numbers, Vectors
from atgen_ray.core.records import Progress
from atgen_ray.ray_runtime.hardware import fit_cpus
from atgen_ray.ray_runtime.workers import SMALL_POOL
from atgen_ray.selection.kernels.coverage import Part, PartsCoverage
from atgen_ray.selection.kernels.executor import BLOCK, Executor, InProcessExecutor
from atgen_ray.selection.kernels.greedy import Coverage

T = TypeVar("T")
ATTEMPTS = 5  # sets of actors that may lose a member before selection gives up
WAIT_SECONDS = 1.0  # interval at which a long wait reports, and so can be stopped


def choose_workers(count: int | None, candidates: int, progress: Progress) -> Executor:
    """Return the executor for a pool of `candidates`: this process for a small one, whose parts
    are not worth sending, else `count` Ray workers (None: one for each CPU).
    """
    if candidates <= SMALL_POOL or count == 1:
        return InProcessExecutor(progress)
    return RayWorkers(count or max(1, int(ray.cluster_resources().get("CPU", 1))), progress)


class RayWorkers:
    """The `Executor` protocol on a Ray cluster: `count` workers with a CPU each, or a share of one
    where fewer are free.
    """

    def __init__(self, count: int, progress: Progress) -> None:
        self.count = count
        self.progress = progress
        self.block = BLOCK
        self._cpus = fit_cpus(count, 1.0)

    def share(self, value: Any) -> Any:
        """Put a value into the object store, where workers on its node read it without a copy."""
        return ray.put(value)

    def map(
        self,
        function: Callable[..., T],
        calls: Sequence[tuple[Any, ...]],
        report: Callable[[int], None],
    ) -> list[T]:
        """Run at most `count` calls at a time.

        `report` is called at least every second; when it raises, the calls under way are cancelled.
        """
        task = ray.remote(num_cpus=self._cpus, max_retries=ATTEMPTS)(function)
        # Submitting all calls at once would queue them in Ray, out of reach of a request to stop.
        waiting = deque(enumerate(calls))
        found = dict[int, T]()
        running: dict[Any, int] = {}
        try:
            while waiting or running:
                while waiting and len(running) < self.count:
                    index, call = waiting.popleft()
                    running[task.remote(*call)] = index
                ready, _ = ray.wait(list(running), timeout=WAIT_SECONDS)
                for ref in ready:
                    index = running.pop(ref)
                    try:
                        found[index] = ray.get(ref)
                    except RayTaskError as error:  # whose text is a traceback
                        raise error.cause from None
                report(len(found))
        finally:
            for ref in running:
                ray.cancel(ref, force=True)
        return [found[index] for index in range(len(calls))]

    def cover(self, vectors: Vectors, parts: Sequence[Any], megabytes: int) -> Coverage:
        """Return facility location over `parts`, divided among at most `count` actors."""
        return ShardedCoverage(vectors, parts, self.count, megabytes, self._cpus)


class ShardedCoverage:
    """DenseCoverage whose ground is divided among actors; the same gains to the last bit.

    The state of an actor that dies is lost, so all actors are started anew and take in the rows
    chosen so far, in order.
    """

    def __init__(
        self,
        vectors: Vectors,
        parts: Sequence[Any],
        count: int,
        megabytes: int,
        cpus: float,
    ) -> None:
        """Start at most `count` actors, each with some of `parts` (references to a `Part`) and
        reserving `cpus`.
        """
        self.size = len(vectors)
        self._cpus = cpus
        self._shares = [parts[start::count] for start in range(min(count, len(parts)))]
        self._given = ray.put(vectors), max(1, megabytes // len(self._shares))
        self._chosen: list[int] = []
        self._actors = self._start_actors()
        self._ground: int = sum(self._ask("measure"))

    def gains(self, rows: Integers) -> Numbers:
        """Return the marginal gain of each of `rows` over the whole ground."""
        return np.asarray(sum(self._ask("gains", rows)))

    def add(self, row: int) -> tuple[slice, Numbers] | None:
        """Add `row`; see DenseCoverage.add."""
        changed = sum(self._ask("take", row))
        self._chosen.append(row)
        if not all(self._ask("worth_following", changed, self._ground)):
            return None
        return slice(None), np.asarray(sum(self._ask("gain_decreases")))

    def _start_actors(self) -> list[Any]:
        shard = _Shard.options(num_cpus=self._cpus)  # type: ignore[attr-defined]
        return [shard.remote(*self._given, *share) for share in self._shares]

    def _ask(self, method: str, *arguments: Any) -> list[Any]:
        """Return what `method` of every actor returns, with new actors in place of dead ones."""
        for _ in range(ATTEMPTS):
            try:
                return ray.get(
                    [getattr(shard, method).remote(*arguments) for shard in self._actors]
                )
            except RayActorError as error:
                lost = error
                for shard in self._actors:
                    ray.kill(shard)
                self._actors = self._start_actors()
                for shard in self._actors:
                    for row in self._chosen:
                        shard.take.remote(row)  # in order, before what is asked next
        raise lost


@ray.remote(max_restarts=0)
class _Shard:
    """Actor that holds some parts of the ground and how well each row of them is covered so far."""

    def __init__(self, vectors: Vectors, megabytes: int, *parts: Part) -> None:
        self._coverage = PartsCoverage(vectors, parts, megabytes)

    def measure(self) -> int:
        return self._coverage.ground

    def gains(self, rows: Integers) -> Numbers:
        return self._coverage.gains(rows)

    def take(self, row: int) -> int:
        return self._coverage.take(row)

    def worth_following(self, changed: int, ground: int) -> bool:
        return self._coverage.worth_following(changed, ground)

    def gain_decreases(self) -> Numbers:
        return self._coverage.gain_decreases()
