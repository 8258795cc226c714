"""Greedy maximisation of monotone submodular functions, exact (lazy greedy) or by samples."""

import math
from collections.abc import Callable
from typing import Protocol

import numpy as np

from atgen_ray.core.arrays import Integers, Numbers


class Coverage(Protocol):
    """A monotone submodular function of a growing set of rows.

    Its values are exact sums of quantised numbers, so that gains computed in different ways are
    equal to the last bit.
    """

    size: int  # rows that may be chosen are 0 to size - 1

    def gains(self, rows: Integers) -> Numbers:
        """Return what each of `rows` would add now, shape (len(rows),)."""
        ...

    def add(self, row: int) -> tuple[Integers | slice, Numbers] | None:
        """Add `row`. Return rows and by how much the gain of each fell, or None if computing that
        costs too much.
        """
        ...


def maximize(
    function: Coverage,
    count: int,
    block_size: int,
    report: Callable[[int], None] = lambda pick: None,
) -> tuple[Integers, Numbers]:
    """Return the rows that greedily maximise `function`, best first, and the gain of each; `count`
    <= size.

    The result is that of plain greedy; of equal gains the first row wins. Gains only fall as rows
    are chosen, so an old gain is an upper bound (lazy greedy, Minoux 1978). If the function says
    how far gains fell, the bounds stay exact; otherwise those that could still win are computed
    again, most promising first, in blocks that double up to `block_size`.

    `report` is given the number of picks so far, often, and may raise to end the work.
    """
    greedy = _Greedy(function, block_size, report)
    return greedy.pick(count)


def maximize_with_limit(
    function: Coverage,
    count: int,
    block_size: int,
    report: Callable[[int], None] = lambda pick: None,
) -> tuple[Integers, Numbers, float]:
    """Return what `maximize` returns, and a sum of gains that no `count` rows exceed.

    A submodular function gains from any `count` rows at most what it has gained from the rows of a
    set already, and the `count` largest gains that are left. The set that proves most is used: one
    of the first 0, 1, 2, 4, ... picks, or all of them.
    """
    greedy = _Greedy(function, block_size, report, follow_limit=True)
    rows, gains = greedy.pick(count)
    return rows, gains, greedy.find_limit(gains)


class _Greedy:
    """Lazy greedy, with the upper bounds of all gains."""

    def __init__(
        self,
        function: Coverage,
        block_size: int,
        report: Callable[[int], None],
        follow_limit: bool = False,
    ) -> None:
        self._function = function
        self._block_size = block_size
        self._report = report
        self._follow_limit = follow_limit
        self._limit = math.inf
        everything = np.arange(function.size)
        self._bounds = np.empty(function.size)
        for start in range(0, function.size, block_size):
            block = slice(start, start + block_size)
            self._bounds[block] = function.gains(everything[block])
            report(0)
        self._fresh = np.ones(function.size, dtype=bool)

    def pick(self, count: int) -> tuple[Integers, Numbers]:
        """Return the rows chosen, and the gain of each."""
        bounds = self._bounds
        fresh = self._fresh
        rows = np.empty(count, dtype=np.int64)
        gains = np.empty(count)
        for pick in range(count):
            if self._follow_limit and pick & (pick - 1) == 0:
                left = bounds[_largest(bounds, np.arange(len(bounds)), count)]
                self._limit = min(self._limit, gains[:pick].sum() + left.clip(min=0).sum())
            step = min(16, self._block_size)
            while not fresh[best := int(bounds.argmax())]:
                head = _largest(bounds, np.flatnonzero(~fresh), step)
                self._refresh(head)
                step = min(2 * step, self._block_size)
                self._report(pick)
            rows[pick] = best
            gains[pick] = bounds[best]
            self._report(pick + 1)
            fallen = self._function.add(best)
            if fallen is None:
                fresh[:] = False
            else:
                changed, decreases = fallen
                # A bound that was not exact stays a bound: its gain has fallen by this much too.
                bounds[changed] -= decreases
            bounds[best] = -np.inf
            fresh[rows[: pick + 1]] = True  # chosen rows are never computed again
        return rows, gains

    def find_limit(self, gains: Numbers) -> float:
        """Return the upper bound, with the largest gains after the last pick computed anew."""
        count = len(gains)
        everything = np.arange(len(self._bounds))
        while True:
            top = _largest(self._bounds, everything, count)
            stale = top[~self._fresh[top]]
            if not len(stale):
                break
            for start in range(0, len(stale), self._block_size):
                self._refresh(stale[start : start + self._block_size])
                self._report(count)
        left = self._bounds[top].clip(min=0).sum()
        return float(min(self._limit, gains.sum() + left))

    def _refresh(self, rows: Integers) -> None:
        self._bounds[rows] = self._function.gains(rows)
        self._fresh[rows] = True


def maximize_stochastically(
    function: Coverage,
    count: int,
    epsilon: float,
    block_size: int,
    seed: int,
    report: Callable[[int], None] = lambda pick: None,
) -> tuple[Integers, Numbers]:
    """Return rows that maximise `function` up to a factor 1 - 1/e - `epsilon` in expectation, in
    order, and their gains.

    Each pick is the best of n/k ln(1/epsilon) rows drawn from the rest (lazier than lazy greedy,
    Mirzasoleiman et al., AAAI 2015, arXiv 1409.7938). Of equal gains the first row wins. `report`
    as for `maximize`.
    """
    generator = np.random.default_rng(seed)
    sample = max(1, math.ceil(function.size / count * math.log(1 / epsilon)))
    rest = np.arange(function.size)
    rows = np.empty(count, dtype=np.int64)
    gains = np.empty(count)
    for pick in range(count):
        # Sorted, so that of equal gains the first row wins.
        places = np.sort(generator.choice(len(rest), min(sample, len(rest)), replace=False))
        drawn = rest[places]
        blocks = [drawn[start : start + block_size] for start in range(0, len(drawn), block_size)]
        found = np.concatenate([function.gains(block) for block in blocks])
        best = int(found.argmax())
        rows[pick] = drawn[best]
        gains[pick] = found[best]
        function.add(int(drawn[best]))
        rest = np.delete(rest, places[best])
        report(pick + 1)
    return rows, gains


def _largest(bounds: Numbers, rows: Integers, count: int) -> Integers:
    """Return the `count` of `rows` with the largest bounds, or all if there are no more."""
    if len(rows) <= count:
        return rows
    return np.asarray(rows[np.argpartition(-bounds[rows], count)[:count]])
