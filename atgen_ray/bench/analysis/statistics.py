"""What may be claimed of a comparison: intervals, paired tests, and their correction where there
are many.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from atgen_ray.bench.config import AnalysisConfig
from atgen_ray.core.arrays import Numbers
from atgen_ray.reporting.comparison import labels_to_reach

Points = Sequence[tuple[float, float]]  # labels and score


@dataclass(frozen=True)
class Interval:
    """An estimate from `count` values with the bounds of its interval; NaN where there is none."""

    mean: float
    low: float
    high: float
    count: int

    @property
    def excludes_zero(self) -> bool:
        """Whether all of the interval lies on one side of 0."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Reach:
    """Labels at which a mean curve gets to a target; those that never did count as `last`, the most
    that were bought.

    `reached` is the share of resamples that got there: an upper bound equal to `last` with a share
    below 1 means "or more, or never".
    """

    labels: Interval
    last: float
    reached: float


def estimate_mean(values: Sequence[float], analysis: AnalysisConfig) -> Interval:
    """The mean with its BCa bootstrap interval (Efron 1987). With one value there is no interval.

    Over few values it is too narrow: 95 % intervals over 5 normal values held the truth in 86 % of
    trials, over 10 in 90 %, over 20 in 93 %. `count` says on how many it rests, and `decide` asks
    for an exact test beside it.
    """
    from scipy.stats import bootstrap

    data = np.asarray(values, np.float64)
    if len(data) == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    mean = float(data.mean())
    if len(data) == 1:
        return Interval(mean, math.nan, math.nan, 1)
    if np.ptp(data) < 1e-12:  # as the differences of a strategy that picked the same examples
        return Interval(mean, mean, mean, len(data))
    found = bootstrap((data,), np.mean, method="BCa", **_options(analysis)).confidence_interval
    return Interval(mean, float(found.low), float(found.high), len(data))


def compare_pairs(differences: Sequence[float], seed: int = 0) -> float:
    """Two-sided p of paired differences whose signs are exchanged (Fisher 1935): exact while that
    is feasible.

    No p from n pairs is below 2 / 2**n: with five pairs none is below 0.0625.
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
    """Holm's step-down correction (1979) of p-values, in their order."""
    order = sorted(range(len(values)), key=lambda index: values[index])
    corrected = [0.0] * len(values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, values[index] * (len(values) - rank)))
        corrected[index] = largest
    return corrected


def measure_area(points: Points) -> float:
    """Area under the curve over the labels it spans, as a mean score; NaN for a single point."""
    labels, scores = (np.array(column, np.float64) for column in zip(*sorted(points), strict=True))
    span = labels[-1] - labels[0]
    return float(np.trapezoid(scores, labels) / span) if span else math.nan


def align_curves(curves: Sequence[Points]) -> tuple[list[float], Numbers]:
    """Every number of labels where all curves have a score, g of them, and the scores (curves, g)
    there.

    Between the points of a curve the score lies on a straight line.
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
    """Labels at which the mean of `curves` gets to the mean final score of `baseline`, whose pairs
    stand side by side.

    Both are drawn anew together, pair by pair.
    """
    from scipy.stats import bootstrap

    grid, scores = align_curves(curves)
    finals = np.array([max(curve)[1] for curve in baseline])
    last = grid[-1]
    reached: list[bool] = []

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
    options = _options(analysis) | {"n_resamples": min(500, analysis.resamples)}
    found = bootstrap(
        (np.array(rows),), find, vectorized=False, method="percentile", **options
    ).confidence_interval
    share = float(np.mean(reached))
    return Reach(Interval(mean, float(found.low), float(found.high), len(rows)), last, share)


def decide(interval: Interval, corrected: float, analysis: AnalysisConfig) -> str:
    """What may be said of a difference: better, worse, or that none was shown."""
    if not interval.excludes_zero or corrected > 1 - analysis.confidence:
        return "no difference shown"
    return "better" if interval.mean > 0 else "worse"


def _options(analysis: AnalysisConfig) -> dict[str, Any]:
    return {
        "n_resamples": analysis.resamples,
        "confidence_level": analysis.confidence,
        "rng": np.random.default_rng(analysis.seed),
    }
