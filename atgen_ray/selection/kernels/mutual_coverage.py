"""Submodular mutual information of a batch and a target, as a function that greedy maximises."""

from collections.abc import Sequence

import numpy as np

from atgen_ray.core.arrays import Integers, Numbers, Vectors
from atgen_ray.selection.kernels.executor import Executor
from atgen_ray.selection.kernels.greedy import Coverage
from atgen_ray.selection.kernels.similarity import nearest, round_similarities


def find_relevance(vectors: Vectors, target: Vectors, workers: Executor, megabytes: int) -> Numbers:
    """Return the largest similarity of each of `vectors` (n, d) to the `target` (t, d), shape (n,);
    0 where none is above.
    """
    shared = workers.share(target)
    starts = range(0, len(vectors), workers.block)
    calls = [
        (workers.share(vectors[start : start + workers.block]), shared, megabytes)
        for start in starts
    ]
    found = workers.map(nearest, calls, lambda done: workers.progress(done, len(calls)))
    return np.maximum(np.concatenate(found), 0)


class MutualCoverage:
    """sum_q max(c_q, max_a s_aq) + w sum_a max_q s_aq of the chosen rows a: how well they cover the
    target's prompts q, and how near they are to it (FLQMI).

    Its gains are exact sums of quantised numbers, as those of `coverage` are.
    """

    def __init__(self, coverage: Coverage, relevance: Numbers, weight: float) -> None:
        """`coverage` is facility location with the target as its ground; `relevance` (n,) is not
        negative.
        """
        self.size = coverage.size
        self._coverage = coverage
        self._worth = round_similarities(weight * relevance)

    def gains(self, rows: Integers) -> Numbers:
        """Return what each of `rows` would add now."""
        return np.asarray(self._coverage.gains(rows) + self._worth[rows])

    def add(self, row: int) -> tuple[Integers | slice, Numbers] | None:
        """Add `row`; what the rows are worth by themselves does not fall."""
        return self._coverage.add(row)


class RoundRobin:
    """Prompts of a target that choose in turn, each the candidate nearest to it that is left."""

    def __init__(self, orders: Sequence[Integers], similarities: Sequence[Numbers]) -> None:
        """`orders` are the rows that each prompt would choose, best first, with their
        `similarities`.
        """
        self._orders = orders
        self._similarities = similarities
        self._next = [0] * len(orders)
        self._taken: set[int] = set()

    def choose(self, prompt: int) -> tuple[int, float] | None:
        """Return the row that a prompt chooses, and its similarity; None where none is left."""
        order = self._orders[prompt]
        at = self._next[prompt]
        while at < len(order) and int(order[at]) in self._taken:
            at += 1
        self._next[prompt] = at + 1
        if at >= len(order):
            return None
        row = int(order[at])
        self._taken.add(row)
        return row, float(self._similarities[prompt][at])
