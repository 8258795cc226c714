"""Scores of models on the pool, and their differences, from the rows of their predictions."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from atgen_ray.core.arrays import Numbers
from atgen_ray.evaluation.audit.design import AuditSample
from atgen_ray.evaluation.audit.estimate import AuditScore, estimate_mean
from atgen_ray.evaluation.registry import METRICS

Rows = Sequence[Mapping[str, Any]]


def to_array(ids: Sequence[str], values: Mapping[str, float | None]) -> Numbers:
    """Return the value of each id, NaN where there is none."""
    return np.array([np.nan if (of := values.get(id_)) is None else of for id_ in ids], np.float64)


def score_audit(sample: AuditSample, rows: Rows, confidence: float) -> dict[str, dict[str, Any]]:
    """Return the estimate of each metric over the pool, as metrics.json has it: `mean`, `low`,
    `high`, `count` and `error`, the standard error.

    The values of examples count, also where a metric has a score of a whole set (sacreBLEU, chrF).

    Args:
        rows: of predictions.jsonl, of the split audit.
    """
    found = {}
    for name in dict.fromkeys(name for row in rows for name in row["scores"]):
        values = to_array(sample.ids, {row["id"]: row["scores"].get(name) for row in rows})
        bounds = METRICS[name].bounds if name in METRICS else None
        score = estimate_mean(sample, values, bounds, confidence)
        if score is not None:
            found[name] = asdict(score)
    return found


def compare_audited(
    sample: AuditSample, first: Rows, second: Rows, metric: str, confidence: float
) -> AuditScore | None:
    """Return by how much the metric of `second` is above that of `first`, over the examples that
    both have: rows of predictions.jsonl of two models.
    """
    values = [
        to_array(sample.ids, {row["id"]: row["scores"].get(metric) for row in rows})
        for rows in (first, second)
    ]
    bounds = METRICS[metric].bounds if metric in METRICS else None
    if bounds is not None:
        width = bounds[1] - bounds[0]
        bounds = (-width, width) if np.isfinite(width) else None
    return estimate_mean(sample, values[1] - values[0], bounds, confidence)


def describe_models(
    sample: AuditSample, models: Sequence[str], rows: Sequence[Rows], confidence: float
) -> list[dict[str, Any]]:
    """Return of each model its name `model`, `labels`, `metrics`, and with `differences` by how
    much each metric is above that of the first model, over the same examples.
    """
    described = []
    for place, (model, answered) in enumerate(zip(models, rows, strict=True)):
        metrics = score_audit(sample, answered, confidence)
        entry: dict[str, Any] = {"model": model, "labels": len(answered), "metrics": metrics}
        if place:
            compared = {
                name: compare_audited(sample, rows[0], answered, name, confidence)
                for name in metrics
            }
            entry["differences"] = {
                name: asdict(found) for name, found in compared.items() if found
            }
        described.append(entry)
    return described
