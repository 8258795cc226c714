"""Facility location of pools that are too large to compare every pair of examples."""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from atgen_ray.core.arrays import Integers, Numbers, Vectors
from atgen_ray.selection.kernels.bound import (
    Bound,
    bound_share,
    build_yardstick,
    find_largest_gains,
)
from atgen_ray.selection.kernels.coverage import CoarsePart, round_weights
from atgen_ray.selection.kernels.coverage_pairs import CoveragePairs, find_open_pairs
from atgen_ray.selection.kernels.executor import Executor, Steps
from atgen_ray.selection.kernels.greedy import maximize
from atgen_ray.selection.kernels.similarity import (
    SIMILARITY,
    CoarseVectors,
    coarsen,
    compare,
    round_similarities,
)

if TYPE_CHECKING:
    from scipy.sparse import csr_array

GROUND = 200_000  # rows over which the last picks are compared, about, and 20 for each at least
MEASURED = 10_000  # rows by which the bound is measured
# Rows of a part by which a proposal is chosen, for each of them; and for all of them at least.
_ROWS_FOR_EACH = 100
_LEAST = 1000
# Picks that are expected among the candidates that may cover a row. If picks lay at random, one row
# in e^6 would have none.
_PICKS_NEAR = 6
_STRIDE = 4  # the similarity that so many candidates reach is found among every fourth
_BLOCK = 256  # rows of the ground compared together


class Pool:
    """A large pool in parts that lie with the workers; their similarities are coarse.

    `vectors` (n, d) are unit vectors; `covered` and `weights` (n,) are those of DenseCoverage.
    `members` (rows in ascending order) are the parts, drawn at random so that each resembles the
    pool.
    """

    def __init__(
        self,
        vectors: Vectors,
        covered: Numbers,
        weights: Numbers | None,
        members: Sequence[Integers],
        workers: Executor,
    ) -> None:
        self.vectors = vectors
        self.members = members
        self.workers = workers
        self._covered = covered
        self._weights = weights

    @cached_property
    def parts(self) -> list[Any]:
        """References to each `CoarsePart`, with the workers."""
        return [self.workers.share(self.take(rows)) for rows in self.members]

    def take(self, rows: Integers) -> CoarsePart:
        """Return some rows as a part."""
        weights = np.ones(len(rows))
        if self._weights is not None:
            weights = round_weights(self._weights[rows])
        return CoarsePart(
            coarsen(self.vectors[rows]), round_similarities(self._covered[rows]), weights
        )

    def bound(self, batch: Integers, sample: Integers, steps: Steps) -> Bound:
        """Return how near the rows of `batch` are to the best, measured on the rows of `sample`, or
        on `MEASURED` of them, evenly spaced; a step for each part.
        """
        some = np.linspace(0, len(sample) - 1, min(len(sample), MEASURED)).astype(np.int64)
        chosen = coarsen(self.vectors[batch])
        yardstick = build_yardstick(self.take(sample[some]), chosen)
        shared = self.workers.share(yardstick)
        found = steps.map(find_largest_gains, [(part, shared, len(batch)) for part in self.parts])
        rows = np.concatenate(
            [part[top] for part, (top, _) in zip(self.members, found, strict=True)]
        )
        gains = np.concatenate([left for _, left in found])
        best = rows[np.lexsort((rows, -gains))[: len(batch)]]
        return bound_share(yardstick, chosen, coarsen(self.vectors[best]), len(self.vectors))


