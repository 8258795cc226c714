"""Bias of selection: distribution shift of labelled sets from their pools, and its effect on slices
of the test set.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from atgen_ray.bench.analysis.curves import Curve
from atgen_ray.bench.analysis.distribution_shift import (
    PoolFacts,
    measure_shift,
    slice_examples,
    study_pool,
)
from atgen_ray.bench.analysis.statistics import Interval, estimate_mean
from atgen_ray.bench.config import BenchConfig
from atgen_ray.embedding.pool import read_embeddings
from atgen_ray.store.run_folder import RunFolder

MEASURES = ("mmd", "length", "clusters", "vocabulary", "language")


@dataclass(frozen=True)
class DistributionShift:
    """One measure of one strategy on one task.

    `last` is its value after the last round, `difference` that value minus the baseline's over
    pairs of runs, and `trend` the growth of the difference a round (least squares over each pair).
    """

    task: str
    model: str
    strategy: str
    measure: str
    last: Interval
    difference: Interval
    trend: Interval


@dataclass(frozen=True)
class SliceEffect:
    """Final score on a slice of the test set, strategy minus baseline, over pairs of runs."""

    task: str
    model: str
    strategy: str
    slice: str
    examples: int
    difference: Interval


def measure_shifts(suite: BenchConfig, curves: Sequence[Curve]) -> list[DistributionShift]:
    """Return every measure of every strategy, in the order of the suite."""
    rows: list[DistributionShift] = []
    for (task, model), group in _group(curves).items():
        facts = read_pool(group)
        shifts = {
            id(curve): [measure_shift(facts, ids) for ids in read_labeled(curve)] for curve in group
        }
        baseline = {
            curve.pair: curve for curve in group if curve.trial.strategy == suite.analysis.baseline
        }
        for strategy in suite.strategies:
            own = [
                curve for curve in group if curve.trial.strategy == strategy and shifts[id(curve)]
            ]
            for measure in MEASURES if own else ():
                paths = {
                    curve.pair: [shift[measure] for shift in shifts[id(curve)]] for curve in own
                }
                others = {
                    pair: [shift[measure] for shift in shifts[id(baseline[pair])]]
                    for pair in paths
                    if pair in baseline
                }
                # Runs of a pair may have different numbers of rounds: the shorter one counts.
                apart = [
                    [a - b for a, b in zip(paths[pair], other, strict=False)]
                    for pair, other in others.items()
                    if other
                ]
                found = {
                    "last": [path[-1] for path in paths.values()],
                    "difference": [path[-1] for path in apart],
                    "trend": [find_slope(path) for path in apart],
                }
                estimates = {name: _estimate(values, suite) for name, values in found.items()}
                rows.append(DistributionShift(task, model, strategy, measure, **estimates))
    return rows


def measure_slices(suite: BenchConfig, curves: Sequence[Curve]) -> list[SliceEffect]:
    """Return the effect of every strategy but the baseline on every slice, in the order of the
    suite.
    """
    rows: list[SliceEffect] = []
    for (task, model), group in _group(curves).items():
        folder = _folder(group[0])
        pool = _read_texts(folder, "pool.parquet")
        test = _read_texts(folder, "test.parquet")
        slices = slice_examples(test, pool.values())
        scores = {id(curve): read_scores(curve) for curve in group}
        baseline = {
            curve.pair: curve for curve in group if curve.trial.strategy == suite.analysis.baseline
        }
        for strategy in suite.strategies:
            own = [
                curve
                for curve in group
                if curve.trial.strategy == strategy and curve.pair in baseline
            ]
            # A strategy has an effect only against a run of the baseline with the same seed.
            if strategy == suite.analysis.baseline or not own:
                continue
            for name, ids in slices.items():
                differences = [
                    _mean(scores[id(curve)], ids) - _mean(scores[id(baseline[curve.pair])], ids)
                    for curve in own
                ]
                rows.append(
                    SliceEffect(
                        task, model, strategy, name, len(ids), _estimate(differences, suite)
                    )
                )
    return rows


def _read_texts(folder: RunFolder, file: str) -> dict[str, str]:
    rows = folder.read_table(file, ["id", "text"]).to_pylist()
    return {row["id"]: row["text"] for row in rows}


def read_pool(group: Sequence[Curve]) -> PoolFacts:
    """Return the pool that the runs of one task and model share, with vectors from the first run
    that has any.
    """
    folder = _folder(group[0])
    pool = folder.read_table("pool.parquet", ["id", "text", "content"]).to_pylist()
    # The runs are over: reading the known answers of the pool here influences no selection.
    gold = {row["id"]: row["references"] for row in folder.read_table("gold.parquet").to_pylist()}
    vectors = {}
    for curve in group:
        table = read_embeddings(_folder(curve))
        if table.num_rows:
            known = dict(
                zip(table["content"].to_pylist(), table["embedding"].to_pylist(), strict=True)
            )
            pairs = ((row["id"], known.get(row["content"])) for row in pool)
            vectors = {
                id_: np.asarray(vector, np.float64) for id_, vector in pairs if vector is not None
            }
            break
    texts = {row["id"]: row["text"] for row in pool}
    return study_pool(texts, {id_: gold[id_][0] for id_ in texts if gold.get(id_)}, vectors)


def read_labeled(curve: Curve) -> list[list[str]]:
    """Return the ids labelled so far after each round."""
    rows = _folder(curve).read_jsonl("labeled.jsonl")
    rounds = sorted({row["round"] for row in rows})
    return [[row["id"] for row in rows if row["round"] <= round] for round in rounds]


def read_scores(curve: Curve) -> dict[str, float]:
    """Return the final score of each test example."""
    folder = _folder(curve)
    last = max(path for path in folder.list("rounds") if folder.exists(f"{path}/predictions.jsonl"))
    rows = folder.read_jsonl(f"{last}/predictions.jsonl")
    return {row["id"]: row["scores"][curve.metric] for row in rows if row["split"] == "test"}


def find_slope(path: Sequence[float]) -> float:
    """Return the change of a measure a round; NaN with one round."""
    from scipy.stats import linregress

    return float(linregress(range(len(path)), path).slope) if len(path) > 1 else math.nan


def _group(curves: Sequence[Curve]) -> dict[tuple[str, str], list[Curve]]:
    groups: dict[tuple[str, str], list[Curve]] = {}
    for curve in curves:
        groups.setdefault((curve.trial.task, curve.trial.model), []).append(curve)
    return groups


def _folder(curve: Curve) -> RunFolder:
    return RunFolder(curve.trial.run.storage, curve.trial.run.name)


def _mean(scores: Mapping[str, float], ids: Sequence[str]) -> float:
    return float(np.mean([scores[id_] for id_ in ids]))


def _estimate(values: Sequence[float], suite: BenchConfig) -> Interval:
    return estimate_mean(list(_finite(values)), suite.analysis)


def _finite(values: Sequence[float]) -> Iterator[float]:
    yield from (value for value in values if math.isfinite(value))
