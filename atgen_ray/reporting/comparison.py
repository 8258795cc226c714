"""Comparison of runs: settings that differ, paired differences on the test examples, and labels to
reach the same score.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from atgen_ray.core.bootstrap import bootstrap_mean
from atgen_ray.evaluation import METRICS
from atgen_ray.reporting.formats import name_letter
from atgen_ray.reporting.run_view import Estimate, RunView

RESAMPLES = 2000
ALL_PAIRS = 6  # more runs than this are compared with the first one only
IGNORED = {"name", "seed", "storage"}  # these do not make two runs different methods


@dataclass(frozen=True)
class LabelsToReach:
    """Labels that `run` needed to reach the score `target`; None when it never did."""

    run: str
    target: float
    labels: float | None
    bought: int


@dataclass(frozen=True)
class RunPair:
    """Two runs by letter. `difference` is the second's score minus the first's, over the test
    examples that both answered.
    """

    first: str
    second: str
    metric: str
    difference: Estimate | None
    reaches: list[LabelsToReach]  # of the first to the second's final score, and the reverse


@dataclass(frozen=True)
class MethodGroup:
    """Runs that differ by their seed alone."""

    index: int
    letters: list[str]
    seeds: list[str]
    finals: list[float]


@dataclass(frozen=True)
class RunComparison:
    """Several runs side by side; `differing` maps a configuration key to its value in each run."""

    metric: str | None
    pairs: list[RunPair]
    groups: list[MethodGroup]
    differing: dict[str, list[str]]

    @property
    def one_seed_each(self) -> bool:
        """Return whether no method was run with more than one seed."""
        return all(len(set(group.seeds)) <= 1 for group in self.groups)


def compare_views(views: Sequence[RunView]) -> RunComparison:
    """Compare at least two runs on the first metric that all of them have."""
    shared = [name for name in views[0].metrics if all(name in view.metrics for view in views)]
    metric = shared[0] if shared else None
    pairs = []
    if metric:
        for i, j in itertools.combinations(range(len(views)), 2):
            if i == 0 or len(views) <= ALL_PAIRS:
                pairs.append(
                    _compare_pair(name_letter(i), views[i], name_letter(j), views[j], metric)
                )
    groups = group_runs(views)
    return RunComparison(
        metric,
        pairs,
        [_describe(index, group, views, metric) for index, group in enumerate(groups)],
        _differing(views),
    )


def group_runs(views: Sequence[RunView]) -> list[list[int]]:
    """Return groups of indices of the runs whose configurations are equal but for name, seed and
    storage, in the order given.
    """
    groups: dict[str, list[int]] = {}
    for index, view in enumerate(views):
        flat = _flatten(view.config)
        key = (
            repr(sorted((key, value) for key, value in flat.items() if key not in IGNORED))
            if flat
            else f"run {index}"
        )
        groups.setdefault(key, []).append(index)
    return [*groups.values()]


def bootstrap_difference(first: dict[str, float], second: dict[str, float]) -> Estimate | None:
    """Return the mean of second - first over the example ids in both, with its 95 % percentile
    bootstrap interval over examples; None when no id is in both.

    Efron and Tibshirani (1993), An Introduction to the Bootstrap, chapter 13.
    """
    ids = sorted(first.keys() & second.keys())
    if not ids:
        return None
    differences = np.array([second[id] - first[id] for id in ids])
    mean = float(differences.mean())
    if len(ids) == 1:
        return Estimate(mean, math.nan, math.nan, 1)
    low, high = bootstrap_mean(differences, RESAMPLES)
    return Estimate(mean, low, high, len(ids))


def labels_to_reach(curve: Sequence[tuple[float, float]], target: float) -> float | None:
    """Return the labels at which the curve of (labels, score) first reaches `target`, by straight
    lines between its points; None when it never does.
    """
    points = sorted(curve, key=lambda point: point[0])
    if points and points[0][1] >= target:
        return points[0][0]
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if y0 < target <= y1:
            return x0 + (x1 - x0) * (target - y0) / (y1 - y0)
    return None


def _compare_pair(first: str, one: RunView, second: str, other: RunView, metric: str) -> RunPair:
    difference = bootstrap_difference(
        one.last_scores.get(metric, {}), other.last_scores.get(metric, {})
    )
    curve = _read_points(one, metric)
    other_curve = _read_points(other, metric)
    reaches = []
    if curve and other_curve:
        reaches.append(_measure_reach(first, curve, other_curve, metric))
        reaches.append(_measure_reach(second, other_curve, curve, metric))
    return RunPair(first, second, metric, difference, reaches)


def _read_points(view: RunView, metric: str) -> list[tuple[float, float]]:
    return [(one.labels or 0, estimate.mean) for one, estimate in view.curve(metric)]


def _measure_reach(
    run: str, curve: list[tuple[float, float]], goal: list[tuple[float, float]], metric: str
) -> LabelsToReach:
    """Return the labels at which `curve`, that of `run`, reaches the last score of `goal`: from
    above, where lower values of the metric are better.
    """
    target = goal[-1][1]
    sign = -1 if metric in METRICS and METRICS[metric].better == "lower" else 1
    rising = [(labels, sign * score) for labels, score in curve]
    reached = labels_to_reach(rising, sign * target)
    return LabelsToReach(run, target, reached, int(curve[-1][0]))


def _describe(
    index: int, members: list[int], views: Sequence[RunView], metric: str | None
) -> MethodGroup:
    curves = [views[member].curve(metric) if metric else [] for member in members]
    return MethodGroup(
        index=index,
        letters=[name_letter(member) for member in members],
        seeds=[str(views[member].config.get("seed", member)) for member in members],
        finals=[curve[-1][1].mean for curve in curves if curve],
    )


def _differing(views: Sequence[RunView]) -> dict[str, list[str]]:
    flats = [_flatten(view.config) for view in views]
    keys = sorted({key for flat in flats for key in flat} - {"name", "storage"})
    rows = {key: [flat.get(key, "") for flat in flats] for key in keys}
    return {key: values for key, values in rows.items() if len(set(values)) > 1}


def _flatten(value: Any, prefix: str = "") -> dict[str, str]:
    if not isinstance(value, dict):
        return {prefix: "null" if value is None else str(value)}
    rows = (
        _flatten(item, f"{prefix}.{key}" if prefix else str(key)) for key, item in value.items()
    )
    return {key: text for row in rows for key, text in row.items()}
