"""The `weighted_facility_location` strategy: the batch that best represents what the model is unsure of."""

import numpy as np
from pydantic import Field

from atgen_ray.scoring import UNCERTAINTIES, Uncertainty
from atgen_ray.selection.contract import Candidates, Picks, pick_ids
from atgen_ray.selection.covering import CoverageParameters, cover
from atgen_ray.selection.guard import GuardedParameters, guarded
from atgen_ray.selection.kernels.scales import Scale, normalize
from atgen_ray.selection.kernels.similarity import nearest
from atgen_ray.selection.vectors import grid_vectors


class WeightedFacilityLocationParameters(CoverageParameters, GuardedParameters):
    """Uncertainty-weighted facility location, the hybrid of the two families of Bhatt et al. (arXiv 2401.06692)."""

    uncertainty: Uncertainty = Field("nll", description="Uncertainty that weighs the examples to be represented")
    normalize: Scale = Field("rank", description="Scale of the weights; none: as they are, over the largest")
    floor: float = Field(0.0, ge=0, le=1, description="Weight of the most certain example; the least certain has 1")


def _select(candidates: Candidates, parameters: WeightedFacilityLocationParameters, count: int) -> Picks:
    """Greedy picks by marginal gain sum_i u_i max(0, s_ij - m_i) over the candidates i, m_i as in facility location."""
    usable, vectors, labeled = grid_vectors(candidates)
    uncertainty = UNCERTAINTIES[parameters.uncertainty](candidates.outputs())[usable]
    usable, vectors, uncertainty = (values[~np.isnan(uncertainty)] for values in (usable, vectors, uncertainty))
    if not len(usable):
        return Picks((), np.empty(0))
    weights = parameters.floor + (1 - parameters.floor) * _weigh(uncertainty, parameters.normalize)
    covered = nearest(vectors, labeled, parameters.memory_mb)
    ids = pick_ids(candidates.ids, usable)
    count = min(count, len(vectors))
    rows, gains = cover(ids, vectors, covered, weights, parameters, count, candidates)
    return Picks(pick_ids(ids, rows), gains, {"gain": gains, "weight": weights[rows], "uncertainty": uncertainty[rows]})


def _weigh(uncertainty: np.ndarray, scale: Scale) -> np.ndarray:
    """Weights from 0 to 1; all 1 where the uncertainties are all the same."""
    if np.ptp(uncertainty) == 0:
        return np.ones_like(uncertainty)
    weights = np.maximum(uncertainty, 0) if scale == "none" else normalize(uncertainty, scale)
    weights = weights - min(weights.min(), 0)
    return np.asarray(weights / weights.max())


WEIGHTED_FACILITY_LOCATION = guarded(
    "weighted_facility_location",
    frozenset({"embeddings", "generations"}),
    WeightedFacilityLocationParameters,
    _select,
)
