"""Facility location over all similarities, from memory where they fit and block by block where they
do not.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from atgen_ray.core.arrays import Integers, Numbers, Vectors
from atgen_ray.selection.kernels.coverage_pairs import BYTES, CoveragePairs
from atgen_ray.selection.kernels.similarity import compare, round_similarities, rows_within

WEIGHT_GRID = 2.0**10
# Rows of similarities computed together, whatever memory there is: more no longer fit into the
# caches.
_BLOCK = 512
# Gains that are computed anew after a pick, about, where it is not said by how much all of them
# fell.
_HEADS = 256
_OPEN = 1 / 8  # share of pairs that can still gain from which on these alone are kept
_ASKED = 32  # candidates by which that share is estimated


class DenseCoverage:
    """sum_i w_i max(c_i, max_j s_ij) over the rows i of `ground`, as rows j of `vectors` are added.

    `vectors` (n, d) and `ground` (g, d) are unit vectors on the grid, `covered` (g,) is how well
    each row of the ground is represented already and `weights` (g,) are between 0 and 1. Weights
    are rounded to 2^-10, which keeps sums over up to 2^22 rows exact. Similarities take no more
    than about `megabytes`: all of them at once as float32, which holds them exactly, where they
    fit, else a block of rows at a time. Once few pairs can still gain, and as much work is done as
    it takes to find them, those are kept instead.
    """

    def __init__(
        self,
        vectors: Vectors,
        ground: Vectors,
        covered: Numbers,
        weights: Numbers | None,
        megabytes: int,
        follow: bool = True,
    ) -> None:
        """With `follow` off, `add` never says by how much gains fell."""
        self.size = len(vectors)
        self._follow = follow
        self._vectors = vectors
        self._ground = ground
        self._covered = round_similarities(covered)
        self._weights = (
            np.ones(len(ground))
            if weights is None
            else np.rint(weights * WEIGHT_GRID) / WEIGHT_GRID
        )
        self._step = min(_BLOCK, rows_within(megabytes, max(len(vectors), len(ground))))
        self._symmetric = ground is vectors
        self._last = np.empty(0, dtype=np.int64), np.empty(0), np.empty(0)
        fits = 4 * len(vectors) * len(ground) <= megabytes * 2**20
        self._table = self._compare_all() if fits else None
        self._megabytes = megabytes
        self._pairs: CoveragePairs | None = None
        # in similarities looked at
        self._work = 0
        self._look_at = 2 * len(vectors) * len(ground)

    def gains(self, rows: Integers) -> Numbers:
        """Marginal gain of each of `rows`, sum_i w_i max(0, s_ij - c_i)."""
        if self._pairs is not None:
            return self._pairs.gains(rows)
        self._work += len(rows) * len(self._ground)
        found = [
            self._gain(rows[start : start + self._step])
            for start in range(0, len(rows), self._step)
        ]
        return np.concatenate(found) if found else np.empty(0)

    def add(self, row: int) -> tuple[slice, Numbers] | None:
        """Takes `row` in; how far all gains fell is worth computing once it covers few rows of the
        ground better.
        """
        changed = self.take(row)
        return (
            (slice(None), self.falls())
            if self.worth_following(changed, len(self._ground))
            else None
        )

    def take(self, row: int) -> int:
        """Takes `row` in and says how many rows of the ground it covers better."""
        if self._pairs is None and self._work >= self._look_at:
            self._look_for_pairs()
        if self._pairs is not None:
            return self._pairs.take(row)
        similarities = self._columns(np.array([row]))[:, 0]
        changed = np.flatnonzero(similarities > self._covered)
        old = self._covered[changed]
        new = similarities[changed].astype(np.float64)
        self._covered[changed] = new
        self._last = changed, old, new
        return len(changed)

    def worth_following(self, changed: int, ground: int) -> bool:
        """Whether `falls` costs less than computing gains anew, once `changed` rows of `ground` are
        covered better.
        """
        if self._pairs is not None:
            return self._follow
        most = (
            ground / 4 if self._table is not None else min(ground / 4, ground * _HEADS / self.size)
        )
        return self._follow and changed <= most

    def falls(self) -> Numbers:
        """By how much the row taken in last made the gain of every row fall, shape (n,)."""
        if self._pairs is not None:
            return self._pairs.falls()
        changed, old, new = self._last
        self._work += len(changed) * self.size
        falls = np.zeros(self.size)
        for start in range(0, len(changed), self._step):
            part = slice(start, start + self._step)
            # max(0, s - old) - max(0, s - new) is s, held between old and new, less old.
            block = self._rows(changed[part])
            weights = self._weights[changed[part]]
            low = old[part, None].astype(block.dtype)
            high = new[part, None].astype(block.dtype)
            np.clip(block, low, high, out=block)
            falls += weights @ block - weights @ old[part]
        return falls

    def _look_for_pairs(self) -> None:
        """Turns to the open pairs if they are few, and looks again later if not."""
        self._look_at = self._work + self.size * len(self._ground) // 8
        asked = np.unique(np.linspace(0, self.size - 1, _ASKED).astype(np.int64))
        share = float((self._columns(asked) > self._covered[:, None]).mean())
        if (
            share <= _OPEN
            and share * self.size * len(self._ground) * BYTES <= self._megabytes * 2**20
        ):
            starts = range(0, self.size, self._step)
            everything = np.arange(self.size)
            blocks = (self._columns(everything[start : start + self._step]).T for start in starts)
            self._pairs = CoveragePairs(blocks, self._covered, self._weights)
            self._table = None

    def _gain(self, rows: Integers) -> Numbers:
        block = self._columns(rows)
        np.maximum(block, self._covered[:, None].astype(block.dtype), out=block)
        return np.asarray(self._weights @ block - self._weights @ self._covered)

    def _compare_all(self) -> Vectors:
        table = np.empty((len(self._ground), len(self._vectors)), dtype=np.float32)
        for start in range(0, len(table), self._step):
            part = slice(start, start + self._step)
            after = start + self._step
            first = start if self._symmetric else 0
            compare(self._ground[part], self._vectors[first:], table[part, first:])
            if self._symmetric:
                table[after:, part] = table[part, after:].T
        return table

    def _columns(self, rows: Integers) -> np.ndarray:
        """Similarities of the ground to `rows` of the vectors, (g, len(rows))."""
        if self._table is None:
            return compare(self._vectors[rows], self._ground).T
        return self._table[rows].T if self._symmetric else self._table[:, rows]

    def _rows(self, rows: Integers) -> np.ndarray:
        """Similarities of `rows` of the ground to the vectors, (len(rows), n)."""
        return (
            compare(self._ground[rows], self._vectors) if self._table is None else self._table[rows]
        )


@dataclass(frozen=True)
class Part:
    """A part of a pool: unit vectors (p, d) on the grid, how well each is covered (p,), and weights
    (p,) or None.
    """

    vectors: Vectors
    covered: Numbers
    weights: Numbers | None

    def take(self, rows: Integers) -> "Part":
        """The part's `rows` alone."""
        weights = None if self.weights is None else self.weights[rows]
        return Part(self.vectors[rows], self.covered[rows], weights)


