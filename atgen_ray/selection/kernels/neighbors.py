"""Nearest neighbours of unit vectors, found with one block of similarities in memory at a time."""

import numpy as np
import numpy.typing as npt

from atgen_ray.core.arrays import Integers, Vectors
from atgen_ray.selection.kernels.clusters import cluster, group
from atgen_ray.selection.kernels.similarity import center, compare, rows_within

Indices = npt.NDArray[np.int32]
Neighbors = tuple[Indices, Vectors]


def find_neighbors(vectors: Vectors, count: int, megabytes: int) -> Neighbors:
    """Return the `count` most similar rows of each of `vectors` (n, d), quantised, the row itself
    among them, and the similarities.

    Both have the shape (n, min(count, n)), most similar first; of equal ones the first row.
    """
    return _search(
        vectors,
        np.arange(len(vectors)),
        np.arange(len(vectors)),
        min(count, len(vectors)),
        megabytes,
    )


def find_neighbors_in_cells(
    vectors: Vectors, count: int, megabytes: int, cells: int, probes: int, seed: int
) -> Neighbors:
    """Return what `find_neighbors` returns, searching only the `probes` k-means cells nearest to
    the row's own (inverted file index).

    If these hold too few rows, the row itself is repeated with the similarity -1.
    """
    members = group(cluster(vectors, cells, seed))
    centers = np.stack([center(vectors[rows]) for rows in members])
    near = np.argsort(-compare(centers, centers), axis=1, kind="stable")[:, :probes]
    count = min(count, len(vectors))
    indices = np.repeat(np.arange(len(vectors), dtype=np.int32)[:, None], count, axis=1)
    similarities = np.full((len(vectors), count), -1, dtype=np.float32)
    for cell, rows in enumerate(members):
        others = np.sort(np.concatenate([members[other] for other in {cell, *near[cell].tolist()}]))
        found = min(count, len(others))
        indices[rows, :found], similarities[rows, :found] = _search(
            vectors, rows, others, found, megabytes
        )
    return indices, similarities


def _search(
    vectors: Vectors, rows: Integers, others: Integers, count: int, megabytes: int
) -> Neighbors:
    """Return the `count` rows of `others` most similar to each of `rows`, and the similarities."""
    indices = np.empty((len(rows), count), dtype=np.int32)
    similarities = np.empty((len(rows), count), dtype=np.float32)
    columns = vectors[others] if len(others) < len(vectors) else vectors
    step = rows_within(max(1, megabytes // 3), len(others))  # the block, its negative and the order
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        block = compare(vectors[rows[part]], columns)
        # A partition finds the nearest in linear time. They are sorted by row first, so that the
        # stable sort by similarity leaves equal ones in the order of rows.
        if count < len(others):
            nearest = np.sort(np.argpartition(-block, count - 1, axis=1)[:, :count], axis=1)
        else:
            nearest = np.broadcast_to(np.arange(count), (len(block), count))
        found = np.take_along_axis(block, nearest, axis=1)
        order = np.argsort(-found, axis=1, kind="stable")
        indices[part] = others[np.take_along_axis(nearest, order, axis=1)]
        similarities[part] = np.take_along_axis(found, order, axis=1)
    return indices, similarities
