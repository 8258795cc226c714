"""How near a batch is to the best possible one: an upper bound on facility location, measured on a
sample of the pool where all pairs are too many.

Whatever price p_i >= c_i is put on each row of the ground, no k candidates add more than the prices
come to, sum_i w_i (p_i - c_i), and the k largest of sum_i w_i max(0, s_ij - p_i) over all
candidates j (the Lagrangian dual of the k-median problem). With the coverage by the batch as price
it is the bound of greedy: what the batch adds, and the k largest gains that are left. That counts
the gain of rows again for every candidate that could cover them. Better prices are found by
subgradient steps, with the sample itself as candidates; any price is valid.
"""

import math
from dataclasses import dataclass

import numpy as np

from atgen_ray.core.arrays import Integers, Numbers, Vectors
from atgen_ray.selection.kernels.coverage import CoarsePart
from atgen_ray.selection.kernels.similarity import CoarseVectors, compare, round_similarities

_QUANTILE = 1.645  # of the normal distribution, at 95 % to one side
_STEPS = 60  # subgradient steps towards better prices
_RIVALS = 4000  # rows of the sample that are candidates while better prices are looked for
_PATIENCE = 8  # of them without a lower bound
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
    """A sample of the ground with a price for each row, (g,)."""

    sample: CoarsePart
    prices: Numbers


def build_yardstick(sample: CoarsePart, batch: CoarseVectors) -> Yardstick:
    """Return the `sample` with the best prices found, among them the coverage by the first 0, k/16,
    k/4 and k of the `batch` (k, d).
    """
    count = len(batch)
    start = sample.covered
    to_batch = compare(sample.vectors, batch)
    reached = float(sample.weights @ (np.maximum(start, to_batch.max(axis=1)) - start))
    some = np.linspace(0, len(start) - 1, min(len(start), _RIVALS)).astype(np.int64)
    rivals = np.concatenate([compare(sample.vectors, sample.vectors[some]), to_batch], axis=1)
    beginnings = [start]
    for picks in dict.fromkeys((count // 16, count // 4, count)):
        if picks:
            beginnings.append(np.maximum(start, to_batch[:, :picks].max(axis=1)))
    prices = min(beginnings, key=lambda given: _limit(rivals, sample, given, count)[0])
    best = prices
    least = math.inf
    improved = 0  # the last step that lowered the limit by more than a thousandth of the rest
    for step in range(_STEPS):
        limit, surplus = _limit(rivals, sample, prices, count)
        if limit < least:
            if not least < limit + 1e-3 * (limit - reached):
                improved = step
            least = limit
            best = prices
        elif step - improved > _PATIENCE:
            break
        norm = float((sample.weights * surplus * surplus).sum())
        if norm == 0 or limit <= reached:
            break
        # Polyak's step, shorter and shorter: what the batch reaches is below the least limit.
        length = (limit - reached) / norm / (1 + step / 10)
        prices = np.maximum(start, prices + length * surplus)
    return Yardstick(sample, round_similarities(best))


def _limit(
    rivals: Vectors, sample: CoarsePart, prices: Numbers, count: int
) -> tuple[float, Numbers]:
    """Return the upper bound by these prices among `rivals` (g, r), and by how many of the best
    `count` each row of the ground would be covered more than once.
    """
    weights = sample.weights.astype(np.float32)
    left = np.zeros(rivals.shape[1], dtype=np.float32)
    for start in range(0, len(rivals), _TILE[0]):
        rows = slice(start, start + _TILE[0])
        block = rivals[rows] - prices[rows, None].astype(np.float32)
        np.maximum(block, 0, out=block)
        left += weights[rows] @ block
    count = min(count, len(left))
    top = np.argpartition(-left, count - 1)[:count]
    limit = sample.weights @ (prices - sample.covered) + left[top].sum()
    covered = (rivals[:, top] > prices[:, None].astype(np.float32)).sum(axis=1)
    return float(limit), covered - 1.0


def find_largest_gains(
    part: CoarsePart, yardstick: Yardstick, count: int
) -> tuple[Integers, Numbers]:
    """Return the `count` rows of a part (p) that are worth most beyond the prices, and what they
    are worth; both (min(count, p),).
    """
    gains = _measure_gains(part.vectors, yardstick)
    top = np.argsort(-gains, kind="stable")[:count]
    return top, gains[top]


def bound_share(
    yardstick: Yardstick, batch: CoarseVectors, rivals: CoarseVectors, pool: int
) -> Bound:
    """Return the bound of a `batch` (k, d) by the k `rivals` (k, d) that are worth most."""
    sample = yardstick.sample
    start = sample.covered
    prices = yardstick.prices
    best = compare(sample.vectors, batch).max(axis=1)
    reached = sample.weights * (np.maximum(best, start) - start)
    above = np.maximum(compare(sample.vectors, rivals) - prices[:, None], 0).sum(axis=1)
    limits = sample.weights * (prices - start + above)
    limit = float(limits.sum())
    measured = len(start)
    if limit <= 0:  # nothing is left to cover
        return Bound(1.0, measured, pool)
    share = float(reached.sum()) / limit
    if measured < pool:
        # Standard error of a ratio of means, in a sample drawn without replacement.
        scatter = float(np.std(reached - share * limits)) * math.sqrt(1 - measured / pool)
        share -= _QUANTILE * scatter / (limit / measured) / math.sqrt(measured)
    return Bound(min(1.0, max(0.0, share)), measured, pool)


def _measure_gains(vectors: CoarseVectors, yardstick: Yardstick) -> Numbers:
    """Return what each of `vectors` (n, d) is worth beyond the prices, shape (n,)."""
    rows, columns = _TILE
    sample = yardstick.sample
    prices = yardstick.prices.astype(np.float32)
    ground = []
    for start in range(0, len(prices), columns):
        part = slice(start, start + columns)
        wide = sample.vectors[part].astype(np.float32).T
        ground.append((wide, prices[part], sample.weights[part]))
    gains = np.zeros(len(vectors))
    for start in range(0, len(vectors), rows):
        wide = vectors[start : start + rows].astype(np.float32)
        for block, price, weights in ground:
            left = wide @ block
            left -= price
            np.maximum(left, 0, out=left)
            gains[start : start + rows] += left.astype(np.float64) @ weights
    return gains
