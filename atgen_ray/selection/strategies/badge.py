"""The `badge` strategy picks examples whose gradients are large and point in different
directions.
"""

import numpy as np
from pydantic import Field

from atgen_ray.scoring import normalized_nll
from atgen_ray.selection.kernels.draws import derive_seed
from atgen_ray.selection.kernels.farthest import kmeanspp_seeding
from atgen_ray.selection.noise_filter import NoiseFilterParameters, with_noise_filter
from atgen_ray.selection.strategy import Candidates, Needs, Picks, Strategy, pick_ids
from atgen_ray.selection.vectors import Space, keep_known, plain_vectors, space_needs


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
    """Pick by k-means++ seeding: the largest vector first, then draws by squared distance to the
    nearest pick.

    The score is the rank counted from the end of the batch, since draws have no score of their own.
    """
    usable, vectors, _ = plain_vectors(candidates, parameters.space)
    if not parameters.gradients:
        error = -np.expm1(-candidates.measure(normalized_nll))[usable]  # 1 - p
        usable, vectors, error = keep_known(usable, vectors, error)
        vectors = vectors * error[:, None].astype(np.float32)
    if not len(usable):
        return Picks((), np.empty(0))
    seed = derive_seed("badge", candidates.seed, candidates.round)
    rows, distances = kmeanspp_seeding(vectors, min(count, len(vectors)), seed)
    scores = np.arange(count, count - len(rows), -1, dtype=np.float64)
    return Picks(pick_ids(candidates.ids, usable[rows]), scores, {"squared_distance": distances})


def _needs(parameters: BadgeParameters) -> Needs:
    return space_needs(parameters.space) | (
        frozenset() if parameters.gradients else frozenset({"generations"})
    )


BADGE = with_noise_filter(
    Strategy(
        "badge",
        needs=frozenset({"states", "generations"}),
        parameters=BadgeParameters,
        select=_select,
        resolve=_needs,
        title="Diverse gradients",
        why="Training on these examples would change the model strongly and in different "
        "directions: the model is unsure of its answer to each, and the examples are unlike each "
        "other.",
        score="Place in the batch, counted from its end: the first pick has the largest number. "
        "The picks are random draws, so they have no score of their own.",
        parts={
            "squared_distance": "Squared distance to the nearest earlier pick when the example "
            "was drawn; examples with a larger one are drawn more often.",
        },
    )
)
