"""Facility location over all similarities.

Similarities are held in memory where they fit and computed block by block where they do not. All
sums are exact (see `similarity.py`), so every class here and in the other coverage modules gives
the same gains to the last bit.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from atgen_ray.core.arrays import Integers, Numbers, Vectors
from atgen_ray.selection.kernels.coverage_pairs import BYTES, CoveragePairs, find_open_pairs
from atgen_ray.selection.kernels.similarity import (
    CoarseVectors,
    compare,
    round_similarities,
    rows_within,
)

WEIGHT_GRID = 2.0**10
# Rows of similarities computed together at most: more do not fit into the processor's caches.
_BLOCK = 512
# Gains that lazy greedy computes anew after a pick, about, if it does not know how far they fell.
_HEADS = 256
_OPEN_SHARE = 1 / 8  # largest share of pairs that can still gain for which only these are kept
_SAMPLED = 32  # candidates by which that share is estimated


def round_weights(weights: Numbers) -> Numbers:
    """Return `weights` rounded to 2^-10, so that adding up products with them is exact."""
    return np.asarray(np.rint(weights * WEIGHT_GRID) / WEIGHT_GRID)


class DenseCoverage:
    """Facility location sum_i w_i max(c_i, max_j s_ij) over the rows i of `ground`, as rows j of
    `vectors` are added.

    `vectors` (n, d) and `ground` (g, d) are unit vectors, quantised; `covered` (g,) is how well
    each row of the ground is represented already; `weights` (g,) are between 0 and 1 and rounded to
    2^-10, which keeps sums over up to 2^22 rows exact.

    Similarities take about `megabytes` at most: all of them at once as float32, which holds them
    exactly, if they fit, else a block of rows at a time. Once few pairs can still gain, only these
    are kept (CoveragePairs); the search for them starts when the work done so far has cost as much
    as the search.
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
        """With `follow` off, `add` never returns how far the gains fell."""
        self.size = len(vectors)
        self._follow = follow
        self._vectors = vectors
        self._ground = ground
        self._covered = round_similarities(covered)
        self._weights = np.ones(len(ground)) if weights is None else round_weights(weights)
        self._step = min(_BLOCK, rows_within(megabytes, max(len(vectors), len(ground))))
        self._symmetric = ground is vectors
        self._last = np.empty(0, dtype=np.int64), np.empty(0), np.empty(0)
        fits = 4 * len(vectors) * len(ground) <= megabytes * 2**20
        self._table = self._compare_all() if fits else None
        self._megabytes = megabytes
        self._pairs: CoveragePairs | None = None
        # Work is counted in similarities read. At `_try_at` the open pairs are searched for.
        self._work = 0
        self._try_at = 2 * len(vectors) * len(ground)

    def gains(self, rows: Integers) -> Numbers:
        """Return the marginal gain of each of `rows`, sum_i w_i max(0, s_ij - c_i)."""
        if self._pairs is not None:
            return self._pairs.gains(rows)
        self._work += len(rows) * len(self._ground)
        found = [
            self._gain(rows[start : start + self._step])
            for start in range(0, len(rows), self._step)
        ]
        return np.concatenate(found) if found else np.empty(0)

    def add(self, row: int) -> tuple[slice, Numbers] | None:
        """Add `row`; return all rows and how far their gains fell, or None where that costs more
        than computing the gains anew.
        """
        changed = self.take(row)
        if not self.worth_following(changed, len(self._ground)):
            return None
        return slice(None), self.gain_decreases()

    def take(self, row: int) -> int:
        """Add `row` and return how many rows of the ground it covers better."""
        if self._pairs is None and self._work >= self._try_at:
            self._try_pairs()
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
        """Return whether `gain_decreases` costs less than computing gains anew, after `changed`
        rows of `ground` were covered better.
        """
        if self._pairs is not None:
            return self._follow
        most = ground / 4
        if self._table is None:  # similarities must be computed, which lazy greedy does for few
            most = min(most, ground * _HEADS / self.size)
        return self._follow and changed <= most

    def gain_decreases(self) -> Numbers:
        """Return by how much the row added last made the gain of every row fall, shape (n,)."""
        if self._pairs is not None:
            return self._pairs.gain_decreases()
        changed, old, new = self._last
        self._work += len(changed) * self.size
        decreases = np.zeros(self.size)
        for start in range(0, len(changed), self._step):
            part = slice(start, start + self._step)
            # max(0, s - old) - max(0, s - new) equals clip(s, old, new) - old.
            block = self._rows(changed[part])
            weights = self._weights[changed[part]]
            low = old[part, None].astype(block.dtype)
            high = new[part, None].astype(block.dtype)
            np.clip(block, low, high, out=block)
            decreases += weights @ block - weights @ old[part]
        return decreases

    def _try_pairs(self) -> None:
        """Keep only the open pairs if they are few, else try again later."""
        self._try_at = self._work + self.size * len(self._ground) // 8
        sampled = np.unique(np.linspace(0, self.size - 1, _SAMPLED).astype(np.int64))
        share = float((self._columns(sampled) > self._covered[:, None]).mean())
        expected_bytes = share * self.size * len(self._ground) * BYTES
        if share <= _OPEN_SHARE and expected_bytes <= self._megabytes * 2**20:
            starts = range(0, self.size, self._step)
            everything = np.arange(self.size)
            blocks = (
                (self._columns(everything[start : start + self._step]).T, self._covered)
                for start in starts
            )
            pairs = find_open_pairs(blocks, len(self._ground))
            self._pairs = CoveragePairs(pairs, self._covered, self._weights)
            self._table = None

    def _gain(self, rows: Integers) -> Numbers:
        block = self._columns(rows)
        np.maximum(block, self._covered[:, None].astype(block.dtype), out=block)
        return np.asarray(self._weights @ block - self._weights @ self._covered)

    def _compare_all(self) -> Vectors:
        """Return the similarities of the ground to all vectors, (g, n), as float32."""
        table = np.empty((len(self._ground), len(self._vectors)), dtype=np.float32)
        for start in range(0, len(table), self._step):
            part = slice(start, start + self._step)
            after = start + self._step
            first = start if self._symmetric else 0  # the lower triangle is copied from the upper
            compare(self._ground[part], self._vectors[first:], table[part, first:])
            if self._symmetric:
                table[after:, part] = table[part, after:].T
        return table

    def _columns(self, rows: Integers) -> np.ndarray:
        """Return the similarities of the ground to `rows` of the vectors, (g, len(rows))."""
        if self._table is None:
            return compare(self._vectors[rows], self._ground).T
        return self._table[rows].T if self._symmetric else self._table[:, rows]

    def _rows(self, rows: Integers) -> np.ndarray:
        """Return the similarities of `rows` of the ground to the vectors, (len(rows), n)."""
        return (
            compare(self._ground[rows], self._vectors) if self._table is None else self._table[rows]
        )


