"""The `semantic_entropy` strategy: examples whose sampled outputs mean different things."""

from typing import Literal

from pydantic import Field

from atgen_ray.scoring.answers import AnswerForm
from atgen_ray.scoring.disagreement import answer_shares, entropy_of, meaning_shares
from atgen_ray.selection.contract import Candidates, Scores
from atgen_ray.selection.guard import GuardedParameters, guarded


class SemanticEntropyParameters(GuardedParameters):
    """Entropy over meanings, not wordings, of the samples (Kuhn et al., ICLR 2023; Farquhar et al., Nature 2024).

    The papers ask a model whether two samples entail each other; here they mean the same when their answers are equal
    after normalisation, or when they share enough words.
    """

    same: Literal["answer", "words"] = Field(
        "answer", description="Samples mean the same by equal normalised answer, or by shared words (for longer texts)"
    )
    answer: AnswerForm = Field("text", description="Where the answer is: the whole text, its last line or last number")
    threshold: float = Field(0.7, ge=0, le=1, description="Word F1 from which two samples mean the same")
    weights: Literal["count", "likelihood"] = Field(
        "count", description="Probability of a meaning by words: from its samples' number, or from their likelihoods"
    )


def _select(candidates: Candidates, parameters: SemanticEntropyParameters, count: int) -> Scores:
    """Score -sum_c p_c log p_c in nats over the meanings c."""
    if parameters.same == "answer":
        return Scores(entropy_of(answer_shares(candidates.outputs(), parameters.answer)))
    weighted = parameters.weights == "likelihood"
    return Scores(entropy_of(meaning_shares(candidates.outputs(), parameters.threshold, weighted)))


SEMANTIC_ENTROPY = guarded("semantic_entropy", frozenset({"samples"}), SemanticEntropyParameters, _select)