class PartsCoverage:
    """What DenseCoverage is, to the last bit, over a ground that lies in several parts."""

    def __init__(
        self, vectors: Vectors, parts: Sequence[Part], megabytes: int, follow: bool = True
    ) -> None:
        share = max(1, megabytes // len(parts))
        self._parts = [
            DenseCoverage(vectors, part.vectors, part.covered, part.weights, share, follow)
            for part in parts
        ]
        self.size = len(vectors)
        self.ground = sum(len(part.vectors) for part in parts)

    def gains(self, rows: Integers) -> Numbers:
        """Marginal gain of each of `rows` over all parts."""
        return np.asarray(sum(part.gains(rows) for part in self._parts))

    def add(self, row: int) -> tuple[slice, Numbers] | None:
        """Takes `row` in; as DenseCoverage."""
        return (
            (slice(None), self.falls())
            if self.worth_following(self.take(row), self.ground)
            else None
        )

    def take(self, row: int) -> int:
        """Takes `row` in and says how many rows of the ground it covers better."""
        return sum(part.take(row) for part in self._parts)

    def worth_following(self, changed: int, ground: int) -> bool:
        """Whether it is for every part."""
        return all(part.worth_following(changed, ground) for part in self._parts)

    def falls(self) -> Numbers:
        """By how much the row taken in last made the gain of every row fall, shape (n,)."""
        return np.asarray(sum(part.falls() for part in self._parts))
