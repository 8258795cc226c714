"""Overhead of strategies: device seconds and energy of the loop, their share for each label saved,
and the price of a label above which a strategy pays.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from atgen_ray.bench.analysis.comparisons import StrategyComparison
from atgen_ray.bench.analysis.curves import FEATURES, Curve
from atgen_ray.bench.analysis.statistics import Interval, estimate_mean
from atgen_ray.bench.config import BenchConfig

JOULES_PER_WATT_HOUR = 3600


@dataclass(frozen=True)
class Overhead:
    """Cost of one strategy on one task: mean device seconds of a run by kind of step.

    A device is what one run reserves (`resources`). `extra` are the seconds for features and
    selection minus those of the baseline, over pairs of runs. `saved` are the labels saved at the
    baseline's final score. `extra_a_label` and `watt_hours_a_label` are the extra seconds, and the
    energy of the whole run, for each label saved. `break_even` is the price of a label in dollars
    above which the extra seconds pay; NaN unless the interval of `saved` is above 0.
    """

    task: str
    model: str
    strategy: str
    features: float
    selection: float
    training: float
    evaluation: float
    watt_hours: float
    extra: Interval
    saved: Interval
    extra_a_label: Interval
    watt_hours_a_label: Interval
    break_even: float
    statement: str


def measure_overhead(
    suite: BenchConfig, curves: Sequence[Curve], comparisons: Sequence[StrategyComparison]
) -> list[Overhead]:
    """Return the overhead of each compared strategy but the baseline."""
    baseline = {
        curve.pair: curve for curve in curves if curve.trial.strategy == suite.analysis.baseline
    }
    rows = []
    for found in comparisons:
        if found.strategy == suite.analysis.baseline or found.reach is None:
            continue
        own = [
            curve
            for curve in curves
            if (curve.trial.task, curve.trial.model, curve.trial.strategy)
            == (found.task, found.model, found.strategy)
            and curve.pair in baseline
        ]
        # Training and evaluation are the same work for every strategy.
        steps = (*FEATURES, "selection")
        extra = estimate_mean(
            [curve.sum_seconds(steps) - baseline[curve.pair].sum_seconds(steps) for curve in own],
            suite.analysis,
        )
        rows.append(_describe(suite, found, own, extra))
    return rows


def _describe(
    suite: BenchConfig, found: StrategyComparison, own: list[Curve], extra: Interval
) -> Overhead:
    def mean(*steps: str) -> float:
        return sum(curve.sum_seconds(steps) for curve in own) / len(own)

    features = mean(*FEATURES)
    selection = mean("selection")
    training = mean("training")
    evaluation = mean("evaluation")
    saved = count_saved(found)
    price = find_break_even(extra.mean, saved, suite.cost.device_dollars_per_hour)
    # Seconds x watts are joules.
    watt_hours = (
        (features + selection + training + evaluation)
        * suite.cost.device_watts
        / JOULES_PER_WATT_HOUR
    )
    return Overhead(
        task=found.task,
        model=found.model,
        strategy=found.strategy,
        features=features,
        selection=selection,
        training=training,
        evaluation=evaluation,
        watt_hours=watt_hours,
        extra=extra,
        saved=saved,
        extra_a_label=divide_by_saved(extra.mean, saved),
        watt_hours_a_label=divide_by_saved(watt_hours, saved),
        break_even=price,
        statement=state_break_even(price, suite.cost.label_prices),
    )


def count_saved(found: StrategyComparison) -> Interval:
    """Return the labels that a strategy saves at the baseline's final score: those bought minus
    those needed.
    """
    reach = found.reach
    if reach is None:
        return Interval(math.nan, math.nan, math.nan, 0)
    labels = reach.labels
    # The upper bound of the labels needed is the lower bound of those saved.
    return Interval(
        reach.last - labels.mean, reach.last - labels.high, reach.last - labels.low, labels.count
    )


def divide_by_saved(amount: float, saved: Interval) -> Interval:
    """Return `amount` for each label saved. The upper bound is infinite if the interval of `saved`
    reaches 0; all is NaN if its mean is not above 0.
    """
    if not saved.mean > 0:
        return Interval(math.nan, math.nan, math.nan, saved.count)
    return Interval(
        amount / saved.mean,
        amount / saved.high,
        amount / saved.low if saved.low > 0 else math.inf,
        saved.count,
    )


def find_break_even(extra_seconds: float, saved: Interval, dollars_per_hour: float) -> float:
    """Return the price of a label above which the extra seconds pay; 0 if there are none, NaN if no
    label is saved.

    Labels saved are counted by the lower bound of their interval, so that the price is one that the
    data supports.
    """
    if not saved.low > 0:
        return math.nan
    return max(0.0, extra_seconds) / 3600 * dollars_per_hour / saved.low


def state_break_even(price: float, label_prices: Sequence[float]) -> str:
    """Return the break-even in words, for each price of a label."""
    if math.isnan(price):
        return "no label is shown to be saved: at no price does it pay"
    worth = [f"${label:g}" for label in label_prices if label > price]
    pays = f"pays at {', '.join(worth)} a label" if worth else "pays at none of the prices given"
    return f"pays above ${price:.4f} a label: {pays}"
