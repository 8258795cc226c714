"""The `entropy` strategy: outputs whose every step had many alternatives."""

from atgen_ray.scoring import mean_token_entropy
from atgen_ray.selection.contract import Candidates, Scores
from atgen_ray.selection.guard import GuardedParameters, guarded


class EntropyParameters(GuardedParameters):
    """Mean token entropy of the greedy output (Zhao et al., Findings of EMNLP 2020)."""


def _select(candidates: Candidates, parameters: EntropyParameters, count: int) -> Scores:
    """Score (1/T) sum_t H(p(. | y_<t, x)) in nats."""
    return Scores(mean_token_entropy(candidates.outputs()))


ENTROPY = guarded("entropy", frozenset({"generations"}), EntropyParameters, _select)
