"""Strategies that rank by one number: the order, and what each of their options does."""

import math
from typing import Any

import numpy as np
import pytest

from atgen_ray.scoring import UNCERTAINTIES, bleu_variance
from atgen_ray.scoring.disagreement import sample_distance
from atgen_ray.testing.pools import Pool, make_pool


def rank(pool, strategy, **parameters):
    rows = pool.select(strategy, len(pool.ids), parameters).to_pylist()
    assert [row["score"] for row in rows] == sorted((row["score"] for row in rows), reverse=True)
    return {row["id"]: row["score"] for row in rows}


def test_likelihood_by_mean_and_by_sum():
    pool = Pool(list("abc"), [(1.0, 0.0)] * 3, [[-1.0] * 5, [-2.0], [-0.5, -0.5]])
    assert rank(pool, "nsp") == {"b": 2.0, "a": 1.0, "c": 0.5}
    assert rank(pool, "nsp", length="sum") == {"a": 5.0, "b": 2.0, "c": 1.0}
    found = rank(pool, "nsp", scale="probability")
    assert found == pytest.approx(
        {id: 1 - math.exp(-nll) for id, nll in (("b", 2.0), ("a", 1.0), ("c", 0.5))}
    )


@pytest.mark.parametrize(
    ("strategy", "parameters", "uncertainty"),
    [
        ("entropy", {}, "entropy"),
        ("margin", {}, "margin"),
        ("margin", {"statistic": "min"}, "min_margin"),
        ("max_token", {}, "max_token"),
    ],
)
def test_uncertainty_of_the_greedy_output(strategy, parameters, uncertainty):
    pool = make_pool(30)
    expected = dict(zip(pool.ids, UNCERTAINTIES[uncertainty](pool.features()), strict=True))
    assert rank(pool, strategy, **parameters) == expected
    assert len(set(expected.values())) == 30


def test_expected_probability_of_samples():
    """Log-probabilities are -1 - length: "a" has two tokens with the end of the turn, "a b c"
    four.
    """
    samples = [["a", "a"], ["a b c", "a"], ["a b c d e f", "a"]]
    pool = Pool(list("xyz"), [(1.0, 0.0)] * 3, [[-1.0]] * 3, samples=samples)
    probabilities = [np.exp([-1, -1]), np.exp([-6 / 4, -1]), np.exp([-12 / 7, -1])]
    assert rank(pool, "ensp") == pytest.approx(
        dict(zip("zyx", [1 - p.mean() for p in probabilities[::-1]], strict=True))
    )
    spread = rank(pool, "ensp", statistic="variance")
    assert spread == pytest.approx(
        dict(zip("zyx", [p.var() for p in probabilities[::-1]], strict=True))
    )


def test_bleu_variance_with_and_without_noise():
    pool = make_pool(30)
    variance = dict(zip(pool.ids, bleu_variance(pool.features()), strict=True))
    assert rank(pool, "bleuvar") == variance
    limit = sorted(variance.values())[20]
    table = pool.select("bleuvar", 30, {"noise_cutoff": limit})
    ranked = [row["id"] for row in table.to_pylist() if ("filled", 1.0) not in row["parts"]]
    assert set(ranked) == {id for id, value in variance.items() if value < limit}
    assert len(ranked) == 20


ANSWERS = {
    "sure": ["Rome", "rome.", "The Rome"],
    "torn": ["Rome", "Rome", "Paris"],
    "lost": ["A man", "B", "C"],
}


def answer_pool(answers=ANSWERS):
    samples = list(answers.values())
    return Pool(
        list(answers), [(1.0, 0.0)] * len(answers), [[-1.0]] * len(answers), samples=samples
    )


def test_entropy_over_meanings():
    torn = -2 / 3 * math.log(2 / 3) - 1 / 3 * math.log(1 / 3)
    assert rank(answer_pool(), "semantic_entropy") == pytest.approx(
        {"lost": math.log(3), "torn": torn, "sure": 0}
    )
    longer = {
        "same": ["it was in Rome", "in Rome it was"],
        "other": ["it was in Rome", "nobody knows that"],
    }
    assert rank(answer_pool(longer), "semantic_entropy") == pytest.approx(
        {"other": math.log(2), "same": math.log(2)}
    )
    by_words = rank(answer_pool(longer), "semantic_entropy", same="words")
    assert by_words == pytest.approx({"other": math.log(2), "same": 0})
    likelihood = rank(answer_pool(longer), "semantic_entropy", same="words", weights="likelihood")
    assert 0 < likelihood["other"] < math.log(2)  # the shorter sample is likelier


def test_disagreement_of_answers():
    pool = answer_pool()
    assert rank(pool, "self_consistency") == pytest.approx(
        {"lost": 2 / 3, "torn": 1 / 3, "sure": 0}
    )
    assert list(rank(pool, "self_consistency", measure="entropy")) == ["lost", "torn", "sure"]
    assert rank(pool, "self_consistency", measure="balance") == pytest.approx(
        {"lost": 2 / 9, "torn": 2 / 9, "sure": 0}
    )
    sums = answer_pool({"a": ["so 4", "4.0", "2+2=4"], "b": ["so 4", "5", "six is 6"]})
    assert rank(sums, "self_consistency", answer="last_number") == pytest.approx(
        {"b": 2 / 3, "a": 0}
    )


def test_uncertainty_times_inconsistency():
    pool = make_pool(30)
    pairs: list[Any] = [("nll", "f1"), ("entropy", "bleu")]
    for uncertainty, similarity in pairs:
        expected = UNCERTAINTIES[uncertainty](pool.features()) * sample_distance(
            pool.features(), similarity
        )
        found = rank(pool, "cocoa", uncertainty=uncertainty, similarity=similarity)
        assert found == dict(zip(pool.ids, expected, strict=True))


def test_longest_and_shortest():
    pool = Pool(
        list("abc"), [(1.0, 0.0)] * 3, [[-1.0]] * 3, texts=["one two", "incomprehensibly", ""]
    )
    assert rank(pool, "length") == {"a": 2, "b": 1, "c": 0}
    assert list(rank(pool, "length", order="shortest")) == ["c", "b", "a"]
    assert rank(pool, "length", unit="characters") == {"b": 16, "a": 7, "c": 0}
