"""Aggregates: the right mean, an honest interval, and nothing missing without notice."""

import json
import math
from typing import Any

import numpy as np
import pytest

from atgen_ray.core.errors import UserError
from atgen_ray.evaluation import METRICS, evaluate_predictions

REFERENCES = {f"x{number}": ["right", "correct"] for number in range(40)}
PREDICTIONS = {id: "right" if number % 4 == 0 else "wrong" for number, id in enumerate(REFERENCES)}


def test_scores_by_example_and_their_mean():
    predictions = {"b": "the cat", "a": "dog"}
    names = [
        name
        for name, metric in METRICS.items()
        if not metric.heavy and not metric.judges and name != "tool_calls"
    ]
    references = {"a": ["cat"], "b": ["Cat.", "bird"]}
    nats = {"a": [1.5], "b": [2.0, 0.5]}
    evaluation = evaluate_predictions(predictions, references, names, nats=nats)
    assert evaluation.metrics["nll"]["mean"] == 1.0  # the likeliest reference counts
    assert evaluation.scores.column_names == ["id", *names]
    rows = {row["id"]: row for row in evaluation.scores.to_pylist()}
    assert list(rows) == ["a", "b"]
    assert (rows["a"]["exact_match"], rows["b"]["exact_match"], rows["b"]["token_f1"]) == (0, 1, 1)
    assert rows["b"]["rouge1"] == pytest.approx(2 / 3)
    assert evaluation.metrics["exact_match"]["mean"] == 0.5
    assert all(aggregate["count"] == 2 for aggregate in evaluation.metrics.values())
    json.dumps(evaluation.metrics)


def test_interval_is_that_of_a_proportion():
    evaluation = evaluate_predictions(PREDICTIONS, REFERENCES, ["exact_match"], 5000)
    aggregate = evaluation.metrics["exact_match"]
    assert aggregate["mean"] == 0.25
    half = 1.96 * math.sqrt(0.25 * 0.75 / 40)
    assert aggregate["low"] == pytest.approx(0.25 - half, abs=0.03)
    assert aggregate["high"] == pytest.approx(0.25 + half, abs=0.03)
    narrow = evaluate_predictions(PREDICTIONS, REFERENCES, ["exact_match"], 5000, 0.5).metrics[
        "exact_match"
    ]
    assert aggregate["low"] < narrow["low"] < 0.25 < narrow["high"] < aggregate["high"]


def test_order_never_matters_and_the_seed_does():
    once = evaluate_predictions(PREDICTIONS, REFERENCES, ["token_f1"], 200, seed=3)
    backwards = evaluate_predictions(
        dict(reversed(PREDICTIONS.items())), REFERENCES, ["token_f1"], 200, seed=3
    )
    assert once.metrics == backwards.metrics
    assert once.scores.equals(backwards.scores)
    intervals = {
        tuple(
            evaluate_predictions(PREDICTIONS, REFERENCES, ["token_f1"], 50, seed=seed)
            .metrics["token_f1"]
            .values()
        )
        for seed in range(10)
    }
    assert len(intervals) > 1


@pytest.mark.parametrize("answer", ["right", "wrong"])
@pytest.mark.parametrize("count", [1, 5])
def test_the_interval_collapses_where_there_is_nothing_to_resample(answer, count):
    predictions = {f"x{number}": answer for number in range(count)}
    references = {id: ["right"] for id in predictions}
    value = float(answer == "right")
    assert evaluate_predictions(predictions, references, ["exact_match"]).metrics[
        "exact_match"
    ] == {
        "mean": value,
        "low": value,
        "high": value,
        "count": count,
    }


@pytest.mark.parametrize("confidence", [0.0, 1.0])
def test_extreme_confidence_is_finite(confidence):
    aggregate: Any = evaluate_predictions(
        PREDICTIONS, REFERENCES, ["exact_match"], 100, confidence
    ).metrics["exact_match"]
    assert np.isfinite(list(aggregate.values())).all()
    assert aggregate["low"] <= aggregate["high"]


def test_nothing_missing_counts_as_zero():
    with pytest.raises(ValueError, match="1 examples have no prediction, the first is 'b'"):
        evaluate_predictions({"a": "x"}, {"a": ["x"], "b": ["y"]}, ["exact_match"])
    for references in ({"a": ["x"]}, {"a": ["x"], "b": []}):
        with pytest.raises(UserError, match=r"1 examples have no reference .*'b'"):
            evaluate_predictions({"a": "x", "b": "y"}, references, ["exact_match"])
    with pytest.raises(ValueError, match="no examples"):
        evaluate_predictions({}, {}, ["exact_match"])
    with pytest.raises(UserError, match="'rougeM', expected a known metric; did you mean 'rougeL'"):
        evaluate_predictions({"a": "x"}, {"a": ["x"]}, ["rougeM"])
