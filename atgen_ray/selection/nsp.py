"""The `nsp` strategy: outputs that the model itself finds unlikely."""

from typing import Literal

import numpy as np
from pydantic import Field

from atgen_ray.scoring import normalized_nll, sequence_nll
from atgen_ray.selection.contract import Candidates, Scores
from atgen_ray.selection.guard import GuardedParameters, guarded


class NspParameters(GuardedParameters):
    """Normalised sequence probability (Ueffing and Ney, Computational Linguistics 2007)."""

    length: Literal["mean", "sum"] = Field(
        "mean", description="mean: divide by the length of the output; sum: least confidence, which favours long ones"
    )
    scale: Literal["nll", "probability"] = Field(
        "nll", description="nll: -log p; probability: 1 - p, in the same order but from 0 to 1"
    )


def _select(candidates: Candidates, parameters: NspParameters, count: int) -> Scores:
    """Score -(1/T) log p(y | x) of the greedy output, or -log p(y | x)."""
    nll = (normalized_nll if parameters.length == "mean" else sequence_nll)(candidates.outputs())
    return Scores(nll if parameters.scale == "nll" else -np.expm1(-nll), {"nll": nll})


NSP = guarded("nsp", frozenset({"generations"}), NspParameters, _select)
