"""The `fisher` strategy picks examples that together carry most information about the model's last
layer.
"""

import numpy as np
from pydantic import Field, PositiveFloat

from atgen_ray.selection.kernels.logdet import maximize_determinant
from atgen_ray.selection.strategy import Candidates, Parameters, Picks, Strategy, pick_ids
from atgen_ray.selection.vectors import Space, plain_vectors, space_needs


class FisherParameters(Parameters):
    """Fisher information of the last layer (FisherSFT; Deb et al., ICML 2025, arXiv 2505.14826).

    The paper sums over the token vectors of an example; here one vector stands for it: exact for
    examples of one token, and a lower bound of their information (Jensen) otherwise.
    """

    space: Space = Field(
        "states", description="Vectors of the candidates: hidden states, or sentence embeddings"
    )
    prior: PositiveFloat = Field(
        1.0, description="Information known beforehand: s in V0 = s I, labelled examples added"
    )
    normalize: bool = Field(
        True, description="Divide the vectors by their mean length, so that `prior` has a scale"
    )


def _select(candidates: Candidates, parameters: FisherParameters, count: int) -> Picks:
    """Pick greedily by the gain log(1 + h^T V^-1 h), where V is V0 plus h h^T of the picks
    before.
    """
    usable, vectors, labeled = plain_vectors(candidates, parameters.space)
    if not len(usable):
        return Picks((), np.empty(0))
    length = (
        np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64)).mean()
        if parameters.normalize
        else 1.0
    )
    scale = np.float32(1 / length if length > 0 else 1.0)
    count = min(count, len(vectors))
    rows, gains = maximize_determinant(vectors * scale, labeled * scale, parameters.prior, count)
    return Picks(pick_ids(candidates.ids, usable[rows]), gains)


FISHER = Strategy(
    "fisher",
    needs=frozenset({"states"}),
    parameters=FisherParameters,
    select=_select,
    resolve=lambda parameters: space_needs(parameters.space),
    title="Most information for the last layer",
    why="Together these examples tell the most about the weights of the model's last layer: each "
    "pick points in a direction that labels and earlier picks leave open.",
    score="Information that the pick added when it was chosen (growth of the log-determinant of "
    "the information matrix); it falls from pick to pick.",
)
