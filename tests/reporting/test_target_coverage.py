"""How much of the target is covered, against a plain count."""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pytest

from atgen_ray.reporting.target_coverage import DRAWS, measure_coverage

IDS = [f"x{row:03d}" for row in range(200)]


def draw_vectors(count: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, 5)).astype(np.float32)
    unit: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


POOL = dict(zip([f"hash of {id}" for id in IDS], draw_vectors(200, 0), strict=True))
TARGET = dict(zip([f"t{row}" for row in range(9)], draw_vectors(9, 1), strict=True))


def scan(*columns: str) -> Iterator[pa.Table]:
    table = pa.table(
        {
            "id": IDS,
            "content": [f"hash of {id}" for id in IDS],
            "duplicate_of": pa.array([None] * 199 + ["x000"], pa.string()),
        }
    )
    for start in (0, 80):
        yield table.select(columns).slice(start, 80 if start == 0 else 120)


def load(contents: Sequence[str]) -> np.ndarray:
    known = POOL | TARGET | {"broken": np.full(5, np.nan)}
    return np.array([known[each] for each in contents], np.float32).reshape(-1, 5)


def test_coverage_is_its_definition_and_grows_with_the_picks() -> None:
    rounds = {1: IDS[:4], 2: IDS[4:9], 3: []}
    found = measure_coverage([*TARGET, "broken", ""], rounds, scan, load)
    assert list(found) == [1, 2]
    prompts = np.array([*TARGET.values()])
    level = np.median([prompts[a] @ prompts[b] for a in range(9) for b in range(a)])
    for round, count in ((1, 4), (2, 9)):
        nearest = (prompts @ np.array([*POOL.values()])[:count].T).max(axis=1)
        assert (found[round].prompts, found[round].picks) == (9, count)
        assert found[round].similarity == pytest.approx(nearest.mean(), abs=1e-5)
        assert found[round].covered == pytest.approx((nearest >= level).mean())
    assert found[2].similarity >= found[1].similarity
    assert found[2].random_similarity > found[1].random_similarity


def test_random_draws_are_what_picks_at_random_reach() -> None:
    """Over many picks at random the mean of both is the same."""
    ours, theirs = [], []
    for seed in range(60):
        picks = np.random.default_rng(seed).choice(IDS[:199], 6, replace=False).tolist()
        [found] = measure_coverage([*TARGET], {1: picks}, scan, load).values()
        ours.append(found.similarity)
        theirs.append(found.random_similarity)
    assert np.mean(ours) == pytest.approx(np.mean(theirs), abs=0.05)
    assert len(set(theirs)) == 1  # the draws depend on the pool alone
    assert DRAWS * 6 < 199


def test_a_target_of_one_prompt_has_no_level_and_no_target_no_numbers() -> None:
    [found] = measure_coverage(["t0"], {1: ["x000"]}, scan, load).values()
    assert found.covered is None
    assert found.random_covered is None
    assert measure_coverage([], {1: ["x000"]}, scan, load) == {}
    assert measure_coverage(["broken"], {1: ["x000"]}, scan, load) == {}
    assert measure_coverage(["t0"], {1: []}, scan, load) == {}
    # Picks of most of the pool leave one draw, of what there is.
    [found] = measure_coverage(["t0", "t1"], {1: IDS[:150]}, scan, load).values()
    assert 0 < found.random_similarity <= 1
