"""The `facility_location` strategy: the batch that best represents the pool."""

import numpy as np

from atgen_ray.selection.contract import Candidates, Picks, Strategy, pick_ids
from atgen_ray.selection.covering import CoverageParameters, cover
from atgen_ray.selection.kernels.similarity import nearest
from atgen_ray.selection.vectors import grid_vectors


class FacilityLocationParameters(CoverageParameters):
    """Facility location as experimental design for fine-tuning (Bhatt et al., arXiv 2401.06692)."""


def _select(candidates: Candidates, parameters: FacilityLocationParameters, count: int) -> Picks:
    """Greedy picks by marginal gain sum_i max(0, s_ij - m_i) over the candidates i.

    m_i is the best similarity of i to the labelled examples and to the picks before, and -1, the least there is, while
    there are none; s is the cosine similarity.
    """
    usable, vectors, labeled = grid_vectors(candidates)
    if not len(usable):
        return Picks((), np.empty(0))
    covered = nearest(vectors, labeled, parameters.memory_mb)
    ids = pick_ids(candidates.ids, usable)
    count = min(count, len(vectors))
    rows, gains = cover(ids, vectors, covered, None, parameters, count, candidates)
    parts = {"gain": gains}
    if len(labeled):
        parts["nearest_labeled"] = covered[rows]
    return Picks(pick_ids(ids, rows), gains, parts)


FACILITY_LOCATION = Strategy(
    "facility_location", needs=frozenset({"embeddings"}), parameters=FacilityLocationParameters, select=_select
)
