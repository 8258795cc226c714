"""The contract of a metric as tests. Each check raises AssertionError where it does not hold."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import get_args

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from atgen_ray.core.arrays import Numbers
from atgen_ray.evaluation import Case, Resources
from atgen_ray.evaluation.registry import Better, Metric

Cases = Sequence[Case]
CASES = (
    Case("the cat sat", ["the cat sat", "a cat sat"], "Where did the cat sit?", (1.5, 0.5)),
    Case("a dog", ["the cat sat"], "Where did the cat sit?"),
    Case("", ["the cat sat"], ""),
    Case("東京タワー", ["東京タワー"], "どこ"),
    Case("7", ["7.0", "The answer is 7."], "How many?"),
    Case("B", ["(B) Rome"], "Which city? (A) Paris (B) Rome"),
)


def check_metric(metric: Metric, cases: Cases = CASES) -> None:
    """Runs every check on `metric`.

    Args:
        metric: what is judged; one that is heavy loads its model here.
        cases: at least two examples that the metric can judge, where it is made for texts of one
            kind, as function calls.

    Raises:
        AssertionError: the metric breaks its contract.
    """
    for check in METRIC_CHECKS:
        check(metric, cases)


def gives_one_number_a_case(metric: Metric, cases: Cases) -> None:
    """One value a case, which may be NaN but not infinite, and the same if asked again."""
    values = _score(metric, cases)
    assert not np.isinf(values).any(), "a value is infinite"
    assert not np.isnan(values).all(), "no case could be judged"
    np.testing.assert_array_equal(_score(metric, cases), values)
    if metric.corpus is not None:
        counts = np.asarray(metric.corpus.counts(cases))
        assert counts.ndim == 2, "corpus.counts: expected a row for each case"
        assert len(counts) == len(cases), "corpus.counts: expected a row for each case"
        assert np.isfinite(metric.corpus.combine(counts.sum(axis=0)))


def judges_each_case_by_itself(metric: Metric, cases: Cases) -> None:
    """The other cases, and their order, never matter."""
    values = _score(metric, cases)
    backwards = _score(metric, cases[::-1])
    np.testing.assert_allclose(backwards[::-1], values, atol=_tolerance(metric))
    alone = [_score(metric, [case])[0] for case in cases]
    np.testing.assert_allclose(alone, values, atol=_tolerance(metric))


def ignores_order_of_references(metric: Metric, cases: Cases) -> None:
    """The best reference counts, wherever it stands."""
    turned = [replace(case, references=[*case.references][::-1]) for case in cases]
    np.testing.assert_allclose(
        _score(metric, turned), _score(metric, cases), atol=_tolerance(metric)
    )


def takes_cases_without_references(metric: Metric, cases: Cases) -> None:
    """A case without references has a value, or NaN where the metric needs them."""
    assert not np.isinf(_score(metric, [replace(case, references=[]) for case in cases])).any()


def takes_any_answer(metric: Metric, cases: Cases) -> None:
    """Whatever a model answers has a value or NaN: nothing is raised."""
    texts = st.text(max_size=20) | st.sampled_from(["", "\n", "1/0", "{", "</s>", "é" * 40])

    @settings(max_examples=5 if metric.heavy else 20, deadline=None)
    @given(answer=texts, place=st.integers(0, len(cases) - 1))
    def check(answer: str, place: int) -> None:
        case = replace(cases[place], prediction=answer)
        assert not np.isinf(_score(metric, [case])).any()

    check()


def says_which_way_is_better(metric: Metric, cases: Cases) -> None:
    """`better` is one of the three words."""
    assert metric.better in get_args(Better), f"better is {metric.better!r}"


def _score(metric: Metric, cases: Cases) -> Numbers:
    values = np.asarray(metric.score(cases, Resources()), dtype=np.float64)
    assert values.shape == (len(cases),), f"shape {values.shape} for {len(cases)} cases"
    return values


def _tolerance(metric: Metric) -> float:
    """Rows that share a batch with others differ in their last bits where a model computes them."""
    return 1e-3 if metric.heavy else 0.0


METRIC_CHECKS: tuple[Callable[[Metric, Cases], None], ...] = (
    gives_one_number_a_case,
    judges_each_case_by_itself,
    ignores_order_of_references,
    takes_cases_without_references,
    takes_any_answer,
    says_which_way_is_better,
)
