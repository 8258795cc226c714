"""Statistics of comparisons: intervals, paired tests, and their correction for multiple
comparisons.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from atgen_ray.bench.config import AnalysisConfig
from atgen_ray.core.arrays import Numbers
from atgen_ray.core.bootstrap import bootstrap_mean
from atgen_ray.reporting.comparison import labels_to_reach

Points = Sequence[tuple[float, float]]  # labels and score


@dataclass(frozen=True)
class Interval:
    """An estimate from `count` values with the bounds of its interval; NaN for what is missing."""

    mean: float
    low: float
    high: float
    count: int

    @property
    def excludes_zero(self) -> bool:
        """Return whether the whole interval lies on one side of 0."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Reach:
    """Labels at which a mean curve reaches a target. A curve that never does counts as `last`, the
    most labels that were bought.

    `reached` is the share of resamples that reached it: an upper bound equal to `last` with a share
    below 1 means "or more, or never".
    """

    labels: Interval
    last: float
    reached: float


def estimate_mean(values: Sequence[float], analysis: AnalysisConfig) -> Interval:
    """Return the mean with its BCa bootstrap interval (Efron 1987). One value has no interval.

    The interval of few values is too narrow: 95 % intervals of 5 normal values held the truth in
    86 % of trials, of 10 in 90 %, of 20 in 93 %. Therefore `decide` also asks for an exact test.
    """
    data = np.asarray(values, np.float64)
    if len(data) == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    mean = float(data.mean())
    if len(data) == 1:
        return Interval(mean, math.nan, math.nan, 1)
    if np.ptp(data) < 1e-12:  # such as differences between runs that picked the same examples
        return Interval(mean, mean, mean, len(data))
    low, high = bootstrap_mean(
        data, analysis.resamples, analysis.confidence, analysis.seed, method="BCa"
    )
    return Interval(mean, low, high, len(data))


def compare_pairs(differences: Sequence[float], seed: int = 0) -> float:
    """Return the two-sided p of paired differences by exchanging signs (Fisher 1935), exact while
    that is feasible.

    The p of n pairs is at least 2 / 2**n: that of five pairs at least 0.0625.
    """
    from scipy.stats import permutation_test

    data = np.asarray(differences, np.float64)
    if len(data) < 2:
        return 1.0
    found = permutation_test(
        (data,),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=20_000,
        alternative="two-sided",
        rng=np.random.default_rng(seed),
    )
    return float(found.pvalue)


def correct_many(values: Sequence[float]) -> list[float]:
    """Return p-values corrected by Holm's step-down method (1979), in their order."""
    order = sorted(range(len(values)), key=lambda index: values[index])
    corrected = [0.0] * len(values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, values[index] * (len(values) - rank)))
        corrected[index] = largest
    return corrected


def measure_area(points: Points) -> float:
    """Return the area under the curve as a mean score over its range of labels; NaN for a single
    point.
    """
    labels, scores = (np.array(column, np.float64) for column in zip(*sorted(points), strict=True))
    span = labels[-1] - labels[0]
    return float(np.trapezoid(scores, labels) / span) if span else math.nan


def align_curves(curves: Sequence[Points]) -> tuple[list[float], Numbers]:
    """Return the g numbers of labels at which all curves have a score, and the scores there, shape
    (curves, g). Between its points a curve is a straight line.
    """
    low = max(min(curve)[0] for curve in curves)
    high = min(max(curve)[0] for curve in curves)
    grid = sorted({labels for curve in curves for labels, _ in curve if low <= labels <= high})
    rows = []
    for curve in curves:
        labels, scores = zip(*sorted(curve), strict=True)
        rows.append(np.interp(grid, labels, scores))
    return grid, np.stack(rows)


def estimate_reach(
    baseline: Sequence[Points], curves: Sequence[Points], analysis: AnalysisConfig
) -> Reach:
    """Return the labels at which the mean of `curves` reaches the mean final score of `baseline`.

    The curves of a pair have the same index, and a resample draws pairs.
    """
    from scipy.stats import bootstrap

    grid, scores = align_curves(curves)
    finals = np.array([max(curve)[1] for curve in baseline])
    last = grid[-1]
    reached: list[bool] = []

    # The indices of pairs are resampled, so that a curve keeps its baseline.
    def find(chosen: npt.ArrayLike) -> float:
        rows = np.asarray(chosen, np.int64)
        curve = list(zip(grid, scores[rows].mean(axis=0).tolist(), strict=True))
        labels = labels_to_reach(curve, float(finals[rows].mean()))
        reached.append(labels is not None)
        return last if labels is None else labels

    rows = list(range(len(curves)))
    mean = find(rows)
    if len(rows) < 2:
        return Reach(Interval(mean, math.nan, math.nan, len(rows)), last, float(reached[0]))
    reached.clear()
    found = bootstrap(
        (np.array(rows),),
        find,
        vectorized=False,
        method="percentile",
        n_resamples=min(500, analysis.resamples),
        confidence_level=analysis.confidence,
        rng=np.random.default_rng(analysis.seed),
    ).confidence_interval
    share = float(np.mean(reached))
    return Reach(Interval(mean, float(found.low), float(found.high), len(rows)), last, share)


def decide(interval: Interval, corrected: float, sign: int, analysis: AnalysisConfig) -> str:
    """Return the verdict on a difference: better, worse, or that no difference was shown. `sign` is
    1 where a larger score is better, else -1.
    """
    if not interval.excludes_zero or corrected > 1 - analysis.confidence:
        return "no difference shown"
    return "better" if interval.mean * sign > 0 else "worse"
