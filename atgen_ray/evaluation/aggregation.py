"""Metrics over a set of examples, with confidence intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from atgen_ray.errors import UserError, nearest
from atgen_ray.evaluation.metrics import METRICS


class Aggregate(TypedDict):
    """A metric over `count` examples: its mean and the bounds of the bootstrap interval."""

    mean: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Evaluation:
    """`scores` has the column `id`, sorted, and a float64 column for every metric; `metrics` aggregates each."""

    scores: pa.Table
    metrics: dict[str, Aggregate]


def evaluate_predictions(
    predictions: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    metrics: Sequence[str],
    bootstrap_samples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Evaluation:
    """Compare each prediction with the references of the same id.

    Intervals are percentile bootstraps over examples (Efron, 1979) and depend on no order; with one example, or with
    equal scores throughout, the interval is the mean. Every metric sees the same resamples.

    Raises UserError for an unknown metric and for an example without references, ValueError when there are no examples
    or an example has no prediction: a missing answer never counts as 0.
    """
    for name in metrics:
        if name not in METRICS:
            raise UserError(f"evaluation.metrics holds '{name}', expected a known metric{nearest(name, METRICS)}")
    ids = sorted(set(predictions) | set(references))
    if not ids:
        raise ValueError("no examples to evaluate")
    _require("prediction", [id for id in ids if id not in predictions], ValueError)
    _require("reference (data.references)", [id for id in ids if not references.get(id)], UserError)
    columns = {name: np.array([METRICS[name](predictions[id], references[id]) for id in ids]) for name in metrics}
    aggregates = {name: _aggregate(values, bootstrap_samples, confidence, seed) for name, values in columns.items()}
    return Evaluation(pa.table({"id": pa.array(ids, pa.string()), **columns}), aggregates)


def _require(what: str, missing: list[str], error: type[Exception]) -> None:
    if missing:
        raise error(f"{len(missing)} examples have no {what}, the first is '{missing[0]}'")


def _aggregate(values: npt.NDArray[np.float64], samples: int, confidence: float, seed: int) -> Aggregate:
    mean = float(values.mean())
    low = high = mean
    if np.ptp(values) > 0:
        low, high = _bootstrap(values, samples, confidence, seed)
    return Aggregate(mean=mean, low=low, high=high, count=len(values))


def _bootstrap(values: npt.NDArray[np.float64], samples: int, confidence: float, seed: int) -> tuple[float, float]:
    from scipy.stats import bootstrap

    interval = bootstrap(
        (values,),
        np.mean,
        n_resamples=samples,
        batch=max(1, 2**22 // len(values)),  # 32 MB at a time
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)
