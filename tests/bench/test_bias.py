"""The bias of selection, on pools where it is known."""

from pathlib import Path

import numpy as np
import pytest
from helpers.suites import BATCH, POOL, ROUNDS, make_suite, make_up

from atgen_ray.bench.analysis.bias import measure_shifts, measure_slices
from atgen_ray.bench.analysis.distribution_shift import (
    measure_shift,
    slice_examples,
    study_pool,
)
from atgen_ray.bench.grid import Trial
from atgen_ray.text.languages import name_language

ENGLISH = "the children are playing with a small dog in the park near the river"
GERMAN = "die Kinder spielen mit einem kleinen Hund im Park in der Nähe des Flusses"


@pytest.fixture(scope="module")
def drawn() -> np.ndarray:
    vectors = np.random.default_rng(0).normal(size=(400, 8))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_a_part_of_the_space_is_further_off_than_a_random_set(drawn: np.ndarray) -> None:
    ids = [f"{row:03d}" for row in range(400)]
    vectors = dict(zip(ids, drawn, strict=True))
    pool = study_pool(dict.fromkeys(ids, "some text"), {}, vectors)
    part = sorted(ids, key=lambda id_: vectors[id_][0])[:60]
    some = ids[::7]
    assert measure_shift(pool, part)["mmd"] > 5 * measure_shift(pool, some)["mmd"]
    assert measure_shift(pool, ids)["mmd"] == pytest.approx(0.0, abs=1e-9)
    assert measure_shift(pool, part)["clusters"] < measure_shift(pool, some)["clusters"]


def test_length_words_and_language() -> None:
    texts = {f"e{row}": ENGLISH for row in range(6)} | {
        f"g{row}": f"{GERMAN} {GERMAN}" for row in range(6)
    }
    answers = {id_: "a dog" if id_.startswith("e") else "ein Hund" for id_ in texts}
    pool = study_pool(texts, answers, {})
    english, both = [id_ for id_ in texts if id_.startswith("e")], [*texts]
    assert measure_shift(pool, english)["length"] == pytest.approx(14 / 21, abs=0.01)
    assert measure_shift(pool, english)["language"] == pytest.approx(0.5)
    assert measure_shift(pool, both)["language"] == measure_shift(pool, both)["vocabulary"] == 0.0
    # (1/2, 1/2, 0, 0) against (1/4, 1/4, 1/4, 1/4); their mean is (3/8, 3/8, 1/8, 1/8).
    divergence = (np.log2(4 / 3) + 0.5 * np.log2(2 / 3) + 0.5 * np.log2(2)) / 2
    assert measure_shift(pool, english)["vocabulary"] == pytest.approx(np.sqrt(divergence))
    assert np.isnan(measure_shift(pool, english)["mmd"])
    assert name_language("12345") == "unknown"


def test_slices_are_thirds_and_languages() -> None:
    test = {f"e{row}": " ".join([ENGLISH] * (row + 1)) for row in range(9)}
    slices = slice_examples(test, [ENGLISH] * 9)
    assert (slices["short"], slices["long"]) == (["e0", "e1", "e2"], ["e6", "e7", "e8"])
    assert set(slices) == {"short", "middle", "long", "rare", "mixed", "common"}
    assert (
        slice_examples(dict(list(test.items())[:6]), [ENGLISH]) == {}
    )  # two examples are no slice
    many = {f"e{row}": ENGLISH for row in range(5)} | {f"g{row}": GERMAN for row in range(5)}
    found = slice_examples(many, [ENGLISH] * 9)
    assert set(found["language de"]) == {f"g{row}" for row in range(5)}
    assert set(found["rare"]) <= {f"g{row}" for row in range(5)}


def test_a_strategy_that_takes_the_long_ones_drifts_and_serves_them(tmp_path: Path) -> None:
    def pick(trial: Trial) -> list[int]:
        if trial.strategy == "good":  # the longest first
            return [POOL - 1 - at for at in range(ROUNDS * BATCH)]
        return np.random.default_rng(trial.seed).permutation(POOL)[: ROUNDS * BATCH].tolist()

    data = {"data": {"pool": "pool.jsonl", "test": "test.jsonl", "references": "answer"}}
    suite = make_suite(tmp_path, seeds=[1, 2, 3], tasks={"one": {"metric": "rougeL", "run": data}})
    curves = make_up(
        suite, lambda trial, round: 0.5 + (0.1 if trial.strategy == "good" else 0.0), pick
    )
    drift = {(row.task, row.strategy, row.measure): row for row in measure_shifts(suite, curves)}
    length = drift["one", "good", "length"]
    assert length.last.mean == pytest.approx(8.5 / 5.5, abs=0.3)
    assert length.difference.low > 0.2
    assert length.trend.mean < 0  # as the long ones run out
    assert drift["one", "random", "length"].trend.mean == 0.0
    assert drift["one", "good", "mmd"].difference.low > 0
    assert drift["one", "random", "length"].difference.mean == 0.0
    assert (
        drift["one", "random", "mmd"].last.count == 3
    )  # vectors come from the runs that have them
    effects = measure_slices(suite, curves)
    assert {row.strategy for row in effects} == {"good", "same"}
    assert {row.slice for row in effects} >= {"short", "long", "rare", "common"}
    assert all(
        row.difference.mean == pytest.approx(0.1) for row in effects if row.strategy == "good"
    )
