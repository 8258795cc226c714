"""Facility location over the open pairs: those of a candidate and a row of the ground that the
candidate would still cover better.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from atgen_ray.core.arrays import Integers, Numbers

if TYPE_CHECKING:
    from scipy.sparse import csr_array

# Size of a pair: its similarity and an index, stored by candidate and again by row of the ground.
BYTES = 16


def find_open_pairs(
    blocks: Iterable[tuple[npt.NDArray[np.floating], npt.NDArray[np.floating]]], columns: int
) -> "csr_array":
    """Return the similarities that are above their floor as a sparse matrix (n, columns).

    `blocks` are similarities (b, columns), n rows in all, and floors that broadcast to them.
    """
    from scipy.sparse import csr_array

    lengths = []
    places = []
    similarities = []
    for block, floor in blocks:
        is_open = block > floor
        found = np.flatnonzero(is_open)
        lengths.append(np.count_nonzero(is_open, axis=1))
        places.append((found % columns).astype(np.int32))
        similarities.append(block.ravel()[found].astype(np.float32))
    starts = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
    pairs = np.concatenate(similarities), np.concatenate(places), starts
    return csr_array(pairs, shape=(len(starts) - 1, columns))


class CoveragePairs:
    """Facility location sum_i w_i max(c_i, max_j s_ij) computed from the open pairs (s_ij > c_i).

    The result is exact: c_i only grows, so a pair that is closed never counts again. About one in t
    pairs is open after t picks, and the cost of following every gain falls with their number.
    """

    def __init__(self, pairs: "csr_array", covered: Numbers, weights: Numbers) -> None:
        """`pairs` (n, g) are the open pairs by candidate. `covered` (g,) is changed in place from
        then on.
        """
        self._covered = covered
        self._weights = weights
        self.size = pairs.shape[0]
        self._keep(pairs)
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

    def add(self, row: int) -> tuple[slice, Numbers]:
        """Add `row`; return all rows and how far their gains fell."""
        self.take(row)
        return slice(None), self.gain_decreases()

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
        from scipy.sparse import csr_array

        self._shed_at = 2 * self._picks
        pairs = self._by_candidate
        is_open = pairs.data > self._covered[pairs.indices]
        starts = np.concatenate([[0], np.cumsum(is_open, dtype=np.int64)])[pairs.indptr]
        kept = pairs.data[is_open], pairs.indices[is_open], starts
        self._keep(csr_array(kept, shape=pairs.shape))

    def _keep(self, pairs: "csr_array") -> None:
        self._by_candidate = pairs
        self._by_ground = pairs.tocsc()


def spans(starts: Integers, lengths: Integers) -> Integers:
    """Return the numbers start, ..., start + length - 1 of each pair, one span after the other."""
    offsets = np.cumsum(lengths) - lengths
    return np.arange(lengths.sum()) + np.repeat(starts - offsets, lengths)
