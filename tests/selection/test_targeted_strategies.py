"""Strategies that pick for a target against plain definitions, and task diversity by a column."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from submodlib import FacilityLocationVariantMutualInformationFunction

from atgen_ray.core.errors import UserError
from atgen_ray.selection import Embeddings
from atgen_ray.selection.kernels.executor import InProcessExecutor
from atgen_ray.testing.pools import make_pool


def draw_target(count, dimensions=8, seed=1):
    vectors = np.abs(np.random.default_rng(seed).standard_normal((count, dimensions)))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return Embeddings([f"t{number:03d}" for number in range(count)], vectors)


def positive_pool(count, **given):
    """A pool in the positive orthant, where every similarity is above 0, as submodlib wants it."""
    pool = make_pool(count, **given)
    return replace(pool, vectors=[tuple(map(abs, row)) for row in pool.vectors])


def rows_of(pool, table):
    return [pool.ids.index(id) for id in table["id"].to_pylist()]


def compare_with(pool, target):
    vectors = np.array(pool.vectors, dtype=np.float32).astype(float)
    return vectors @ target.take_all().astype(float).T


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_targeted_facility_location_is_that_of_submodlib(weight):
    pool, target = positive_pool(80), draw_target(9)
    similar = compare_with(pool, target)
    theirs = FacilityLocationVariantMutualInformationFunction(
        n=80, num_queries=9, query_sijs=similar, queryDiversityEta=weight
    ).maximize(budget=12, optimizer="NaiveGreedy")
    parameters = {"relevance": weight}
    table = pool.select("targeted_facility_location", 12, parameters, target=target)
    positive = [row for row, gain in theirs if gain > 1e-4]  # ties of nothing are not compared
    assert rows_of(pool, table)[: len(positive)] == positive
    # Our coverage begins at -1, theirs at 0: the first pick gains one more for each prompt.
    gains = table["score"].to_numpy()[: len(positive)] - np.eye(len(positive))[0] * 9
    np.testing.assert_allclose(gains, [gain for _, gain in theirs[: len(positive)]], atol=1e-4)


@pytest.mark.parametrize("labeled", [0, 20])
def test_targeted_facility_location_is_greedy_on_its_definition(labeled):
    pool, target = make_pool(100, labeled=labeled), draw_target(7)
    similar = compare_with(pool, target)
    covered = similar[:labeled].max(axis=0) if labeled else np.full(7, -1.0)
    relevance = similar.max(axis=1).clip(0)
    table = pool.select("targeted_facility_location", 15, {"relevance": 0.5}, target=target)
    left = list(range(labeled, 100))
    for row, gain in zip(rows_of(pool, table), table["score"].to_pylist(), strict=True):
        gains = np.maximum(0, similar - covered).sum(axis=1) + 0.5 * relevance
        assert gain == pytest.approx(gains[row], abs=1e-4)
        assert gain == pytest.approx(gains[left].max(), abs=1e-4)
        covered = np.maximum(covered, similar[row])
        left.remove(row)


def run_in_turn(pool, target, count, labeled):
    """RDS+ by its words: each prompt takes the nearest that is left."""
    similar = compare_with(pool, target)
    left = [row for row in range(len(pool.ids)) if row >= labeled]
    picks = []
    for turn in range(count):
        prompt = (labeled + turn) % similar.shape[1]
        best = max(left, key=lambda row: (similar[row, prompt], -row))
        left.remove(best)
        picks.append(best)
    return picks


@settings(max_examples=25, deadline=None)
@given(
    size=st.integers(1, 40),
    prompts=st.integers(1, 12),
    count=st.integers(1, 40),
    labeled=st.integers(0, 9),
    seed=st.integers(0, 99),
)
def test_rds_plus_is_its_definition(size, prompts, count, labeled, seed):
    pool = make_pool(size + labeled, seed=seed, labeled=labeled)
    target = draw_target(prompts, seed=seed + 1)
    picks = rows_of(pool, pool.select("rds_plus", count, target=target))
    assert picks == run_in_turn(pool, target, min(count, size), labeled)


def test_rds_plus_in_rounds_picks_what_one_batch_of_their_size_picks():
    pool, target = make_pool(120), draw_target(17)
    whole = pool.select("rds_plus", 60, target=target)["id"].to_pylist()
    labels = list[str]()
    for round in range(6):
        left = replace(pool, labeled=frozenset(labels))
        labels += left.select("rds_plus", 10, target=target, round=round)["id"].to_pylist()
    assert labels == whole


@pytest.mark.parametrize("strategy", ["rds_plus", "targeted_facility_location"])
def test_a_target_brings_its_own_kind(strategy):
    """Of ten bundles in the pool the target is one; all picks are of it, while it has some."""
    generator = np.random.default_rng(0)
    vectors = np.repeat(np.eye(10), 20, axis=0) + 0.05 * generator.standard_normal((200, 10))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    pool = replace(make_pool(200), vectors=[tuple(row) for row in vectors.tolist()])
    target = Embeddings(["a", "b"], vectors[60:62])
    picks = rows_of(pool, pool.select(strategy, 20, target=target))
    assert sorted(picks) == list(range(60, 80))


@pytest.mark.parametrize("strategy", ["rds_plus", "targeted_facility_location"])
@pytest.mark.parametrize("block", [1, 7, 49])
def test_blocks_and_the_order_of_the_target_never_matter(strategy, block):
    pool, target = make_pool(200, labeled=30), draw_target(60)
    whole = pool.select(strategy, 40, target=target)
    workers = InProcessExecutor(block=block)
    ids = [f"t{number:03d}" for number in range(60)]
    shuffled = np.random.default_rng(4).permutation(60)
    other = Embeddings([ids[row] for row in shuffled], target.take_all()[shuffled])
    assert pool.select(strategy, 40, target=other, workers=workers).equals(whole)


@pytest.mark.parametrize("strategy", ["rds_plus", "targeted_facility_location"])
def test_a_target_that_could_not_be_embedded_is_drawn_at_random(strategy):
    pool = make_pool(20)
    target = Embeddings(["t"], np.full((1, 8), np.nan))
    parts = pool.select(strategy, 4, target=target)["parts"].to_pylist()
    assert parts == [[("filled", 1.0)]] * 4
    with pytest.raises(ValueError, match=f"'{strategy}' needs a target"):
        pool.select(strategy, 4, target=None)


def test_task_diversity_by_a_column_shares_the_picks_among_its_values():
    pool = make_pool(90)
    # The model is four times as sure in `sure` as in `unsure`, and there are ten times as many.
    fields = {
        id: {"kind": "unsure" if row % 10 == 0 else "sure"} for row, id in enumerate(pool.ids)
    }
    logprobs: list[list[float] | None] = [
        [np.log(0.2 if row % 10 == 0 else 0.8)] for row in range(90)
    ]
    pool = replace(pool, logprobs=logprobs)
    table = pool.select("task_diversity", 10, {"column": "kind"}, fields=fields, embeddings=None)
    kinds = [fields[id]["kind"] for id in table["id"].to_pylist()]
    assert kinds.count("unsure") == 8  # four times as many places
    assert {dict(row)["task"] for row in table["parts"].to_pylist()} == {0, 1}


def test_task_diversity_by_a_column_that_is_not_there_names_the_nearest():
    with pytest.raises(UserError, match=r"column is 'kinds'.*did you mean 'kind'"):
        make_pool(9).select("task_diversity", 2, {"column": "kinds"})
