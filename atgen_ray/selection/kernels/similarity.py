"""Cosine similarities that are equal to the last bit on every machine.

Floating-point sums depend on their order, and the order in a matrix product depends on the library,
the threads and the shape of the block. Equal examples would then differ in the last bit, ties would
no longer break by id, and shards would disagree.

Vectors are therefore quantised to fixed point, in which every sum is exact and no order matters.
Coordinates are multiples of 2^-24 (which float32 holds) and their products of 2^-48; by
Cauchy-Schwarz no partial sum of a dot product of unit vectors leaves the 53 bits of a float64.
Similarities are rounded to 2^-20, about the precision of float32 embeddings. So the similarity of a
vector to itself is exactly 1, float32 holds every similarity, and sums over up to 2^32 examples are
exact.

Pools that are too large for this are compared coarsely. Coarse coordinates are multiples of 2^-10,
which float16 holds, and products of 2^-20, of which float32 holds every partial sum. Products of
matrices are then exact at twice the speed. A coarse similarity is off by about 0.0004, at random.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from atgen_ray.core.arrays import Numbers, Vectors

CoarseVectors = npt.NDArray[np.float16]
_COORDINATE = np.float32(2.0**24)
_COARSE = np.float32(2.0**10)
SIMILARITY = 2.0**20
_CHUNK = 1024  # columns compared at a time: they fit the caches, and no pool is copied to float64


def quantise(vectors: npt.NDArray[np.floating[Any]]) -> Vectors:
    """Return unit vectors (n, d) as float32 with coordinates rounded to multiples of 2^-24."""
    quantised = vectors.astype(np.float32)
    quantised *= _COORDINATE
    np.rint(quantised, out=quantised)
    quantised /= _COORDINATE
    return quantised


def coarsen(vectors: Vectors) -> CoarseVectors:
    """Return unit vectors (n, d) as float16 with coordinates rounded to multiples of 2^-10."""
    coarse = vectors.astype(np.float32)
    coarse *= _COARSE
    np.rint(coarse, out=coarse)
    coarse /= _COARSE
    return coarse.astype(np.float16)


def compare(
    rows: Vectors | CoarseVectors,
    columns: Vectors | CoarseVectors,
    out: npt.NDArray[Any] | None = None,
) -> npt.NDArray[Any]:
    """Return the cosine similarities (n, m) of quantised unit vectors (n, d) and (m, d).

    They are float64, or written to `out`, which may be float32: it holds them exactly. Those of
    coarse vectors (float16) are float32.
    """
    if rows.dtype == np.float16:
        return _compare_coarsely(rows, columns, out)
    found = np.empty((len(rows), len(columns))) if out is None else out
    scaled = rows.astype(np.float64) * SIMILARITY
    for start in range(0, len(columns), _CHUNK):
        part = slice(start, start + _CHUNK)
        block = scaled @ columns[part].astype(np.float64).T
        np.rint(block, out=block)
        np.divide(block, SIMILARITY, out=found[:, part], casting="same_kind")
    return found


def _compare_coarsely(
    rows: npt.NDArray[Any], columns: npt.NDArray[Any], out: npt.NDArray[Any] | None
) -> npt.NDArray[Any]:
    found = np.empty((len(rows), len(columns)), dtype=np.float32) if out is None else out
    wide = rows.astype(np.float32)
    for start in range(0, len(columns), _CHUNK):
        part = slice(start, start + _CHUNK)
        found[:, part] = wide @ columns[part].astype(np.float32).T
    return found


def round_similarities(similarities: Numbers) -> Numbers:
    """Return `similarities`, or sums of them, rounded to 2^-20, so that adding them up is exact."""
    return np.asarray(np.rint(similarities * SIMILARITY) / SIMILARITY)


def center(vectors: Vectors) -> Vectors:
    """Return the direction of the mean of `vectors` (n, d), quantised, shape (d,); zero when they
    cancel out.
    """
    total = vectors.sum(axis=0, dtype=np.float64)
    length = np.linalg.norm(total)
    return quantise(total / length) if length > 0 else quantise(total)


def rows_within(megabytes: int, columns: int) -> int:
    """Return how many rows of `columns` float64 numbers fit into `megabytes`, at least one."""
    return max(1, megabytes * 2**20 // (8 * max(1, columns)))


def nearest(vectors: Vectors, others: Vectors, megabytes: int) -> Numbers:
    """Return the largest similarity of each of `vectors` (n, d) to `others` (m, d), shape (n,); -1
    when m = 0.
    """
    if not len(others):
        return np.full(len(vectors), -1.0)
    step = rows_within(megabytes, len(others))
    return np.concatenate(
        [
            compare(vectors[start : start + step], others).max(axis=1)
            for start in range(0, len(vectors), step)
        ]
    )


def sum_similarities(vectors: Vectors, others: Vectors) -> Numbers:
    """Return sum_j s_ij over `others` (m, d) for each of `vectors` (n, d), both quantised, shape
    (n,).

    The sum of dot products is the dot product with the sum, so that no pairs are compared. It is
    computed from the quantised direction of the sum and so is the same on every machine; the mean,
    sum / m, is right to about 1e-6.
    """
    if not len(others):
        return np.zeros(len(vectors))
    total = others.sum(axis=0, dtype=np.float64)
    return round_similarities(
        compare(vectors, center(others)[None])[:, 0] * np.sqrt((total * total).sum())
    )
