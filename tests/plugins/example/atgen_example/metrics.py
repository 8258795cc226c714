"""The metric `same_start`: whether answer and a reference begin with the same character."""

from collections.abc import Sequence

from atgen_ray.evaluation import Case, Metric, Resources


def score(cases: Sequence[Case], resources: Resources) -> list[float]:
    """1 or 0 for each case, NaN without references."""
    return [
        float(case.prediction[:1] in {each[:1] for each in case.references})
        if case.references
        else float("nan")
        for case in cases
    ]


SAME_START = Metric(score)
