"""The `cocoa` strategy: outputs that are unlikely and that the samples contradict."""

from pydantic import Field

from atgen_ray.scoring import UNCERTAINTIES, Uncertainty
from atgen_ray.scoring.disagreement import Overlap, sample_distance
from atgen_ray.selection.contract import Candidates, Scores
from atgen_ray.selection.guard import GuardedParameters, guarded


class CocoaParameters(GuardedParameters):
    """Confidence and consistency together (CoCoA; Vashurin et al., arXiv 2502.04964).

    The paper compares texts with a cross-encoder; here by the n-grams or words they share.
    """

    uncertainty: Uncertainty = Field("nll", description="Uncertainty of the greedy output")
    similarity: Overlap = Field("f1", description="How alike a sample is to the greedy output: words (f1) or n-grams")


def _select(candidates: Candidates, parameters: CocoaParameters, count: int) -> Scores:
    """Score u(y) (1/M) sum_m (1 - sim(y, y_m)) of the greedy output y and the samples y_m."""
    uncertainty = UNCERTAINTIES[parameters.uncertainty](candidates.outputs())
    distance = sample_distance(candidates.outputs(), parameters.similarity)
    return Scores(uncertainty * distance, {"uncertainty": uncertainty, "inconsistency": distance})


COCOA = guarded("cocoa", frozenset({"generations", "samples"}), CocoaParameters, _select)
