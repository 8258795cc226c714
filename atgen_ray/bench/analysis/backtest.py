"""Back-test of stopping by predicted gain on every curve of a suite: labels saved, score lost, and
calibration of the forecasts.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from atgen_ray.bench.analysis.curves import Curve
from atgen_ray.bench.analysis.statistics import Interval, estimate_mean
from atgen_ray.bench.config import AnalysisConfig
from atgen_ray.runs.learning_curve import POINTS, Gain, predict_gain

BOUNDS = (0.05, 0.95)


@dataclass(frozen=True)
class Backtest:
    """Result of one threshold over all curves. `saved` is a share of the labels, `lost` is in units
    of the metrics.
    """

    threshold: float
    curves: int
    stopped: int
    saved: Interval
    lost: Interval


@dataclass(frozen=True)
class Calibration:
    """Calibration of forecasts: the share of gains of the next score within their predicted 90 %
    interval, and the mean error.
    """

    predictions: int
    covered: float
    error: Interval  # predicted minus observed


@dataclass(frozen=True)
class GainForecast:
    """Forecast of a curve up to its round `at` for the next batch of `more` labels, and the gain
    observed.
    """

    at: int
    more: int
    gain: Gain
    observed: float


@dataclass(frozen=True)
class ForecastTrace:
    """A curve with the forecasts made at each of its rounds."""

    curve: Curve
    forecasts: list[GainForecast]

    def find_stop(self, threshold: float, certainty: float) -> int:
        """Return the index of the round after which the run would have stopped, else the last."""
        for forecast in self.forecasts:
            if np.mean(forecast.gain.expected / forecast.more < threshold) >= certainty:
                return forecast.at
        return len(self.curve.labels) - 1


def trace_curves(curves: Sequence[Curve]) -> list[ForecastTrace]:
    """Return the forecasts of those curves that are long enough for any."""
    traces = [
        ForecastTrace(curve, list(_follow(curve))) for curve in curves if len(curve.scores) > POINTS
    ]
    return [trace for trace in traces if trace.forecasts]


def backtest_stopping(traces: Sequence[ForecastTrace], analysis: AnalysisConfig) -> list[Backtest]:
    """Return what each threshold of `analysis.gain_thresholds` would have saved and cost on curves
    of the test set.

    A run stops by its dev split, never by the test set. Here the test curve stands in for it, which
    is smoother if the test set is larger than the dev split would be.
    """
    rows = []
    for threshold in analysis.gain_thresholds if traces else ():
        stops = [(trace.curve, trace.find_stop(threshold, analysis.certainty)) for trace in traces]
        saved = [1 - curve.labels[at] / curve.labels[-1] for curve, at in stops]
        lost = [curve.gains[-1] - curve.gains[at] for curve, at in stops]
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
    """Compare every forecast with the gain observed."""
    forecasts = [forecast for trace in traces for forecast in trace.forecasts]
    bounds = [np.quantile(forecast.gain.observed, BOUNDS) for forecast in forecasts]
    covered = [
        low <= forecast.observed <= high
        for forecast, (low, high) in zip(forecasts, bounds, strict=True)
    ]
    share = float(np.mean(covered)) if covered else math.nan
    errors = [float(each.gain.expected.mean()) - each.observed for each in forecasts]
    return Calibration(len(forecasts), share, estimate_mean(errors, analysis))


def _follow(curve: Curve) -> Iterator[GainForecast]:
    for at in range(len(curve.labels) - 1):
        more = curve.labels[at + 1] - curve.labels[at]
        gain = (
            predict_gain(curve.labels[: at + 1], curve.gains[: at + 1], more) if more > 0 else None
        )
        if gain is not None:
            yield GainForecast(at, more, gain, curve.gains[at + 1] - curve.gains[at])
