"""Facility location against plain greedy on the whole similarity matrix."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atgen_ray.core.errors import RunStopped
from atgen_ray.selection import read_bound
from atgen_ray.selection.kernels.executor import InProcessExecutor
from atgen_ray.testing.pools import Pool, make_pool

UNIT = [(1, 0, 0), (0, 1, 0), (-1, 0, 0), (0.6, 0.8, 0), (0.6, 0, -0.8), (0, -0.6, 0.8), (0, 0, 0)]


def greedy(pool: Pool, count: int) -> list[tuple[str, float]]:
    """Every gain from scratch at every step; of equal gains the first id."""
    vectors = np.rint(np.array(pool.vectors, dtype=np.float32).astype(float) * 2**24) / 2**24
    table = np.rint(vectors @ vectors.T * 2**20) / 2**20
    similarity = {
        (i, j): table[row, column]
        for row, i in enumerate(pool.ids)
        for column, j in enumerate(pool.ids)
    }
    ids = sorted(pool.open)
    covered = {i: max((similarity[i, j] for j in pool.labeled), default=-1.0) for i in ids}
    picks: list[tuple[str, float]] = []
    for _ in range(min(count, len(ids))):
        rest = [j for j in ids if j not in dict(picks)]
        gains = {j: sum(max(0.0, similarity[i, j] - covered[i]) for i in ids) for j in rest}
        best = max(rest, key=gains.__getitem__)
        picks.append((best, gains[best]))
        covered = {i: max(covered[i], similarity[i, best]) for i in ids}
    return picks


def check(pool: Pool, count: int, **parameters: int) -> None:
    table = pool.select("facility_location", count, parameters)
    assert list(zip(table["id"].to_pylist(), table["score"].to_pylist(), strict=True)) == greedy(
        pool, count
    )


@settings(max_examples=100, deadline=None)
@given(
    vectors=st.lists(st.sampled_from(UNIT), min_size=1, max_size=20),
    labeled=st.sets(st.integers(0, 19), max_size=4),
    count=st.integers(1, 20),
    block_size=st.sampled_from([1, 2, 128]),
)
def test_equals_plain_greedy_where_ties_abound(vectors, labeled, count, block_size):
    ids = [f"x{(7 * number) % 100:02d}" for number in range(len(vectors))]
    pool = Pool(
        ids, vectors, [None] * len(ids), frozenset(ids[row] for row in labeled if row < len(ids))
    )
    if pool.open:
        check(pool, count, block_size=block_size)


@pytest.mark.parametrize("dimensions", [2, 16])
@pytest.mark.parametrize("labeled", [0, 1, 30])
def test_equals_plain_greedy_on_random_directions(dimensions, labeled):
    pool = make_pool(120, seed=dimensions, dimensions=dimensions, labeled=labeled)
    for block_size in (1, 7, 1000):
        check(pool, 25, block_size=block_size, memory_mb=1)


def test_covers_the_largest_group_first_and_then_what_is_new():
    """Groups of 5, 3 and 2 the same: one of each, by size; with the largest labelled, the other
    two.
    """
    vectors: list[tuple[float, ...]] = [*[(1, 0, 0)] * 5, *[(0, 1, 0)] * 3, *[(0, 0, 1)] * 2]
    ids = [f"x{number}" for number in range(10)]
    assert Pool(ids, vectors, [None] * 10).select("facility_location", 4)["id"].to_pylist() == [
        "x0",
        "x5",
        "x8",
        "x1",
    ]
    known = Pool(ids, vectors, [None] * 10, frozenset({"x2"})).select("facility_location", 3)
    assert known["id"].to_pylist() == ["x5", "x8", "x0"]
    assert known["score"].to_pylist() == [3.0, 2.0, 0.0]
    assert [dict(parts) for parts in known["parts"].to_pylist()] == [
        {"gain": 3.0, "nearest_labeled": 0.0},
        {"gain": 2.0, "nearest_labeled": 0.0},
        {"gain": 0.0, "nearest_labeled": 1.0},
    ]


def test_an_example_opposite_to_all_labels_still_counts():
    """Similarities to the labels below zero are no better than they are: nothing is clipped at
    zero.
    """
    pool = Pool(["a", "b", "l"], [(-1, 0), (-0.6, 0.8), (1, 0)], [None] * 3, frozenset({"l"}))
    table = pool.select("facility_location", 1)
    # a: (1 + 1) + (0.6 + 0.6) = 3.2; b: (0.6 + 1) + (1 + 0.6) = 3.2: a tie, by id
    assert table["id"].to_pylist() == ["a"]
    assert table["score"].to_pylist() == pytest.approx([3.2], abs=1e-5)


def test_examples_without_embedding_come_last():
    pool = make_pool(20)
    broken = Pool(["a", "b", *pool.ids], [(np.nan,) * 8] * 2 + pool.vectors, [None] * 22)
    table = broken.select("facility_location", 22)
    assert table.slice(0, 20).equals(pool.select("facility_location", 20))
    assert set(table["id"].to_pylist()[20:]) == {"a", "b"}


@pytest.mark.parametrize("strategy", ["facility_location", "weighted_facility_location"])
@pytest.mark.parametrize("method", ["exact", "sparse", "stochastic", "partition"])
def test_every_method_says_how_near_it_is_to_the_best(strategy, method):
    parameters = {"method": method, "part_size": 100, "ground": 200}
    table = make_pool(400, labeled=10).select(strategy, 20, parameters)
    bound = read_bound(table)
    assert bound is not None
    assert 0.5 < bound.share < 1
    assert bound.pool == 390
    assert bound.measured == (200 if method == "stochastic" else 390)
    assert read_bound(pq.read_table(write(table))) == bound


def write(table):
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return pa.BufferReader(sink.getvalue())


@pytest.mark.parametrize("method", ["exact", "sparse", "stochastic", "partition"])
def test_every_method_can_be_stopped(method):
    def stop(done, total):
        raise RunStopped("stopped on request")

    with pytest.raises(RunStopped):
        make_pool(100).select(
            "facility_location", 10, {"method": method}, workers=InProcessExecutor(stop)
        )


def test_other_strategies_say_nothing():
    assert read_bound(make_pool(20).select("random", 5)) is None


def test_memory_limit_changes_nothing():
    pool = make_pool(3000, labeled=20)
    small, large = (
        pool.select("facility_location", 12, {"memory_mb": limit}) for limit in (1, 512)
    )
    assert small.equals(large)
