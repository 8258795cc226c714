"""The `random` strategy, the baseline of every comparison."""

from atgen_ray.selection.contract import Candidates, Parameters, Scores, Strategy
from atgen_ray.selection.kernels.draws import draw_uniform


class RandomParameters(Parameters):
    """Random sampling has no parameters."""


def _select(candidates: Candidates, parameters: RandomParameters, count: int) -> Scores:
    return Scores(draw_uniform(candidates.ids, "random", candidates.seed, candidates.round))


RANDOM = Strategy("random", needs=frozenset(), parameters=RandomParameters, select=_select)
