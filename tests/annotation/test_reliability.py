"""Reliability of people: against simulated annotators whose accuracy is known."""

import numpy as np
import pytest

from atgen_ray.annotation.human.reliability import (
    estimate_accuracy,
    estimate_share,
    estimate_similarity,
)

TRUE = np.array([0.95, 0.9, 0.8, 0.7, 0.6])


def simulate(
    rng: np.random.Generator, examples: int, classes: int, overlap: int
) -> tuple[dict[str, dict[str, int]], dict[str, int]]:
    """Answers of five people of the accuracies `TRUE`, and the right ones."""
    answers: dict[str, dict[str, int]] = {}
    right: dict[str, int] = {}
    for place in range(examples):
        truth = int(rng.integers(classes))
        right[f"e{place}"] = truth
        answers[f"e{place}"] = {
            f"p{who}": truth
            if rng.random() < TRUE[who]
            else int((truth + rng.integers(1, classes)) % classes)
            for who in rng.choice(len(TRUE), overlap, replace=False)
        }
    return answers, right


@pytest.mark.parametrize(("classes", "overlap"), [(2, 3), (5, 2)])
def test_intervals_cover_the_accuracy_of_simulated_annotators(classes: int, overlap: int) -> None:
    rng = np.random.default_rng(classes)
    covered, errors = [], []
    for seed in range(5):
        found = estimate_accuracy(simulate(rng, 200, classes, overlap)[0], seed=seed)
        for who, truth in enumerate(TRUE):
            estimate = found[f"p{who}"]
            covered.append(estimate.low <= truth <= estimate.high)
            errors.append(estimate.value - truth)
    assert np.mean(covered) >= 0.8  # of 25; `benchmarks/agreement.py` has many more
    assert abs(np.mean(errors)) < 0.05


def test_known_answers_tell_two_people_apart_who_only_meet_each_other() -> None:
    rng = np.random.default_rng(0)
    answers, right = simulate(rng, 400, 3, 5)
    pair = {id_: {who: given[who] for who in ("p0", "p4")} for id_, given in answers.items()}
    assert estimate_accuracy(pair) == {}
    seen = estimate_accuracy(pair, right)
    assert seen["p0"].value == pytest.approx(0.95, abs=0.04)
    assert seen["p4"].value == pytest.approx(0.6, abs=0.06)


def test_a_share_has_wilsons_interval_and_nothing_has_none() -> None:
    estimate = estimate_share(9, 10)
    assert estimate is not None
    assert (estimate.value, estimate.examples) == (0.9, 10)
    assert estimate.low == pytest.approx(0.596, abs=0.001)
    assert estimate.high == pytest.approx(0.982, abs=0.001)
    assert estimate_share(0, 0) is None
    assert estimate_accuracy({}) == {}
    assert estimate_accuracy({"e0": {"ann": "a"}}) == {}  # alone, and nobody knows better


def test_a_mean_similarity_has_an_interval_that_covers() -> None:
    rng = np.random.default_rng(3)
    covered = []
    for seed in range(60):
        values = rng.beta(2, 3, 80)
        found = estimate_similarity(
            {"ann": {f"e{n}": float(v) for n, v in enumerate(values)}}, seed
        )
        covered.append(found["ann"].low <= 0.4 <= found["ann"].high)
    assert np.mean(covered) >= 0.85
    assert estimate_similarity({"ann": {}}) == {}
