"""Rows drawn far from each other.

Points far from each other.
"""

import numpy as np

from atgen_ray.core.arrays import Integers, Numbers, Vectors
from atgen_ray.selection.kernels.similarity import center, compare

_CHUNK = 8192


def kmeanspp_seeding(vectors: Vectors, count: int, seed: int) -> tuple[Integers, Numbers]:
    """k-means++ seeding (Arthur and Vassilvitskii, SODA 2007): rows of `vectors` (n, d) and the
    distances they had.

    The longest vector comes first; every other is drawn with a probability proportional to its
    squared Euclidean distance to the nearest row before, which is returned with it (of the first,
    its squared length). Once every row left coincides with one drawn, rows follow in order. `count`
    <= n.
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
            drawn = min(
                generator.random() * mass[-1], np.nextafter(mass[-1], 0)
            )  # the product may round up to the end
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
    """Squared distance of each row to `point`; differences, not products, so that equal vectors are
    0 apart.
    """
    chunks = [vectors[start : start + _CHUNK] - point for start in range(0, len(vectors), _CHUNK)]
    return np.concatenate([np.einsum("ij,ij->i", chunk, chunk) for chunk in chunks])


def farthest_first(
    vectors: Vectors, similar: Numbers, count: int, block_size: int
) -> tuple[Integers, Numbers]:
    """Farthest-first traversal (Gonzalez 1985): rows least similar to all before, in order, and
    that similarity.

    `vectors` (n, d) are unit vectors on the grid, `similar` (n,) is the largest similarity of each
    to what is chosen already, -1 where nothing is; `count` <= n. Of equal rows the first wins; with
    nothing chosen yet the most central row comes first. Similarities only rise as rows are chosen,
    so an old one is a lower bound, and only rows that could still be the farthest are compared with
    the rows chosen since, `block_size` at a time.
    """
    similar = similar.copy()
    seen = np.zeros(
        len(vectors), dtype=np.int64
    )  # how many of the chosen rows each row was compared with
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
