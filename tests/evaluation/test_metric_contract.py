"""Every metric keeps the contract that plug-ins are held to."""

import pytest

from atgen_ray.evaluation import METRICS, Case
from atgen_ray.evaluation.registry import Metric
from atgen_ray.testing import METRIC_CHECKS, check_metric
from atgen_ray.testing.metrics import CASES

CALLS = [
    Case('{"name": "add", "arguments": {"a": 1}}', ['{"name": "add", "arguments": {"a": 1}}']),
    Case("nothing", ['{"name": "add", "arguments": {"a": 1}}']),
]
LIGHT = [name for name, metric in METRICS.items() if not metric.heavy and not metric.judges]


@pytest.mark.parametrize("check", METRIC_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", LIGHT)
def test_metric(name, check):
    check(METRICS[name], CALLS if name == "tool_calls" else CASES)


@pytest.mark.parametrize(
    ("score", "match"),
    [
        (lambda cases, _: [1.0], "shape"),
        (lambda cases, _: [float("inf")] * len(cases), "infinite"),
        (lambda cases, _: list(range(len(cases))), "Not equal to tolerance"),
        (lambda cases, _: [float("nan")] * len(cases), "no case could be judged"),
    ],
)
def test_a_metric_that_breaks_the_contract_is_found(score, match):
    with pytest.raises(AssertionError, match=match):
        check_metric(Metric(score))
