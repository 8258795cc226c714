"""How good answers are: metrics, their confidence intervals, and the split that steers stopping."""

from atgen_ray.evaluation.aggregation import Aggregate, Evaluation, evaluate_predictions, evaluate_splits, score_cases
from atgen_ray.evaluation.cases import Ask, Case, Resources
from atgen_ray.evaluation.defaults import choose_metrics
from atgen_ray.evaluation.metrics import METRICS, Metric
from atgen_ray.evaluation.splits import dev_split

__all__ = [
    "METRICS",
    "Aggregate",
    "Ask",
    "Case",
    "Evaluation",
    "Metric",
    "Resources",
    "choose_metrics",
    "dev_split",
    "evaluate_predictions",
    "evaluate_splits",
    "score_cases",
]
