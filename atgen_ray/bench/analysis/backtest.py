"""Stopping by predicted gain, tried on every curve of a suite: labels saved, score lost, and
whether it predicts.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from atgen_ray.bench.analysis.curves import Curve
from atgen_ray.bench.analysis.statistics import Interval, estimate_mean
from atgen_ray.bench.config import AnalysisConfig
from atgen_ray.run.learning_curve import POINTS, Gain, predict_gain

BOUNDS = (0.05, 0.95)


@dataclass(frozen=True)
class Backtest:
    """One threshold over all curves. `saved` is a share of the labels, `lost` in units of the
    metrics.
    """

    threshold: float
    curves: int
    stopped: int
    saved: Interval
    lost: Interval


@dataclass(frozen=True)
class Calibration:
    """How often the next score's gain on the last lay within the 90 % interval predicted for it,
    and the mean error.
    """

    predictions: int
    covered: float
    error: Interval  # predicted less found


@dataclass(frozen=True)
class GainForecast:
    """What a curve up to its round `at` promised of the next batch of `more` labels, and what
    came.
    """

    at: int
    more: int
    gain: Gain
    found: float


@dataclass(frozen=True)
class ForecastTrace:
    """A curve with all that it promised on the way."""

    curve: Curve
    promises: list[GainForecast]

    def find_stop(self, threshold: float, certainty: float) -> int:
        """The index of the round after which the run would have stopped; the last where it would
        not.
        """
        for promise in self.promises:
            if np.mean(promise.gain.expected / promise.more < threshold) >= certainty:
                return promise.at
        return len(self.curve.labels) - 1


def trace_curves(curves: Sequence[Curve]) -> list[ForecastTrace]:
    """Those of `curves` that are long enough to be continued before their end."""
    traces = [
        ForecastTrace(curve, list(_follow(curve))) for curve in curves if len(curve.scores) > POINTS
    ]
    return [trace for trace in traces if trace.promises]


def backtest_stopping(traces: Sequence[ForecastTrace], analysis: AnalysisConfig) -> list[Backtest]:
    """What each threshold of `analysis.gain_thresholds` would have saved and cost on curves of the
    test set.

    A run steers by its dev split, never by the test set; here the test curve stands in for it, and
    is smoother where the test set is larger than the dev split would be.
    """
    rows = []
    for threshold in analysis.gain_thresholds if traces else ():
        stops = [(trace.curve, trace.find_stop(threshold, analysis.certainty)) for trace in traces]
        saved = [1 - curve.labels[at] / curve.labels[-1] for curve, at in stops]
        lost = [curve.scores[-1] - curve.scores[at] for curve, at in stops]
        early = sum(at < len(curve.labels) - 1 for curve, at in stops)
        rows.append(
            Backtest(
                threshold,
                len(stops),
                early,
                estimate_mean(saved, analysis),
                estimate_mean(lost, analysis),
            )
        )
    return rows


def calibrate(traces: Sequence[ForecastTrace], analysis: AnalysisConfig) -> Calibration:
    """Every promise against what came."""
    promises = [promise for trace in traces for promise in trace.promises]
    bounds = [np.quantile(promise.gain.observed, BOUNDS) for promise in promises]
    covered = [
        low <= promise.found <= high for promise, (low, high) in zip(promises, bounds, strict=True)
    ]
    share = float(np.mean(covered)) if covered else math.nan
    errors = [float(each.gain.expected.mean()) - each.found for each in promises]
    return Calibration(len(promises), share, estimate_mean(errors, analysis))


def _follow(curve: Curve) -> Iterator[GainForecast]:
    for at in range(len(curve.labels) - 1):
        more = curve.labels[at + 1] - curve.labels[at]
        gain = (
            predict_gain(curve.labels[: at + 1], curve.scores[: at + 1], more) if more > 0 else None
        )
        if gain is not None:
            yield GainForecast(at, more, gain, curve.scores[at + 1] - curve.scores[at])
