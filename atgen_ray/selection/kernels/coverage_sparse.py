"""Facility location over nearest neighbours only."""

import numpy as np

from atgen_ray.core.arrays import Integers, Numbers, Vectors
from atgen_ray.selection.kernels.coverage import WEIGHT_GRID
from atgen_ray.selection.kernels.coverage_pairs import spans
from atgen_ray.selection.kernels.neighbors import Indices
from atgen_ray.selection.kernels.similarity import round_similarities


class SparseCoverage:
    """Facility location sum_i w_i max(c_i, max_j s_ij) in which j ranges over the neighbours of i.

    `neighbors` (n, k) and `similarities` (n, k) come from `find_neighbors`; `covered` and `weights`
    are those of DenseCoverage. Memory, and time to keep every gain exact, grow with n k, not n
    squared. An example can stand for at most k others, so k should exceed pool size over batch size
    several times.
    """

    def __init__(
        self,
        neighbors: Indices,
        similarities: Vectors,
        covered: Numbers,
        weights: Numbers | None = None,
    ) -> None:
        self.size, degree = neighbors.shape
        self._neighbors = neighbors
        self._similarities = similarities
        self._covered = round_similarities(covered)
        self._weights = (
            np.ones(self.size) if weights is None else np.rint(weights * WEIGHT_GRID) / WEIGHT_GRID
        )
        order = np.argsort(neighbors, axis=None, kind="stable")
        # By neighbour: the rows that have it, and how similar they are to it.
        self._owners = (order // degree).astype(np.int32)
        self._affinity = similarities.ravel()[order]
        self._starts = np.concatenate(
            [[0], np.cumsum(np.bincount(neighbors.ravel(), minlength=self.size))]
        )

    def gains(self, rows: Integers) -> Numbers:
        """Return the marginal gain of each of `rows`, sum_i w_i max(0, s_ij - c_i) over the rows i
        that have j as neighbour.
        """
        lengths = self._starts[rows + 1] - self._starts[rows]
        edges = spans(self._starts[rows], lengths)
        owners = self._owners[edges]
        gain = self._weights[owners] * np.maximum(
            self._affinity[edges] - self._covered[owners], 0.0
        )
        sums = np.bincount(
            np.repeat(np.arange(len(rows)), lengths), weights=gain, minlength=len(rows)
        )
        return sums.astype(np.float64)

    def add(self, row: int) -> tuple[Integers, Numbers]:
        """Add `row`; return the rows whose gain fell, the neighbours of what it covers better, and
        by how much.
        """
        edges = slice(self._starts[row], self._starts[row + 1])
        owners = self._owners[edges]
        affinity = self._affinity[edges].astype(np.float64)
        better = affinity > self._covered[owners]
        changed = owners[better]
        new = affinity[better]
        old = self._covered[changed]
        # maximum.at, since the padding of a neighbour list names a row more than once.
        np.maximum.at(self._covered, changed, new)
        block = np.clip(self._similarities[changed], old[:, None], new[:, None]) - old[:, None]
        block *= self._weights[changed, None]
        rows, inverse = np.unique(self._neighbors[changed], return_inverse=True)
        decreases = np.bincount(inverse.ravel(), weights=block.ravel(), minlength=len(rows))
        return rows.astype(np.int64), decreases.astype(np.float64)
