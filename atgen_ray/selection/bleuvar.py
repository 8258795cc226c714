"""The `bleuvar` strategy: examples whose sampled outputs differ from each other."""

import numpy as np
from pydantic import Field

from atgen_ray.scoring import bleu_variance
from atgen_ray.selection.contract import Candidates, Scores
from atgen_ray.selection.guard import GuardedParameters, guarded


class BleuvarParameters(GuardedParameters):
    """BLEU variance of the samples (Xiao, Gomez and Gal, arXiv 2006.08344; BAS of Gidiotis and Tsoumakas, 2022)."""

    noise_cutoff: float | None = Field(
        None, ge=0, le=1, description="Examples from here on are noise, and left out; the authors of BAS take 0.96"
    )


def _select(candidates: Candidates, parameters: BleuvarParameters, count: int) -> Scores:
    """Score (1 / (M (M - 1))) sum_i sum_j (1 - BLEU(y_i, y_j))^2 over the M samples."""
    variance = bleu_variance(candidates.outputs())
    cutoff = np.inf if parameters.noise_cutoff is None else parameters.noise_cutoff
    return Scores(np.where(variance >= cutoff, np.nan, variance), {"bleuvar": variance})


BLEUVAR = guarded("bleuvar", frozenset({"samples"}), BleuvarParameters, _select)
