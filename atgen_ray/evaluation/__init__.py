"""How good answers are: metrics, their confidence intervals, and the split that steers stopping."""

from atgen_ray.evaluation.aggregation import Aggregate, Evaluation, evaluate_predictions
from atgen_ray.evaluation.metrics import METRICS, Metric
from atgen_ray.evaluation.splits import dev_split

__all__ = ["METRICS", "Aggregate", "Evaluation", "Metric", "dev_split", "evaluate_predictions"]
