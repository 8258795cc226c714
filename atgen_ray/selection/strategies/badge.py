"""The `badge` strategy: gradients that are large and point different ways."""

import numpy as np
from pydantic import Field

from atgen_ray.scoring import normalized_nll
from atgen_ray.selection.kernels.draws import derive_seed
from atgen_ray.selection.kernels.farthest import kmeanspp_seeding
from atgen_ray.selection.noise_filter import NoiseFilterParameters, with_noise_filter
from atgen_ray.selection.strategy import Candidates, Needs, Picks, pick_ids
from atgen_ray.selection.vectors import Space, plain_vectors, space_needs


class BadgeParameters(NoiseFilterParameters):
    """Batch active learning by diverse gradient embeddings (BADGE; Ash et al., ICLR 2020, arXiv
    1906.03671).

    Exact where the states are projected gradients of the loss on the model's own output. Where they
    are mean hidden states h, (1 - p) h stands in for the gradient, p being the geometric mean of
    the output tokens' probabilities: of the outer product of error and hidden state only the size
    of the error is kept.
    """

    space: Space = Field(
        "states", description="Vectors of the candidates; embeddings are a poor man's hidden states"
    )
    gradients: bool = Field(
        False, description="The states are gradient embeddings, to be used as they are"
    )


def _select(candidates: Candidates, parameters: BadgeParameters, count: int) -> Picks:
    """k-means++ seeding: the largest vector first, then drawn by squared distance to the nearest
    pick.

    The score is the place in the batch, counted from its end: draws have no scores that fall.
    """
    usable, vectors, _ = plain_vectors(candidates, parameters.space)
    if not parameters.gradients:
        error = -np.expm1(-normalized_nll(candidates.outputs()))[usable]
        usable, vectors, error = (values[~np.isnan(error)] for values in (usable, vectors, error))
        vectors = vectors * error[:, None].astype(np.float32)
    if not len(usable):
        return Picks((), np.empty(0))
    seed = derive_seed("badge", candidates.seed, candidates.round)
    rows, distances = kmeanspp_seeding(vectors, min(count, len(vectors)), seed)
    places = np.arange(count, count - len(rows), -1, dtype=np.float64)
    return Picks(pick_ids(candidates.ids, usable[rows]), places, {"squared_distance": distances})


def _needs(parameters: BadgeParameters) -> Needs:
    return space_needs(parameters.space) | (
        frozenset() if parameters.gradients else frozenset({"generations"})
    )


BADGE = with_noise_filter(
    "badge", frozenset({"states", "generations"}), BadgeParameters, _select, _needs
)
