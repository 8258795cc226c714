"""Query strategies by name, as `selection.strategy` of the configuration gives them."""

from atgen_ray.core.errors import UserError
from atgen_ray.core.plugins import Registry
from atgen_ray.selection.ensemble import ENSEMBLE
from atgen_ray.selection.strategies import GROUP, PLAIN
from atgen_ray.selection.strategy import Explanation, Strategy, find_fault

STRATEGIES: Registry[Strategy] = Registry(
    GROUP, "strategy", PLAIN | {ENSEMBLE.name: ENSEMBLE}, find_fault
)


CHOSEN = "selection.ids"  # stands for a strategy where a batch was chosen elsewhere


def explain_strategy(name: str) -> Explanation:
    """Return what picks and scores of the strategy `name` mean; in general words if it is not
    installed here, as in a report of another machine's run.
    """
    if name == CHOSEN:
        return Explanation(
            title="Chosen elsewhere",
            why="The examples that selection.ids names were taken, in its order.",
            score="0: they were not compared.",
        )
    try:
        return STRATEGIES[name]
    except (KeyError, UserError):
        return Explanation(
            title="Unknown strategy",
            why=f"Strategy '{name}', which is not installed here, ranked the unlabelled examples "
            "by its score and took the best.",
            score="As the strategy defines it; larger was picked first.",
        )
