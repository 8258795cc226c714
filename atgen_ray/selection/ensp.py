"""The `ensp` strategy: sampled outputs that the model finds unlikely, or unevenly likely."""

from typing import Literal

from pydantic import Field

from atgen_ray.scoring.samples import mean_sample_probability
from atgen_ray.selection.contract import Candidates, Scores
from atgen_ray.selection.guard import GuardedParameters, guarded


class EnspParameters(GuardedParameters):
    """Expected normalised sequence probability over samples, or its variance (ENSP, ENSV; Wang et al., EMNLP 2019)."""

    statistic: Literal["mean", "variance"] = Field(
        "mean", description="mean: least probable on average first (ENSP); variance: most uneven first (ENSV)"
    )


def _select(candidates: Candidates, parameters: EnspParameters, count: int) -> Scores:
    """Score 1 - mean_m p_m or var_m p_m, where p_m is the length-normalised probability of sample m."""
    mean, variance = mean_sample_probability(candidates.outputs())
    score = 1 - mean if parameters.statistic == "mean" else variance
    return Scores(score, {"mean_probability": mean, "variance": variance})


ENSP = guarded("ensp", frozenset({"samples"}), EnspParameters, _select)
