"""How near a batch is to the best possible one: an upper bound on facility location, measured on a
sample of the pool where all pairs are too many.

For any set A and any k rows, a submodular f gains from the k rows at most f(A) and the k largest
gains that are left after A. A is here one of several beginnings of the batch: after few picks much
is left to gain, after many the gains of rows that stand for the same examples are counted again and
again, and which of them proves most depends on the pool.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from atgen_ray.core.arrays import Integers, Numbers
from atgen_ray.selection.kernels.coverage import CoarsePart
from atgen_ray.selection.kernels.similarity import CoarseVectors, compare

_QUANTILE = 1.645  # of the normal distribution, at 95 % to one side
# Rows and columns of similarities that are worked on together, so that they stay in the caches.
_TILE = 128, 1024


@dataclass(frozen=True)
class Bound:
    """What a batch is sure to reach of the most that any batch of its size could add.

    Attributes:
        share: at least this share of the best possible. Where it was measured on a sample, it is
            the lower end of a one-sided interval of 95 %.
        measured: examples over which coverage was measured for the bound.
        pool: examples that coverage is about.
    """

    share: float
    measured: int
    pool: int

    def __str__(self) -> str:
        percent = math.floor(1000 * self.share) / 10  # never more than was proved
        text = f">= {percent:.1f} % of the best possible"
        if self.measured < self.pool:
            text += f" (95 % sure, by {self.measured:,} of {self.pool:,} examples)"
        return text


@dataclass(frozen=True)
class Yardstick:
    """A sample of the ground: coarse vectors (g, d), weights (g,), and how well each row is covered
    after some beginnings of the batch, (l, g), fewest picks first.
    """

    vectors: CoarseVectors
    weights: Numbers
    levels: Numbers


def build_yardstick(sample: CoarsePart, batch: CoarseVectors) -> Yardstick:
    """Return the yardstick of a `sample` of the ground after the first 0, k/64, k/16, k/4 and k of
    the `batch` (k, d).
    """
    count = len(batch)
    similarities = compare(sample.vectors, batch)
    levels = [sample.covered]
    for picks in dict.fromkeys((count // 64, count // 16, count // 4, count)):
        if picks:
            best = similarities[:, :picks].max(axis=1).astype(np.float64)
            levels.append(np.maximum(levels[0], best))
    return Yardstick(sample.vectors, sample.weights, np.stack(levels))


def find_largest_gains(
    part: CoarsePart, yardstick: Yardstick, count: int
) -> tuple[Integers, Numbers]:
    """Return the `count` rows of a part (p) that would add most at each level, and what they would
    add; both (l, min(count, p)).
    """
    gains = _measure_gains(part.vectors, yardstick)
    count = min(count, len(part.vectors))
    top = np.argsort(-gains, axis=1, kind="stable")[:, :count]
    return top, np.take_along_axis(gains, top, axis=1)


def bound_share(yardstick: Yardstick, found: Sequence[CoarseVectors], pool: int) -> Bound:
    """Return the bound by the level that proves most. `found` holds, for each level, the vectors of
    the k rows that would add most.
    """
    start = yardstick.levels[0]
    reached = yardstick.weights * (yardstick.levels[-1] - start)
    limits = [
        yardstick.weights
        * (level - start + np.maximum(compare(yardstick.vectors, rows) - level[:, None], 0).sum(1))
        for level, rows in zip(yardstick.levels, found, strict=True)
    ]
    limit = min(limits, key=lambda parts: float(parts.sum()))
    best = float(limit.sum())
    measured = len(start)
    if best <= 0:  # nothing is left to cover
        return Bound(1.0, measured, pool)
    share = float(reached.sum()) / best
    if measured < pool:
        # Standard error of a ratio of means, in a sample drawn without replacement.
        scatter = float(np.std(reached - share * limit)) * math.sqrt(1 - measured / pool)
        share -= _QUANTILE * scatter / (best / measured) / math.sqrt(measured)
    return Bound(min(1.0, max(0.0, share)), measured, pool)


def _measure_gains(vectors: CoarseVectors, yardstick: Yardstick) -> Numbers:
    """Return what each of `vectors` (n, d) would add at each level, (l, n)."""
    rows, columns = _TILE
    levels = yardstick.levels
    # Differences of multiples of 2^-20 below 4, which float32 holds.
    steps = np.diff(levels, axis=0, prepend=0.0).astype(np.float32)
    ground = [
        (
            yardstick.vectors[start : start + columns].astype(np.float32).T,
            slice(start, start + columns),
        )
        for start in range(0, levels.shape[1], columns)
    ]
    gains = np.zeros((len(levels), len(vectors)))
    for start in range(0, len(vectors), rows):
        wide = vectors[start : start + rows].astype(np.float32)
        for block, part in ground:
            left = wide @ block
            for level, step in enumerate(steps):
                # max(0, s - l) less the rise to the next level, cut at 0 again, is max(0, s - l').
                left -= step[part]
                np.maximum(left, 0, out=left)
                gains[level, start : start + rows] += (
                    left.astype(np.float64) @ yardstick.weights[part]
                )
    return gains
