"""Query strategies: which examples are worth labelling. `select_batch` is the only way in."""

from atgen_ray.selection.batch import BrokenStrategyError, find_needs, find_strategy, select_batch
from atgen_ray.selection.registry import STRATEGIES
from atgen_ray.selection.strategy import Candidates, Need, Parameters, Picks, Scores, Strategy
from atgen_ray.selection.vectors import Embeddings, States

__all__ = [
    "STRATEGIES",
    "BrokenStrategyError",
    "Candidates",
    "Embeddings",
    "Need",
    "Parameters",
    "Picks",
    "Scores",
    "States",
    "Strategy",
    "find_needs",
    "find_strategy",
    "select_batch",
]
