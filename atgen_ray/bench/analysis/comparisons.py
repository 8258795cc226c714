"""Comparisons of strategies: each with the baseline, task by task and over all tasks, and those
that `analysis.rivals` names, such as a strategy with and without a setting.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from atgen_ray.bench.analysis.curves import Curve
from atgen_ray.bench.analysis.statistics import (
    Interval,
    Reach,
    align_curves,
    compare_pairs,
    correct_many,
    decide,
    estimate_mean,
    estimate_reach,
    measure_area,
)
from atgen_ray.bench.config import AnalysisConfig, BenchConfig

ALL = "all tasks"


@dataclass(frozen=True)
class StrategyComparison:
    """One strategy on one task (or over all) and model. Differences are strategy minus baseline,
    over pairs of runs.

    `p` belongs to the difference in the final score; `corrected` is p corrected for all strategies
    and tasks of its table.
    """

    task: str
    model: str
    strategy: str
    metric: str
    final: Interval
    area: Interval
    final_difference: Interval
    area_difference: Interval
    p: float
    corrected: float
    verdict: str
    reach: Reach | None  # None over all tasks, since their labels cannot be compared
    reach_seconds: Interval | None  # of a run's devices up to `reach`
    device_seconds: Interval  # of a whole run


@dataclass(frozen=True)
class _Draft:
    task: str
    model: str
    strategy: str
    metric: str
    curves: list[Curve]
    against: list[Curve]  # the baseline's run of the same pair, row by row


def compare_strategies(suite: BenchConfig, curves: Sequence[Curve]) -> list[StrategyComparison]:
    """Return the comparisons of each task and model, in the order of the suite."""
    return _finish(list(_draft(suite, curves)), suite.analysis)


def compare_overall(suite: BenchConfig, curves: Sequence[Curve]) -> list[StrategyComparison]:
    """Return one comparison for each strategy and model over the pairs of all tasks; every pair has
    the same weight.
    """
    drafts = list(_draft(suite, curves))
    merged = []
    for model in suite.models:
        for strategy in suite.strategies:
            parts = [
                draft for draft in drafts if (draft.model, draft.strategy) == (model, strategy)
            ]
            if parts:
                metrics = list(dict.fromkeys(part.metric for part in parts))
                rows = [curve for part in parts for curve in part.curves]
                against = [curve for part in parts for curve in part.against]
                merged.append(_Draft(ALL, model, strategy, ", ".join(metrics), rows, against))
    return _finish(merged, suite.analysis)


def list_points(curve: Curve) -> list[tuple[float, float]]:
    """Return labels and score at each round."""
    return [
        (float(labels), score) for labels, score in zip(curve.labels, curve.scores, strict=True)
    ]


def list_gains(curve: Curve) -> list[tuple[float, float]]:
    """Return labels and gain at each round; see `Curve.gains`."""
    return [(float(labels), gain) for labels, gain in zip(curve.labels, curve.gains, strict=True)]


def _draft(suite: BenchConfig, curves: Sequence[Curve]) -> Iterator[_Draft]:
    baseline = {
        curve.pair: curve for curve in curves if curve.trial.strategy == suite.analysis.baseline
    }
    for task, settings in suite.tasks.items():
        for model in suite.models:
            for strategy in suite.strategies:
                rows = [
                    curve
                    for curve in curves
                    if (curve.trial.task, curve.trial.model, curve.trial.strategy)
                    == (task, model, strategy)
                    and curve.pair in baseline
                ]
                # Only pairs count: a run whose baseline has not finished is left out.
                if rows:
                    yield _Draft(
                        task,
                        model,
                        strategy,
                        settings.metric,
                        rows,
                        [baseline[row.pair] for row in rows],
                    )


def _finish(drafts: list[_Draft], analysis: AnalysisConfig) -> list[StrategyComparison]:
    finals = [
        [a.scores[-1] - b.scores[-1] for a, b in zip(d.curves, d.against, strict=True)]
        for d in drafts
    ]
    values = [compare_pairs(row, analysis.seed) for row in finals]
    # The baseline is compared with itself only to fill its row: it must not weaken the correction.
    rivals = [index for index, draft in enumerate(drafts) if draft.strategy != analysis.baseline]
    corrected = dict(zip(rivals, correct_many([values[index] for index in rivals]), strict=True))
    return [
        _compare(draft, differences, values[index], corrected.get(index, 1.0), analysis)
        for index, (draft, differences) in enumerate(zip(drafts, finals, strict=True))
    ]


def _compare(
    draft: _Draft, differences: list[float], p: float, corrected: float, analysis: AnalysisConfig
) -> StrategyComparison:
    own = [measure_area(list_points(curve)) for curve in draft.curves]
    other = [measure_area(list_points(curve)) for curve in draft.against]
    difference = estimate_mean(differences, analysis)
    # The baseline has a row of its own, without a verdict or a p.
    is_baseline = draft.strategy == analysis.baseline
    reach = None if draft.task == ALL else _estimate_reach(draft, analysis)
    return StrategyComparison(
        task=draft.task,
        model=draft.model,
        strategy=draft.strategy,
        metric=draft.metric,
        final=estimate_mean([curve.scores[-1] for curve in draft.curves], analysis),
        area=estimate_mean(own, analysis),
        final_difference=difference,
        area_difference=estimate_mean([a - b for a, b in zip(own, other, strict=True)], analysis),
        p=1.0 if is_baseline else p,
        corrected=corrected,
        verdict="baseline"
        if is_baseline
        else decide(difference, corrected, draft.curves[0].sign, analysis),
        reach=reach,
        reach_seconds=_find_seconds(draft.curves, reach.labels) if reach else None,
        device_seconds=estimate_mean(
            [curve.seconds_so_far()[-1] for curve in draft.curves], analysis
        ),
    )


def _estimate_reach(draft: _Draft, analysis: AnalysisConfig) -> Reach:
    baseline = [list_gains(curve) for curve in draft.against]
    curves = [list_gains(curve) for curve in draft.curves]
    return estimate_reach(baseline, curves, analysis)


def _find_seconds(curves: list[Curve], labels: Interval) -> Interval:
    """Return the mean seconds that runs had taken at each bound of `labels`."""
    spent = [
        list(zip(map(float, curve.labels), curve.seconds_so_far(), strict=True)) for curve in curves
    ]
    grid, seconds = align_curves(spent)
    mean, low, high = np.interp(
        [labels.mean, labels.low, labels.high], grid, seconds.mean(axis=0)
    ).tolist()
    return Interval(mean, low, high, labels.count)


def compare_rivals(suite: BenchConfig, curves: Sequence[Curve]) -> list[StrategyComparison]:
    """Compare each strategy of `analysis.rivals` with the one named beside it, task by task."""
    rows = []
    for strategy, other in suite.analysis.rivals.items():
        analysis = suite.analysis.model_copy(update={"baseline": other})
        pair = {name: suite.strategies[name] for name in (other, strategy)}
        found = compare_strategies(
            suite.model_copy(update={"analysis": analysis, "strategies": pair}), curves
        )
        rows += [row for row in found if row.strategy == strategy]
    return rows
