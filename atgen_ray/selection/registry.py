"""The names of the query strategies."""

from atgen_ray.selection.ensemble import ENSEMBLE
from atgen_ray.selection.strategies import PLAIN
from atgen_ray.selection.strategy import Explanation, Strategy

STRATEGIES: dict[str, Strategy] = PLAIN | {ENSEMBLE.name: ENSEMBLE}


def explain_strategy(name: str) -> Explanation:
    """What picks and scores of the strategy `name` mean; in general words where it is not installed
    here, as in a report of another machine's run.
    """
    return STRATEGIES.get(name) or Explanation(
        title=name,
        why=f"Strategy '{name}', which is not installed here, ranked the unlabelled examples by "
        "its score and took the best.",
        score="As the strategy defines it; larger was picked first.",
    )
