"""Evaluation of answers: metrics, their confidence intervals, and the dev split that steers
stopping.

For example

    evaluate_predictions({"a": "Paris"}, {"a": ["Paris"]}, ["exact_match"]).metrics

returns the mean of each metric with the bounds of its confidence interval.
"""

from atgen_ray.evaluation.aggregation import (
    Aggregate,
    Evaluation,
    evaluate_predictions,
    evaluate_splits,
    score_cases,
)
from atgen_ray.evaluation.dev_split import dev_split
from atgen_ray.evaluation.metric import Case, JudgeFn, Resources
from atgen_ray.evaluation.registry import METRICS, Metric, choose_metrics, find_lack

__all__ = [
    "METRICS",
    "Aggregate",
    "Case",
    "Evaluation",
    "JudgeFn",
    "Metric",
    "Resources",
    "choose_metrics",
    "dev_split",
    "evaluate_predictions",
    "evaluate_splits",
    "find_lack",
    "score_cases",
]
