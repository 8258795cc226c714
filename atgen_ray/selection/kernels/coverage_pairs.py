"""Facility location over the open pairs: those of a candidate and a row of the ground that the
candidate would still cover better.
"""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from atgen_ray.core.arrays import Integers, Numbers

# Size of a pair: its similarity and an index, stored by candidate and again by row of the ground.
BYTES = 16


class CoveragePairs:
    """Facility location sum_i w_i max(c_i, max_j s_ij) computed from the open pairs (s_ij > c_i).

    The result is exact: c_i only grows, so a pair that is closed never counts again. About one in t
    pairs is open after t picks, and the cost of following every gain falls with their number.
    """

    def __init__(
        self, blocks: Iterable[npt.NDArray[np.floating]], covered: Numbers, weights: Numbers
    ) -> None:
        """Collect the open pairs from `blocks` (b, g), the similarities of the candidates in order
        to the whole ground. `covered` (g,) is changed in place from then on.
        """
        self._covered = covered
        self._weights = weights
        lengths = []
        owners = []
        affinity = []
        for block in blocks:
            is_open = block > covered
            places = np.flatnonzero(is_open)
            lengths.append(np.count_nonzero(is_open, axis=1))
            owners.append((places % len(covered)).astype(np.int32))
            affinity.append(block.ravel()[places].astype(np.float32))
        starts = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
        self.size = len(starts) - 1
        self._index(np.concatenate(affinity), np.concatenate(owners), starts)
        self._picks = 0
        self._shed_at = 64
        self._last = np.empty(0, dtype=np.int64), np.empty(0), np.empty(0)

    def gains(self, rows: Integers) -> Numbers:
        """Return the marginal gain of each of `rows`."""
        starts = self._by_candidate.indptr[rows]
        lengths = self._by_candidate.indptr[rows + 1] - starts
        edges = spans(starts, lengths)
        owners = self._by_candidate.indices[edges]
        gain = self._weights[owners] * np.maximum(
            self._by_candidate.data[edges] - self._covered[owners], 0.0
        )
        sums = np.bincount(
            np.repeat(np.arange(len(rows)), lengths), weights=gain, minlength=len(rows)
        )
        return sums.astype(np.float64)

    def take(self, row: int) -> int:
        """Add `row` and return how many rows of the ground it covers better."""
        edges = slice(self._by_candidate.indptr[row], self._by_candidate.indptr[row + 1])
        owners = self._by_candidate.indices[edges]
        affinity = self._by_candidate.data[edges].astype(np.float64)
        better = affinity > self._covered[owners]
        changed = owners[better].astype(np.int64)
        new = affinity[better]
        self._last = changed, self._covered[changed], new
        self._covered[changed] = new
        return len(changed)

    def gain_decreases(self) -> Numbers:
        """Return by how much the row added last made the gain of every row fall, shape (n,)."""
        changed, old, new = self._last
        starts = self._by_ground.indptr[changed]
        lengths = self._by_ground.indptr[changed + 1] - starts
        edges = spans(starts, lengths)
        low = np.repeat(old, lengths)
        decrease = np.clip(self._by_ground.data[edges], low, np.repeat(new, lengths)) - low
        decrease *= np.repeat(self._weights[changed], lengths)
        found = np.bincount(self._by_ground.indices[edges], weights=decrease, minlength=self.size)
        self._picks += 1
        if self._picks >= self._shed_at:
            self._shed()
        return found.astype(np.float64)

    def _shed(self) -> None:
        """Drop the pairs that have closed, each time that the number of picks has doubled."""
        self._shed_at = 2 * self._picks
        pairs = self._by_candidate
        is_open = pairs.data > self._covered[pairs.indices]
        starts = np.concatenate([[0], np.cumsum(is_open, dtype=np.int64)])[pairs.indptr]
        self._index(pairs.data[is_open], pairs.indices[is_open], starts)

    def _index(self, affinity: npt.NDArray[np.float32], owners: Integers, starts: Integers) -> None:
        from scipy.sparse import csr_array

        shape = (len(starts) - 1, len(self._covered))
        self._by_candidate = csr_array((affinity, owners, starts), shape=shape)
        self._by_ground = self._by_candidate.tocsc()


def spans(starts: Integers, lengths: Integers) -> Integers:
    """Return the numbers start, ..., start + length - 1 of each pair, one span after the other."""
    offsets = np.cumsum(lengths) - lengths
    return np.arange(lengths.sum()) + np.repeat(starts - offsets, lengths)