@dataclass(frozen=True)
class Part:
    """A part of a pool: unit vectors (p, d), quantised, how well each is covered (p,), and weights
    (p,) or None.
    """

    vectors: Vectors
    covered: Numbers
    weights: Numbers | None

    def take(self, rows: Integers) -> "Part":
        """Return the `rows` of the part."""
        weights = None if self.weights is None else self.weights[rows]
        return Part(self.vectors[rows], self.covered[rows], weights)


@dataclass(frozen=True)
class CoarsePart:
    """A part of a large pool: coarse unit vectors (p, d), how well each is covered (p,), and
    weights (p,), rounded.
    """

    vectors: CoarseVectors
    covered: Numbers
    weights: Numbers

    def take(self, rows: Integers) -> "CoarsePart":
        """Return the `rows` of the part."""
        return CoarsePart(self.vectors[rows], self.covered[rows], self.weights[rows])


class PartsCoverage:
    """DenseCoverage over a ground that lies in several parts; the same gains to the last bit."""

    def __init__(self, vectors: Vectors, parts: Sequence[Part], megabytes: int) -> None:
        share = max(1, megabytes // len(parts))
        self._parts = [
            DenseCoverage(vectors, part.vectors, part.covered, part.weights, share)
            for part in parts
        ]
        self.size = len(vectors)
        self.ground = sum(len(part.vectors) for part in parts)

    def gains(self, rows: Integers) -> Numbers:
        """Return the marginal gain of each of `rows` over all parts."""
        return np.asarray(sum(part.gains(rows) for part in self._parts))

    def add(self, row: int) -> tuple[slice, Numbers] | None:
        """Add `row`; see DenseCoverage.add."""
        changed = self.take(row)
        if not self.worth_following(changed, self.ground):
            return None
        return slice(None), self.gain_decreases()

    def take(self, row: int) -> int:
        """Add `row` and return how many rows of the ground it covers better."""
        return sum(part.take(row) for part in self._parts)

    def worth_following(self, changed: int, ground: int) -> bool:
        """Return whether following is worth it for every part; see DenseCoverage."""
        return all(part.worth_following(changed, ground) for part in self._parts)

    def gain_decreases(self) -> Numbers:
        """Return by how much the row added last made the gain of every row fall, shape (n,)."""
        return np.asarray(sum(part.gain_decreases() for part in self._parts))
