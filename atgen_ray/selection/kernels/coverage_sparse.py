"""Facility location over the nearest neighbours alone."""

import numpy as np

from atgen_ray.core.arrays import Integers, Numbers, Vectors
from atgen_ray.selection.kernels.coverage import WEIGHT_GRID
from atgen_ray.selection.kernels.coverage_pairs import spans
from atgen_ray.selection.kernels.neighbors import Indices
from atgen_ray.selection.kernels.similarity import round_similarities


class SparseCoverage:
    """sum_i w_i max(c_i, max_j s_ij), where s_ij counts only for the neighbours j of i and is
    nothing for other rows.

    `neighbors` (n, k) and `similarities` (n, k) come from `find_neighbors`; `covered` and `weights`
    are those of DenseCoverage. Memory and time to keep every gain exact grow with n k, not n
    squared. Useful where an example stands for fewer than k others: k should exceed pool size over
    batch size several times.
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
        self._owners = (order // degree).astype(
            np.int32
        )  # by neighbour: who has it, and how similar they are
        self._affinity = similarities.ravel()[order]
        self._starts = np.concatenate(
            [[0], np.cumsum(np.bincount(neighbors.ravel(), minlength=self.size))]
        )

    def gains(self, rows: Integers) -> Numbers:
        """Marginal gain of each of `rows`, sum_i w_i max(0, s_ij - c_i) over those i that have j as
        neighbour.
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
        """Takes `row` in; only the gains of neighbours of those it covers better fall."""
        edges = slice(self._starts[row], self._starts[row + 1])
        owners = self._owners[edges]
        affinity = self._affinity[edges].astype(np.float64)
        better = affinity > self._covered[owners]
        changed = owners[better]
        new = affinity[better]
        old = self._covered[changed]
        np.maximum.at(
            self._covered, changed, new
        )  # the padding of a neighbour list names a row more than once
        block = np.clip(self._similarities[changed], old[:, None], new[:, None]) - old[:, None]
        block *= self._weights[changed, None]
        rows, inverse = np.unique(self._neighbors[changed], return_inverse=True)
        falls = np.bincount(inverse.ravel(), weights=block.ravel(), minlength=len(rows))
        return rows.astype(np.int64), falls.astype(np.float64)
