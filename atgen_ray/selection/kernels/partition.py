"""Facility location of pools that are too large to compare every pair of examples."""

from collections.abc import Sequence

import numpy as np

from atgen_ray.core.arrays import Integers, Numbers, Vectors
from atgen_ray.selection.kernels.coverage import Part, PartsCoverage
from atgen_ray.selection.kernels.draws import derive_seed
from atgen_ray.selection.kernels.executor import Executor
from atgen_ray.selection.kernels.greedy import maximize, maximize_stochastically


def maximize_in_parts(
    vectors: Vectors,
    covered: Numbers,
    weights: Numbers | None,
    count: int,
    members: Sequence[Integers],
    proposals: int,
    epsilon: float,
    block_size: int,
    megabytes: int,
    seed: int,
    workers: Executor,
) -> tuple[Integers, Numbers]:
    """Return rows that nearly maximise facility location over a large pool, in order, and the gain
    of each over the whole pool.

    `vectors` (n, d) are unit vectors, quantised; `covered` and `weights` are those of
    DenseCoverage. `members` (rows in ascending order) are the parts, drawn at random so that each
    resembles the pool.

    1. Every part proposes rows by plain greedy: `count` of them, or as many as make `proposals` x
       `count` in all (GreeDi, Mirzasoleiman et al., NeurIPS 2013, where every part proposes
       `count`).
    2. Greedy picks among all proposals by what they gain over the whole pool. If the parts propose
       less than a batch each, every pick is the best of a sample (maximize_stochastically): exact
       greedy would take hours for the first picks, which change the gains of all.

    The picks depend on the parts, `proposals` and `seed`, never on the workers.
    """
    parts = [
        workers.share(
            Part(vectors[rows], covered[rows], None if weights is None else weights[rows])
        )
        for rows in members
    ]
    share = min(count, -(-proposals * count // len(parts)))
    before = share * len(parts)

    def report_parts(finished: int) -> None:
        workers.progress(finished * share, before + count)

    def report_pick(pick: int) -> None:
        workers.progress(before + pick, before + count)

    found = workers.map(
        _propose, [(part, share, block_size, megabytes) for part in parts], report_parts
    )
    proposed = np.sort(
        np.concatenate([rows[picked] for rows, picked in zip(members, found, strict=True)])
    )
    # Following every gain pays off only for exact greedy, which reads all of them.
    whole = share == count
    coverage = workers.cover(vectors[proposed], parts, megabytes, follow=whole)
    if whole:
        picked, gains = maximize(coverage, count, block_size, report_pick)
    else:
        start = derive_seed("proposals", seed, 0)
        picked, gains = maximize_stochastically(
            coverage, count, epsilon, block_size, start, report_pick
        )
    return proposed[picked], gains


def _propose(part: Part, count: int, block_size: int, megabytes: int) -> Integers:
    """Return the rows that a part proposes, chosen by how well they cover the part."""
    coverage = PartsCoverage(part.vectors, [part], megabytes)
    return maximize(coverage, min(count, coverage.size), block_size)[0]
