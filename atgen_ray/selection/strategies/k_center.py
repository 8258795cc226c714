"""The `k_center` strategy picks examples that are far from the labelled ones and from each
other.
"""

import numpy as np
from pydantic import Field, PositiveInt

from atgen_ray.selection.kernels.farthest import farthest_first
from atgen_ray.selection.kernels.similarity import nearest
from atgen_ray.selection.strategy import Candidates, Parameters, Picks, Strategy, pick_ids
from atgen_ray.selection.vectors import Space, space_needs, unit_vectors


class KCenterParameters(Parameters):
    """Core-set by farthest-first traversal (Sener and Savarese, ICLR 2018), as in DiverseEvol
    (arXiv 2311.08182).
    """

    space: Space = Field(
        "embeddings",
        description="Where distance is measured; states are those of the current model, as in "
        "DiverseEvol",
    )
    block_size: PositiveInt = Field(
        512, description="Candidates whose distances are computed together"
    )
    memory_mb: PositiveInt = Field(512, description="Largest block of similarities in MB")


def _select(candidates: Candidates, parameters: KCenterParameters, count: int) -> Picks:
    """Pick the example with the largest cosine distance to the nearest of the labelled examples and
    the picks before; the distance is 2 while there are none.

    With nothing labelled the most central example comes first.
    """
    usable, vectors, labeled = unit_vectors(candidates, parameters.space)
    if not len(usable):
        return Picks((), np.empty(0))
    similar = nearest(vectors, labeled, parameters.memory_mb)
    rows, found = farthest_first(vectors, similar, min(count, len(vectors)), parameters.block_size)
    return Picks(pick_ids(candidates.ids, usable[rows]), 1 - found)


K_CENTER = Strategy(
    "k_center",
    needs=frozenset({"embeddings"}),
    parameters=KCenterParameters,
    select=_select,
    resolve=lambda parameters: space_needs(parameters.space),
    title="Farthest examples first",
    why="Each pick is the example farthest from everything that is labelled or already picked, so "
    "the batch reaches into regions that have no labels. Outliers are picked early.",
    score="Cosine distance to the nearest labelled example or earlier pick, from 0 (the same) to "
    "2 (opposite, or nothing was labelled yet).",
)
