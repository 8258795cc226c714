"""Greedy maximisation of the log-determinant of an information matrix."""

from collections.abc import Iterator

import numpy as np

from atgen_ray.core.arrays import Integers, Numbers, Vectors

_CHUNK = 8192
_EQUAL = 2.0**-20


def maximize_determinant(
    vectors: Vectors, known: Vectors, prior: float, count: int
) -> tuple[Integers, Numbers]:
    """Return the rows h of `vectors` (n, d) that greedily maximise log det(V + sum h h^T), in
    order, and the gain of each.

    V is `prior` I + sum h h^T over `known` (m, d), `prior` > 0, `count` <= n. The gain of a row is
    log(1 + h^T V^-1 h). The method is an incremental Cholesky factorisation (Chen et al., NeurIPS
    2018, arXiv 1709.05135) in the d dimensions of the vectors: O(n d) time a pick and O(d (d +
    count)) memory beside the vectors. Of gains that agree to 2^-20, the precision of float32
    vectors, the first wins.
    """
    factor = np.linalg.cholesky(
        prior * np.eye(vectors.shape[1]) + known.T.astype(np.float64) @ known
    )
    # In whitened coordinates V is the identity, so h^T V^-1 h is a squared length.
    whitening = np.linalg.inv(factor)
    spread = np.concatenate([((part @ whitening.T) ** 2).sum(axis=1) for part in _chunks(vectors)])
    directions = np.empty((count, vectors.shape[1]))  # in whitened coordinates
    rows = np.empty(count, dtype=np.int64)
    gains = np.empty(count)
    for pick in range(count):
        best = int((spread >= spread.max() * (1 - _EQUAL)).argmax())
        rows[pick] = best
        gains[pick] = np.log1p(spread[best])
        whitened = whitening @ vectors[best].astype(np.float64)
        before = directions[:pick]
        directions[pick] = (whitened - before.T @ (before @ whitened)) / np.sqrt(1 + spread[best])
        along = whitening.T @ directions[pick]
        spread -= np.concatenate([part @ along for part in _chunks(vectors)]) ** 2
        np.maximum(spread, 0.0, out=spread)
        spread[rows[: pick + 1]] = -1.0  # below every other: a row is picked once
    return rows, gains


def _chunks(vectors: Vectors) -> Iterator[Numbers]:
    for start in range(0, len(vectors), _CHUNK):
        yield vectors[start : start + _CHUNK].astype(np.float64)
