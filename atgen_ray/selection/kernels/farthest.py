"""Rows far from each other: k-means++ seeding (random) and farthest-first traversal (greedy)."""

import numpy as np

from atgen_ray.core.arrays import Integers, Numbers, Vectors
from atgen_ray.selection.kernels.similarity import center, compare

_CHUNK = 8192


def kmeanspp_seeding(vectors: Vectors, count: int, seed: int) -> tuple[Integers, Numbers]:
    """Return `count` <= n rows of `vectors` (n, d) by k-means++ seeding (Arthur and Vassilvitskii,
    SODA 2007), and the distance of each when it was drawn.

    The longest vector comes first. Every other row is drawn with a probability proportional to its
    squared Euclidean distance to the nearest row before it; this distance is returned (of the first
    row, its squared length). Once every row left coincides with one drawn, rows follow in order.
    """
    generator = np.random.default_rng(seed)
    distances = _squares(vectors, np.zeros(vectors.shape[1]))
    rows = np.empty(count, dtype=np.int64)
    found = np.empty(count)
    left = np.ones(len(vectors), dtype=bool)
    for pick in range(count):
        mass = np.cumsum(np.where(left, distances, 0.0))
        if pick == 0:
            best = int(distances.argmax())
        elif mass[-1] > 0:
            # The product may round up to mass[-1], behind which there is no row.
            drawn = min(generator.random() * mass[-1], np.nextafter(mass[-1], 0))
            best = int(np.searchsorted(mass, drawn, side="right"))
        else:
            best = int(left.argmax())
        rows[pick] = best
        found[pick] = distances[best]
        left[best] = False
        apart = _squares(vectors, vectors[best].astype(np.float64))
        distances = apart if pick == 0 else np.minimum(distances, apart)
    return rows, found


def _squares(vectors: Vectors, point: Numbers) -> Numbers:
    """Return the squared distance of each row to `point`, (n,).

    It is the sum of squared differences: by inner products equal vectors would not be exactly 0
    apart.
    """
    chunks = [vectors[start : start + _CHUNK] - point for start in range(0, len(vectors), _CHUNK)]
    return np.concatenate([np.einsum("ij,ij->i", chunk, chunk) for chunk in chunks])


def farthest_first(
    vectors: Vectors, similar: Numbers, count: int, block_size: int
) -> tuple[Integers, Numbers]:
    """Return `count` <= n rows by farthest-first traversal (Gonzalez 1985), each the least similar
    to all before it, and that similarity.

    `vectors` (n, d) are unit vectors, quantised; `similar` (n,) is the largest similarity of each
    to what is chosen already, -1 if nothing is. Of equal rows the first wins; with nothing chosen
    yet the most central row comes first.

    Similarities only rise as rows are chosen, so an old one is a lower bound. Only rows that could
    still be the farthest are compared with the rows chosen since, `block_size` at a time.
    """
    similar = similar.copy()
    # The number of chosen rows that each row was compared with.
    seen = np.zeros(len(vectors), dtype=np.int64)
    rows = np.empty(count, dtype=np.int64)
    found = np.empty(count)
    for pick in range(count):
        if pick == 0 and (similar == -1).all():
            best = int(compare(vectors, center(vectors)[None])[:, 0].argmax())
        else:
            best = _farthest(vectors, similar, seen, rows[:pick], block_size)
        rows[pick] = best
        found[pick] = similar[best]
        similar[best] = np.inf
        seen[best] = count
    return rows, found


def _farthest(
    vectors: Vectors, similar: Numbers, seen: Integers, chosen: Integers, block_size: int
) -> int:
    """Return the row least similar to all of `chosen`; update `similar` and `seen` in place."""
    while seen[best := int(similar.argmin())] < len(chosen):
        stale = np.flatnonzero(seen < len(chosen))
        if len(stale) > block_size:
            stale = stale[np.argpartition(similar[stale], block_size)[:block_size]]
        since = chosen[seen[stale].min() :]
        similar[stale] = np.maximum(
            similar[stale], compare(vectors[stale], vectors[since]).max(axis=1)
        )
        seen[stale] = len(chosen)
    return best
