"""Query strategies: which examples are worth labelling.

`select_batch` is the entry point: it gives a strategy what it declares that it needs, and checks
the batch that comes back. `STRATEGIES` names all strategies. For example

    select_batch("k_center", {}, ids=ids, count=10, embeddings=Embeddings(ids, vectors))

returns a table of ten rows with id, rank, score and the parts of the score.
"""

from atgen_ray.selection.batch import BrokenStrategyError, find_needs, find_strategy, select_batch
from atgen_ray.selection.bounds import read_bound
from atgen_ray.selection.kernels.bound import Bound
from atgen_ray.selection.registry import STRATEGIES, explain_strategy
from atgen_ray.selection.strategy import (
    Candidates,
    Explanation,
    Need,
    Parameters,
    Picks,
    Scores,
    Strategy,
)
from atgen_ray.selection.vectors import Embeddings, States

__all__ = [
    "STRATEGIES",
    "Bound",
    "BrokenStrategyError",
    "Candidates",
    "Embeddings",
    "Explanation",
    "Need",
    "Parameters",
    "Picks",
    "Scores",
    "States",
    "Strategy",
    "explain_strategy",
    "find_needs",
    "find_strategy",
    "read_bound",
    "select_batch",
]
