"""Cosine similarities that come out the same to the last bit on every machine.

Floating-point sums depend on their order, and the order in a matrix product on the library, the threads and the shape
of the block. Equal examples would then differ in the last bit, ties would no longer break by id, and shards would
disagree. On a fixed-point grid every sum is exact, so no order can matter: coordinates are multiples of 2^-26, their
products of 2^-52, and by Cauchy-Schwarz no partial sum of a dot product of unit vectors leaves the 53 bits of a
float64. Similarities are rounded to 2^-20, about what float32 embeddings are good for, which makes that of a vector to
itself exactly 1, and sums over up to 2^32 examples exact.
"""

import numpy as np

from atgen_ray.selection.kernels import Numbers

_COORDINATE = 2.0**26
_SIMILARITY = 2.0**20


def to_grid(vectors: np.ndarray) -> Numbers:
    """Unit vectors (n, d) as float64 on the grid."""
    return np.rint(vectors.astype(np.float64) * _COORDINATE) / _COORDINATE


def compare(rows: Numbers, columns: Numbers) -> Numbers:
    """Cosine similarities (n, m) of unit vectors (n, d) and (m, d) that are on the grid."""
    similarities = rows @ columns.T
    similarities *= _SIMILARITY
    np.rint(similarities, out=similarities)
    similarities /= _SIMILARITY
    return similarities


def center(vectors: Numbers) -> Numbers:
    """Direction of the mean of `vectors` (n, d) on the grid, shape (d,); zero when they cancel out."""
    total = vectors.sum(axis=0)
    length = np.linalg.norm(total)
    return to_grid(total / length) if length > 0 else total


def rows_within(megabytes: int, columns: int) -> int:
    """How many rows of `columns` float64 fit into `megabytes`, at least one."""
    return max(1, megabytes * 2**20 // (8 * max(1, columns)))


def nearest(vectors: Numbers, others: Numbers, megabytes: int) -> Numbers:
    """Largest similarity of each of `vectors` (n, d) to `others` (m, d), m > 0, shape (n,); blocks of `megabytes`."""
    step = rows_within(megabytes, len(others))
    return np.concatenate(
        [compare(vectors[start : start + step], others).max(axis=1) for start in range(0, len(vectors), step)]
    )
