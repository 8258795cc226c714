"""Query strategies: which examples are worth labelling. `select_batch` is the only way in."""

from atgen_ray.selection.batch import BrokenStrategy, find_strategy, select_batch
from atgen_ray.selection.contract import Candidates, Embeddings, Parameters, Picks, Scores, Strategy
from atgen_ray.selection.strategies import STRATEGIES

__all__ = [
    "STRATEGIES",
    "BrokenStrategy",
    "Candidates",
    "Embeddings",
    "Parameters",
    "Picks",
    "Scores",
    "Strategy",
    "find_strategy",
    "select_batch",
]
