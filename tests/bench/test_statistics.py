"""Claims and their intervals, against scipy and against cases that can be worked out."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from atgen_ray.bench.analysis.statistics import (
    Interval,
    align_curves,
    compare_pairs,
    correct_many,
    decide,
    estimate_mean,
    estimate_reach,
    measure_area,
)
from atgen_ray.bench.config import AnalysisConfig

ANALYSIS = AnalysisConfig(resamples=2000)
VALUES = [0.02, 0.05, -0.01, 0.04, 0.03, 0.06, 0.01]


def test_the_interval_is_scipys_and_near_students() -> None:
    found = estimate_mean(VALUES, ANALYSIS)
    assert found.mean == pytest.approx(np.mean(VALUES))
    student = stats.ttest_1samp(VALUES, 0).confidence_interval(0.95)
    assert found.low == pytest.approx(student.low, abs=0.01)
    assert found.high == pytest.approx(student.high, abs=0.01)
    wider = estimate_mean(VALUES, AnalysisConfig(confidence=0.99))
    assert wider.low < found.low
    assert wider.high > found.high


def test_what_has_no_interval_says_so() -> None:
    assert math.isnan(estimate_mean([0.5], ANALYSIS).low)
    assert estimate_mean([], ANALYSIS).count == 0
    assert estimate_mean([0.25, 0.25, 0.25], ANALYSIS) == Interval(0.25, 0.25, 0.25, 3)
    assert not estimate_mean([0.5], ANALYSIS).excludes_zero


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    analysis = AnalysisConfig(resamples=300)
    intervals = [estimate_mean(rng.normal(0.1, 0.2, 20).tolist(), analysis) for _ in range(200)]
    assert 0.86 <= np.mean([one.low <= 0.1 <= one.high for one in intervals]) <= 0.99


def test_signs_are_exchanged_exactly() -> None:
    assert compare_pairs([0.1, 0.2, 0.3, 0.1, 0.2]) == pytest.approx(2 / 2**5)
    assert compare_pairs([0.1, -0.1]) == 1.0
    assert compare_pairs([0.1]) == 1.0
    signed = stats.wilcoxon(VALUES, method="exact").pvalue
    assert compare_pairs(VALUES) == pytest.approx(signed, abs=0.03)


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=12))
def test_holm_lies_between_the_raw_p_and_bonferroni(values: list[float]) -> None:
    corrected = correct_many(values)
    for raw, after in zip(values, corrected, strict=True):
        assert raw <= after <= min(1.0, raw * len(values)) or math.isclose(after, raw)
    order = np.argsort(values, kind="stable")
    assert all(corrected[a] <= corrected[b] for a, b in itertools.pairwise(order))


def test_holm_by_hand() -> None:
    assert correct_many([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert correct_many([]) == []


def test_area_is_the_mean_height() -> None:
    points = [(0.0, 0.1), (10.0, 0.4), (40.0, 0.5)]
    labels, scores = zip(*points, strict=True)
    assert measure_area(points) == pytest.approx(integrate.trapezoid(scores, labels) / 40)
    assert measure_area([(5.0, 0.2), (9.0, 0.2)]) == pytest.approx(0.2)
    assert math.isnan(measure_area([(5.0, 0.2)]))


def test_curves_are_aligned_where_all_have_a_score() -> None:
    grid, scores = align_curves([[(0, 0.0), (10, 1.0)], [(5, 0.5), (10, 0.7)]])
    assert grid == [5, 10]
    assert scores.tolist() == [[0.5, 1.0], [0.5, 0.7]]


def test_labels_to_the_baselines_score() -> None:
    baseline = [
        [(0.0, 0.1), (20.0, 0.3), (40.0, 0.4 + shift)]
        for shift in (-0.01, 0.0, 0.01, 0.005, -0.005)
    ]
    faster = [
        [(0.0, 0.1), (20.0, 0.4 + shift), (40.0, 0.5)] for shift in (0.01, 0.0, 0.02, -0.01, -0.02)
    ]
    found = estimate_reach(baseline, faster, ANALYSIS)
    assert found.labels.mean == pytest.approx(20.0)
    assert 16 < found.labels.low < 20 < found.labels.high < 26
    assert found.reached == 1.0
    never = estimate_reach(baseline, [[(0.0, 0.1), (40.0, 0.2)]] * 5, ANALYSIS)
    assert never.reached == 0.0
    assert never.labels.mean == never.last == 40.0
    once = estimate_reach(baseline[:1], faster[:1], ANALYSIS)
    assert math.isnan(once.labels.low)


@pytest.mark.parametrize(
    ("interval", "corrected", "sign", "verdict"),
    [
        (Interval(0.1, 0.05, 0.15, 5), 0.01, 1, "better"),
        (Interval(-0.1, -0.15, -0.05, 5), 0.01, 1, "worse"),
        (Interval(0.1, 0.05, 0.15, 5), 0.01, -1, "worse"),
        (Interval(-0.1, -0.15, -0.05, 5), 0.01, -1, "better"),
        (Interval(0.1, 0.05, 0.15, 5), 0.0625, 1, "no difference shown"),
        (Interval(0.1, -0.05, 0.15, 5), 0.01, 1, "no difference shown"),
        (Interval(0.1, math.nan, math.nan, 1), 0.0, 1, "no difference shown"),
    ],
)
def test_nothing_is_claimed_without_interval_and_test(
    interval: Interval, corrected: float, sign: int, verdict: str
) -> None:
    assert decide(interval, corrected, sign, ANALYSIS) == verdict
