"""The `margin` strategy: outputs in which the second choice of a token came close to the first."""

from typing import Literal

from pydantic import Field

from atgen_ray.scoring import mean_margin, min_margin
from atgen_ray.selection.contract import Candidates, Scores
from atgen_ray.selection.guard import GuardedParameters, guarded


class MarginParameters(GuardedParameters):
    """Margin between the two likeliest tokens of each step (Bhatt et al., arXiv 2401.06692)."""

    statistic: Literal["mean", "min"] = Field(
        "mean", description="Mean margin of the output, or that of its closest step"
    )


def _select(candidates: Candidates, parameters: MarginParameters, count: int) -> Scores:
    """Score 1 - margin, the margin being the mean or the minimum over t of p_t1 - p_t2."""
    return Scores((mean_margin if parameters.statistic == "mean" else min_margin)(candidates.outputs()))


MARGIN = guarded("margin", frozenset({"generations"}), MarginParameters, _select)
