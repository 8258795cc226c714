"""Greedy maximisation of facility location."""

import numpy as np

from atgen_ray.selection.kernels import Integers, Numbers
from atgen_ray.selection.kernels.similarity import compare, rows_within


def cover_greedily(
    vectors: Numbers, covered: Numbers, count: int, block_size: int, megabytes: int
) -> tuple[Integers, Numbers]:
    """Rows that greedily maximise sum_i max(covered_i, max_j s_ij), best first, and the gain of each.

    `vectors` (n, d) are unit vectors on the grid, `covered` (n,) is how well each is represented already, `count` <= n.
    The gain of row j is sum_i max(0, s_ij - covered_i). Gains only fall as rows are chosen (submodularity), so a gain
    from an earlier step is an upper bound, and only rows that could still win are computed again (lazy greedy, Minoux
    1978). The result is that of plain greedy; of equal gains the first row wins. Gains are computed for `block_size`
    rows at a time, fewer where their similarities to all n rows would take more than `megabytes`.
    """
    covered = covered.copy()
    step = min(block_size, rows_within(megabytes, len(vectors)))
    everything = np.arange(len(vectors))
    bounds = np.concatenate([_gain(vectors, everything[i : i + step], covered) for i in range(0, len(vectors), step)])
    fresh = np.ones(len(vectors), dtype=bool)
    rows = np.empty(count, dtype=np.int64)
    gains = np.empty(count)
    for pick in range(count):
        while not fresh[best := int(bounds.argmax())]:
            stale = np.flatnonzero(~fresh)
            stale = stale[np.argsort(-bounds[stale], kind="stable")[:step]]
            bounds[stale] = _gain(vectors, stale, covered)
            fresh[stale] = True
        rows[pick], gains[pick] = best, bounds[best]
        np.maximum(covered, compare(vectors[best : best + 1], vectors)[0], out=covered)
        bounds[best] = -np.inf
        fresh[:] = np.isneginf(bounds)  # chosen rows are never computed again
    return rows, gains


def _gain(vectors: Numbers, rows: Integers, covered: Numbers) -> Numbers:
    gains = compare(vectors[rows], vectors)
    gains -= covered
    np.maximum(gains, 0.0, out=gains)
    return gains.sum(axis=1)
