"""The `facility_location` strategy: the batch that best represents the pool."""

import numpy as np
from pydantic import Field, PositiveInt

from atgen_ray.selection.contract import Candidates, Parameters, Picks, Strategy, pick_ids
from atgen_ray.selection.kernels.coverage import DenseCoverage
from atgen_ray.selection.kernels.greedy import maximize
from atgen_ray.selection.kernels.similarity import nearest, to_grid
from atgen_ray.selection.vectors import rows_finite


class FacilityLocationParameters(Parameters):
    """Facility location as experimental design for fine-tuning (Bhatt et al., arXiv 2401.06692)."""

    block_size: PositiveInt = Field(128, description="Candidates whose gains are computed together")
    memory_mb: PositiveInt = Field(512, description="Largest block of similarities in MB")


def _select(candidates: Candidates, parameters: FacilityLocationParameters, count: int) -> Picks:
    """Greedy picks by marginal gain sum_i max(0, s_ij - m_i) over the candidates i.

    m_i is the best similarity of i to the labelled examples and to the picks before, and -1, the least there is, while
    there are none; s is the cosine similarity.
    """
    embeddings, labeled = candidates.vectors()
    usable = np.flatnonzero(rows_finite(embeddings))
    if not len(usable):
        return Picks((), np.empty(0))
    vectors = to_grid(embeddings[usable])
    labeled = labeled[rows_finite(labeled)]
    covered = nearest(vectors, to_grid(labeled), parameters.memory_mb)
    function = DenseCoverage(vectors, vectors, covered, None, parameters.memory_mb)
    rows, gains = maximize(function, min(count, len(vectors)), parameters.block_size)
    parts = {"gain": gains}
    if len(labeled):
        parts["nearest_labeled"] = covered[rows]
    return Picks(pick_ids(candidates.ids, usable[rows]), gains, parts)


FACILITY_LOCATION = Strategy(
    "facility_location", needs=frozenset({"embeddings"}), parameters=FacilityLocationParameters, select=_select
)
