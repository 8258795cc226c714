"""Metrics over a set of examples, with bootstrap confidence intervals.

A missing answer is an error and never counts as 0. An example that a metric cannot judge is left
out of its mean, and `count` shows that.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from atgen_ray.core.bootstrap import bootstrap_mean
from atgen_ray.core.errors import UserError, nearest
from atgen_ray.evaluation.metric import Case, Resources
from atgen_ray.evaluation.registry import METRICS, Corpus


class BrokenMetricError(AssertionError):
    """A metric returned something other than one value for each example. The defect is in the
    metric, never in the input.
    """


Scorer = Callable[[str, Sequence[Case], Resources], Sequence[float]]


class Aggregate(TypedDict):
    """A metric over `count` examples and the bounds of its bootstrap interval.

    `mean` is the mean of the examples' values, or the corpus score of metrics that have one
    (sacreBLEU, chrF).
    """

    mean: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Evaluation:
    """Scores of the examples and aggregates of the metrics.

    `scores` has the column `id`, sorted, and a float64 column for every metric, null where the
    metric could not judge the example.
    """

    scores: pa.Table
    metrics: dict[str, Aggregate]


def score_cases(name: str, cases: Sequence[Case], resources: Resources) -> Sequence[float]:
    """Return the values of metric `name`, one a case."""
    return METRICS[name].score(cases, resources)


def evaluate_predictions(
    predictions: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    metrics: Sequence[str],
    bootstrap_samples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    sources: Mapping[str, str] | None = None,
    resources: Resources | None = None,
    scorer: Scorer = score_cases,
    nats: Mapping[str, Sequence[float]] | None = None,
) -> Evaluation:
    """Compare each prediction with the references of the same id, and with its source if a metric
    uses that.

    Intervals are percentile bootstraps over examples (Efron, 1979) and do not depend on the order
    of examples. With one example, or with equal scores, the interval is the mean. Every metric sees
    the same resamples. `nats` are the references' `Case.nats` by id. `scorer` computes the values
    of one metric, possibly on another machine.

    Raises:
        UserError: a metric is unknown or can judge no example, or an example has no references.
        ValueError: there are no examples, or an example has no prediction.
    """
    for name in metrics:
        if name not in METRICS:
            raise UserError(
                f"evaluation.metrics holds '{name}', expected a known "
                f"metric{nearest(name, METRICS)}"
            )
    ids = sorted(set(predictions) | set(references))
    if not ids:
        raise ValueError("no examples to evaluate")
    _require("prediction", [id for id in ids if id not in predictions], ValueError)
    _require("reference (data.references)", [id for id in ids if not references.get(id)], UserError)
    cases = [
        Case(predictions[id], references[id], (sources or {}).get(id, ""), (nats or {}).get(id, ()))
        for id in ids
    ]
    columns: dict[str, npt.NDArray[np.float64]] = {}
    aggregates: dict[str, Aggregate] = {}
    for name in metrics:
        values = np.asarray(scorer(name, cases, resources or Resources()), dtype=np.float64)
        if values.shape != (len(cases),):
            raise BrokenMetricError(
                f"metric '{name}' gave values of shape {values.shape}, expected one for each of "
                f"{len(cases)} examples"
            )
        if np.isnan(values).all():
            raise UserError(
                f"evaluation.metrics holds '{name}', which could judge none of {len(ids)} examples"
            )
        columns[name] = values
        corpus = METRICS[name].corpus
        draw = (bootstrap_samples, confidence, seed)
        # A corpus score has no values of examples to resample; it is computed for each resample.
        judged = [case for case, value in zip(cases, values, strict=True) if not np.isnan(value)]
        aggregates[name] = (
            _aggregate_corpus(judged, corpus, *draw) if corpus else _aggregate(values, *draw)
        )
    arrays = {name: pa.array(values, from_pandas=True) for name, values in columns.items()}
    return Evaluation(pa.table({"id": pa.array(ids, pa.string()), **arrays}), aggregates)


def evaluate_splits(
    splits: Mapping[str, str],
    predictions: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    metrics: Sequence[str],
    *draw: Any,
    **further: Any,
) -> tuple[list[dict[str, Any]], dict[str, dict[str, Aggregate]]]:
    """Evaluate each of `splits` (name by id) by itself; other arguments as in
    `evaluate_predictions`.

    Returns:
        A row for each prediction (id, split, scores, prediction, references), and the metrics of
        each split.
    """
    rows: list[dict[str, Any]] = []
    aggregates = {}
    for split in sorted(set(splits.values())):
        # Metrics see one split at a time: the mean over dev and test examples means nothing.
        members = sorted(id for id, name in splits.items() if name == split)
        answers = {id: predictions[id] for id in members}
        known = {id: references[id] for id in members}
        result = evaluate_predictions(answers, known, metrics, *draw, **further)
        aggregates[split] = result.metrics
        for scores in result.scores.to_pylist():
            id = scores.pop("id")
            rows.append(
                {
                    "id": id,
                    "split": split,
                    "scores": scores,
                    "prediction": predictions[id],
                    "references": references[id],
                }
            )
    return rows, aggregates


def _require(what: str, missing: list[str], error: type[Exception]) -> None:
    """Raise `error` if the ids in `missing` are any."""
    if missing:
        raise error(f"{len(missing)} examples have no {what}, the first is '{missing[0]}'")


def _aggregate(
    values: npt.NDArray[np.float64], samples: int, confidence: float, seed: int
) -> Aggregate:
    """Return the mean of the values that are not NaN, with a percentile bootstrap of it."""
    values = values[~np.isnan(values)]
    mean = float(values.mean())
    low = high = mean
    if np.ptp(values) > 0:
        low, high = bootstrap_mean(values, samples, confidence, seed)
    return Aggregate(mean=mean, low=low, high=high, count=len(values))


def _aggregate_corpus(
    cases: Sequence[Case], corpus: Corpus, samples: int, confidence: float, seed: int
) -> Aggregate:
    """Return the corpus score with a bootstrap that resamples the counts of the examples.

    The score of a resample is that of the sum of its counts.
    """
    counts = corpus.counts(cases)
    mean = corpus.combine(counts.sum(axis=0))
    low = high = mean
    if len(cases) > 1 and np.ptp(counts, axis=0).any():
        rng = np.random.default_rng(seed)
        draws = (
            counts[rng.integers(0, len(cases), len(cases))].sum(axis=0) for _ in range(samples)
        )
        scores = [corpus.combine(draw) for draw in draws]
        low = float(np.quantile(scores, (1 - confidence) / 2))
        high = float(np.quantile(scores, (1 + confidence) / 2))
    return Aggregate(mean=mean, low=low, high=high, count=len(cases))
