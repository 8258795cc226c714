"""How similar examples are to a whole set, without comparing every pair."""

import numpy as np

from atgen_ray.core.arrays import Numbers, Vectors
from atgen_ray.selection.kernels.similarity import center, compare, round_similarities


def sum_similarities(vectors: Vectors, others: Vectors) -> Numbers:
    """sum_j s_ij over `others` (m, d) for each of `vectors` (n, d), both on the grid, shape (n,).

    The sum of dot products is the dot product with the sum. It is computed from the direction of the sum, which is on
    the grid, and so is the same on every machine; its mean, sum / m, is right to about 1e-6.
    """
    if not len(others):
        return np.zeros(len(vectors))
    total = others.sum(axis=0, dtype=np.float64)
    return round_similarities(compare(vectors, center(others)[None])[:, 0] * np.sqrt((total * total).sum()))
