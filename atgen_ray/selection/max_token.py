"""The `max_token` strategy: outputs with one very unlikely token."""

from atgen_ray.scoring import max_token_nll
from atgen_ray.selection.contract import Candidates, Scores
from atgen_ray.selection.guard import GuardedParameters, guarded


class MaxTokenParameters(GuardedParameters):
    """Maximum token uncertainty (Bhatt et al., arXiv 2401.06692)."""


def _select(candidates: Candidates, parameters: MaxTokenParameters, count: int) -> Scores:
    """Score max_t -log p(y_t | y_<t, x) over the tokens of the greedy output."""
    return Scores(max_token_nll(candidates.outputs()))


MAX_TOKEN = guarded("max_token", frozenset({"generations"}), MaxTokenParameters, _select)
