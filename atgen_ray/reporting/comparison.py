"""Run against run: what differs, paired differences on the test examples, and labels to the same
score.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from atgen_ray.reporting.formats import name_letter
from atgen_ray.reporting.run_view import Estimate, RunView

RESAMPLES = 2000
ALL_PAIRS = 6  # more runs than this are compared with the first one only
IGNORED = {"name", "seed", "storage"}  # these do not make two runs different methods


@dataclass(frozen=True)
class Reach:
    """Labels that `run` needed for the score `target`; None when it never got there."""

    run: str
    target: float
    labels: float | None
    bought: int


@dataclass(frozen=True)
class Pair:
    """Two runs by letter. `difference` is second minus first, over the test examples that both
    answered.
    """

    first: str
    second: str
    metric: str
    difference: Estimate | None
    reaches: list[Reach]  # the first run to the second's final score, then the other way round


@dataclass(frozen=True)
class Group:
    """Runs that are the same but for their seed."""

    index: int
    letters: list[str]
    seeds: list[str]
    finals: list[float]


@dataclass(frozen=True)
class Comparison:
    """Several runs side by side; `differing` maps a configuration key to its value in each run."""

    metric: str | None
    pairs: list[Pair]
    groups: list[Group]
    differing: dict[str, list[str]]

    @property
    def one_seed_each(self) -> bool:
        """Whether no method was run more than once."""
        return all(len(set(group.seeds)) <= 1 for group in self.groups)


def compare_runs(views: Sequence[RunView]) -> Comparison:
    """Compares at least two runs on the first metric that all of them have."""
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
    return Comparison(
        metric,
        pairs,
        [_describe(index, group, views, metric) for index, group in enumerate(groups)],
        _differing(views),
    )


def group_runs(views: Sequence[RunView]) -> list[list[int]]:
    """Indices of the runs whose configurations are equal but for name, seed and storage, in the
    order given.
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
    """Mean of second - first over the example ids in both, with the 95 % percentile bootstrap
    interval over examples.

    Efron and Tibshirani (1993), An Introduction to the Bootstrap, chapter 13. None when no id is in
    both.
    """
    ids = sorted(first.keys() & second.keys())
    if not ids:
        return None
    differences = np.array([second[id] - first[id] for id in ids])
    mean = float(differences.mean())
    if len(ids) == 1:
        return Estimate(mean, math.nan, math.nan, 1)
    from scipy.stats import bootstrap

    found = bootstrap(
        (differences,),
        np.mean,
        n_resamples=RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(0),
        batch=100,
    )
    return Estimate(
        mean, float(found.confidence_interval.low), float(found.confidence_interval.high), len(ids)
    )


def labels_to_reach(curve: Sequence[tuple[float, float]], target: float) -> float | None:
    """Labels where the curve of (labels, score) first reaches `target`, straight lines between its
    points.
    """
    points = sorted(curve, key=lambda point: point[0])
    if points and points[0][1] >= target:
        return points[0][0]
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if y0 < target <= y1:
            return x0 + (x1 - x0) * (target - y0) / (y1 - y0)
    return None


def _compare_pair(first: str, one: RunView, second: str, other: RunView, metric: str) -> Pair:
    difference = bootstrap_difference(
        one.last_scores.get(metric, {}), other.last_scores.get(metric, {})
    )
    curves = [
        [(view.labels or 0, estimate.mean) for view, estimate in run.curve(metric)]
        for run in (one, other)
    ]
    reaches = []
    for run, curve, goal in ((first, curves[0], curves[1]), (second, curves[1], curves[0])):
        if curve and goal:
            target = goal[-1][1]
            reaches.append(Reach(run, target, labels_to_reach(curve, target), curve[-1][0]))
    return Pair(first, second, metric, difference, reaches)


def _describe(
    index: int, members: list[int], views: Sequence[RunView], metric: str | None
) -> Group:
    curves = [views[member].curve(metric) if metric else [] for member in members]
    return Group(
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
