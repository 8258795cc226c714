"""The `facility_location` strategy: the batch that best represents the pool."""

import numpy as np
from pydantic import Field, PositiveInt

from atgen_ray.selection.contract import Candidates, Parameters, Picks, Strategy, pick_ids, rows_finite
from atgen_ray.selection.kernels.coverage import cover_greedily
from atgen_ray.selection.kernels.similarity import nearest, to_grid


class FacilityLocationParameters(Parameters):
    """Facility location as experimental design for fine-tuning (Bhatt et al., arXiv 2401.06692)."""

    block_size: PositiveInt = Field(128, description="Candidates whose gains are computed together")
    memory_mb: PositiveInt = Field(256, description="Largest block of similarities in MB")


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
    covered = nearest(vectors, to_grid(labeled), parameters.memory_mb) if len(labeled) else np.full(len(vectors), -1.0)
    rows, gains = cover_greedily(
        vectors, covered, min(count, len(vectors)), parameters.block_size, parameters.memory_mb
    )
    parts = {"gain": gains}
    if len(labeled):
        parts["nearest_labeled"] = covered[rows]
    return Picks(pick_ids(candidates.ids, usable[rows]), gains, parts)


FACILITY_LOCATION = Strategy(
    "facility_location", needs=frozenset({"embeddings"}), parameters=FacilityLocationParameters, select=_select
)
