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
    everything = np.arange(function.size)
    bounds = np.empty(function.size)
    for start in range(0, function.size, block_size):
        block = slice(start, start + block_size)
        bounds[block] = function.gains(everything[block])
        report(0)
    fresh = np.ones(function.size, dtype=bool)
    rows = np.empty(count, dtype=np.int64)
    gains = np.empty(count)
    for pick in range(count):
        step = min(16, block_size)
        while not fresh[best := int(bounds.argmax())]:
            head = _largest(bounds, np.flatnonzero(~fresh), step)
            bounds[head] = function.gains(head)
            fresh[head] = True
            step = min(2 * step, block_size)
            report(pick)
        rows[pick] = best
        gains[pick] = bounds[best]
        report(pick + 1)
        fallen = function.add(best)
        if fallen is None:
            fresh[:] = False
        else:
            changed, decreases = fallen
            # A bound that was not exact stays a bound: its gain has fallen by this much too.
            bounds[changed] -= decreases
        bounds[best] = -np.inf
        fresh[rows[: pick + 1]] = True  # chosen rows are never computed again
    return rows, gains


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
