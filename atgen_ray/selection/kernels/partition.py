"""Facility location of pools too large to compare every pair of examples."""

import numpy as np

from atgen_ray.selection.kernels import Integers, Numbers, Vectors
from atgen_ray.selection.kernels.coverage import DenseCoverage
from atgen_ray.selection.kernels.greedy import maximize


def maximize_in_parts(
    vectors: Vectors,
    covered: Numbers,
    weights: Numbers | None,
    count: int,
    parts: list[Integers],
    ground: Integers,
    block_size: int,
    megabytes: int,
) -> tuple[Integers, Numbers]:
    """Rows that nearly maximise facility location over a large pool, best first, and the gain of each.

    `vectors` (n, d) are unit vectors on the grid; `covered` and `weights` are those of DenseCoverage. Two stages
    (GreeDi, Mirzasoleiman et al., NeurIPS 2013): every part, drawn at random so that it is the pool in small, proposes
    `count` rows by plain greedy; plain greedy then picks among all proposals. What a proposal gains is measured on the
    rows `ground`, a random sample of the pool, and scaled up to the whole of it.
    """
    proposals = []
    for part in parts:
        members, weight = vectors[part], None if weights is None else weights[part]
        function = DenseCoverage(members, members, covered[part], weight, megabytes)
        proposals.append(part[maximize(function, min(count, len(part)), block_size)[0]])
    rows = np.sort(np.concatenate(proposals))
    weight = None if weights is None else weights[ground]
    final = DenseCoverage(vectors[rows], vectors[ground], covered[ground], weight, megabytes)
    picked, gains = maximize(final, count, block_size)
    return rows[picked], gains * (len(vectors) / len(ground))