def maximize_in_parts(
    pool: Pool, count: int, proposals: int, block_size: int
) -> tuple[Integers, Numbers, Bound]:
    """Return rows that nearly maximise facility location over a large pool, in order, the gain of
    each over the whole pool, and how near they are to the best.

    1. Every part proposes rows by greedy: `count` of them, or as many as make `proposals` x `count`
       in all (GreeDi, Mirzasoleiman et al., NeurIPS 2013, where every part proposes `count`).
    2. Greedy picks among all proposals by what they gain over the first parts, `GROUND` rows.
    3. The picks are measured over the whole pool, and the bound on the last parts, `MEASURED` rows.

    In 1 and 2 a row of the ground is covered by the candidates nearest to it alone, several times
    as many as lie between two picks. The work grows with n alone, and the picks depend on the parts
    and `proposals`, never on the workers.
    """
    parts = pool.parts
    members = pool.members
    part_size = len(members[0])
    ground = parts[: -(-max(GROUND, 20 * count) // part_size)]
    steps = Steps(pool.workers, 3 * len(parts) + len(ground) + count)

    share = min(count, -(-proposals * count // len(parts)))
    found = steps.map(_propose, [(part, share, block_size) for part in parts])
    places = np.sort(np.concatenate([rows[at] for rows, at in zip(members, found, strict=True)]))
    candidates = coarsen(pool.vectors[places])
    distinct = find_distinct(candidates)
    places = places[distinct]

    shared = pool.workers.share(candidates[distinct])
    pairs = steps.map(_pair, [(part, shared, count) for part in ground])
    rows = np.concatenate(members[: len(ground)])
    function = _cover([near for near, _ in pairs], pool.take(rows).weights, [f for _, f in pairs])
    del pairs  # they are as large as the pool
    wanted = min(count, len(places))
    chosen = places[maximize(function, wanted, block_size, steps.report)[0]]
    if wanted < count:  # the rest adds nothing: it is what the picks stand for already
        rest = np.setdiff1d(np.arange(len(pool.vectors)), chosen)
        chosen = np.concatenate([chosen, rest[: count - wanted]])
    steps.finish(count)

    batch = pool.workers.share(coarsen(pool.vectors[chosen]))
    added = steps.map(_measure, [(part, batch) for part in parts])
    gains = np.sum(added, axis=0)
    measured = -(-MEASURED // part_size)
    return chosen, gains, pool.bound(chosen, np.concatenate(members[-measured:]), steps)


def find_distinct(vectors: CoarseVectors) -> Integers:
    """Return the rows of `vectors` (n, d) that are equal to no row before them, in order."""
    contiguous = np.ascontiguousarray(vectors) + np.float16(0)  # -0 becomes 0
    rows = contiguous.view(np.dtype((np.void, contiguous.itemsize * contiguous.shape[1])))
    return np.sort(np.unique(rows.ravel(), return_index=True)[1])


def _propose(part: CoarsePart, count: int, block_size: int) -> Integers:
    """Return the rows that a part proposes, chosen by how well they cover the part, or as many of
    its rows as are enough for `count`.
    """
    size = min(len(part.vectors), max(_LEAST, _ROWS_FOR_EACH * count))
    # Spread over the part, whose rows are in the order of their ids.
    sample = part.take(np.linspace(0, len(part.vectors) - 1, size).astype(np.int64))
    rows = find_distinct(part.vectors)
    pairs, floors = _pair(sample, part.vectors[rows], count)
    function = _cover([pairs], sample.weights, [floors])
    return rows[maximize(function, min(count, len(rows)), block_size)[0]]


def _pair(part: CoarsePart, candidates: CoarseVectors, count: int) -> tuple["csr_array", Numbers]:
    """Return the similarities of a part's rows to the `candidates` near to them, (p, c), and those
    below which a candidate is not near, (p,).
    """
    starts = range(0, len(part.vectors), _BLOCK)
    blocks = (compare(part.vectors[start : start + _BLOCK], candidates) for start in starts)
    floors: list[Numbers] = []

    def limit(block: Vectors) -> Vectors:
        sample = block[:, ::_STRIDE]
        near = -(-_PICKS_NEAR * sample.shape[1] // count)
        floor = part.covered[len(floors) * _BLOCK :][: len(block)]
        if near < sample.shape[1]:
            last = sample.shape[1] - near
            reached = np.partition(sample, last, axis=1)[:, last].astype(np.float64)
            # A step below it, so that equal candidates are all near or all not.
            floor = np.maximum(floor, reached - 1 / SIMILARITY)
        floors.append(floor)
        return floor.astype(np.float32)[:, None]

    pairs = find_open_pairs(((block, limit(block)) for block in blocks), len(candidates))
    return pairs, np.concatenate(floors)


def _cover(
    pairs: Sequence["csr_array"], weights: Numbers, floors: Sequence[Numbers]
) -> CoveragePairs:
    """Return facility location over the `pairs` of one part after the other."""
    from scipy.sparse import vstack

    whole = vstack(pairs, format="csr")
    return CoveragePairs(whole.T.tocsr(), np.concatenate(floors), weights)


def _measure(part: CoarsePart, batch: CoarseVectors) -> Numbers:
    """Return what each of the `batch` adds to the coverage of the part, in order."""
    sums = np.zeros(len(batch))
    for start in range(0, len(part.vectors), _BLOCK):
        rows = slice(start, start + _BLOCK)
        best = compare(part.vectors[rows], batch)
        best[:, 0] = np.maximum(best[:, 0], part.covered[rows])
        np.maximum.accumulate(best, axis=1, out=best)
        sums += part.weights[rows] @ best
    return np.diff(sums, prepend=part.weights @ part.covered)
