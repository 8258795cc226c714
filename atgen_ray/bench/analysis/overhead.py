"""What the loop itself costs: device seconds and energy of its steps, a label saved, and the price
where it pays.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from atgen_ray.bench.analysis.comparisons import Comparison
from atgen_ray.bench.analysis.curves import FEATURES, Curve
from atgen_ray.bench.analysis.statistics import Interval, estimate_mean
from atgen_ray.bench.config import BenchConfig

JOULES_PER_WATT_HOUR = 3600


@dataclass(frozen=True)
class Overhead:
    """The cost of one strategy on one task: mean device seconds of a run by kind of step.

    A device is what one run takes (`resources`). `extra` are the seconds that the strategy takes
    for features and selection beyond those of the baseline, run by run; `saved` the labels it
    spares at the baseline's final score; `extra_a_label` and `watt_hours_a_label` the extra
    seconds, and the energy of the whole run, for each of them; `break_even` the price of a label in
    dollars above which the extra seconds pay, NaN where no label is saved for certain.
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
    suite: BenchConfig, curves: Sequence[Curve], comparisons: Sequence[Comparison]
) -> list[Overhead]:
    """The overhead of each compared strategy but the baseline."""
    baseline = {
        curve.pair: curve for curve in curves if curve.cell.strategy == suite.analysis.baseline
    }
    rows = []
    for found in comparisons:
        if found.strategy == suite.analysis.baseline or found.reach is None:
            continue
        own = [
            curve
            for curve in curves
            if (curve.cell.task, curve.cell.model, curve.cell.strategy)
            == (found.task, found.model, found.strategy)
            and curve.pair in baseline
        ]
        steps = (*FEATURES, "selection")
        extra = estimate_mean(
            [curve.sum_seconds(steps) - baseline[curve.pair].sum_seconds(steps) for curve in own],
            suite.analysis,
        )
        rows.append(_describe(suite, found, own, extra))
    return rows


def _describe(suite: BenchConfig, found: Comparison, own: list[Curve], extra: Interval) -> Overhead:
    def mean(*steps: str) -> float:
        return sum(curve.sum_seconds(steps) for curve in own) / len(own)

    features = mean(*FEATURES)
    selection = mean("selection")
    training = mean("training")
    evaluation = mean("evaluation")
    saved = count_saved(found)
    price = find_break_even(extra.mean, saved, suite.cost.device_dollars_per_hour)
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
        extra_a_label=share_out(extra.mean, saved),
        watt_hours_a_label=share_out(watt_hours, saved),
        break_even=price,
        statement=state_break_even(price, suite.cost.label_prices),
    )


def count_saved(found: Comparison) -> Interval:
    """Labels that a strategy spares at the baseline's final score: those bought less those
    needed.
    """
    reach = found.reach
    if reach is None:
        return Interval(math.nan, math.nan, math.nan, 0)
    labels = reach.labels
    return Interval(
        reach.last - labels.mean, reach.last - labels.high, reach.last - labels.low, labels.count
    )


def share_out(amount: float, saved: Interval) -> Interval:
    """An amount for each label saved; infinite where none may be saved, NaN where none is on the
    whole.
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
    """The price of a label above which the extra seconds pay; 0 where there are none, NaN where
    nothing is saved.

    It counts labels saved by the lower bound of their interval, so that it is no promise that the
    data does not make.
    """
    if not saved.low > 0:
        return math.nan
    return max(0.0, extra_seconds) / 3600 * dollars_per_hour / saved.low


def state_break_even(price: float, label_prices: Sequence[float]) -> str:
    """The break-even in words, at each price of a label."""
    if math.isnan(price):
        return "no label is shown to be saved: at no price does it pay"
    worth = [f"${label:g}" for label in label_prices if label > price]
    pays = f"pays at {', '.join(worth)} a label" if worth else "pays at none of the prices given"
    return f"pays above ${price:.4f} a label: {pays}"
