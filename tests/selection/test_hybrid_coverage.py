"""Weighted facility location and the curriculum: facility location with uncertainty in it."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import rankdata

from atgen_ray.scoring import UNCERTAINTIES, normalized_nll
from atgen_ray.selection.kernels.coverage import DenseCoverage
from atgen_ray.selection.kernels.greedy import maximize
from atgen_ray.selection.kernels.similarity import compare, quantise
from atgen_ray.testing.pools import make_pool


def vectors_of(pool, rows=slice(None)):
    return quantise(np.array(pool.vectors[rows], dtype=np.float32))


def test_weights_are_ranks_of_uncertainty():
    pool = make_pool(90, labeled=10)
    for uncertainty in ("nll", "entropy"):
        values = UNCERTAINTIES[uncertainty](pool.features())[10:]
        weights = (rankdata(values) - 1) / 79
        vectors = vectors_of(pool, slice(10, None))
        covered = compare(vectors, vectors_of(pool, slice(0, 10))).max(axis=1)
        rows, gains = maximize(DenseCoverage(vectors, vectors, covered, weights, 8), 12, 16)
        table = pool.select("weighted_facility_location", 12, {"uncertainty": uncertainty})
        assert table["id"].to_pylist() == [pool.ids[10 + row] for row in rows]
        assert table["score"].to_pylist() == gains.tolist()


def test_full_floor_or_equal_uncertainty_is_plain_facility_location():
    pool = make_pool(60)
    plain = pool.select("facility_location", 10)
    assert pool.select("weighted_facility_location", 10, {"floor": 1.0})["id"].equals(plain["id"])
    same = replace(pool, logprobs=[[-1.0]] * 60)
    assert same.select("weighted_facility_location", 10)["id"].equals(plain["id"])


@pytest.mark.parametrize("scale", ["minmax", "zscore", "none"])
def test_what_is_uncertain_is_represented_first(scale):
    """Two bundles; the model is unsure of the smaller one."""
    vectors: list[tuple[float, ...]] = [*[(1.0, 0.0)] * 20, *[(0.0, 1.0)] * 10]
    pool = replace(
        make_pool(30),
        vectors=vectors,
        logprobs=[*([-0.01 * (1 + row % 3)] for row in range(20)), *[[-3.0]] * 10],
    )
    assert pool.select("facility_location", 1)["id"].to_pylist() == ["x0000"]
    table = pool.select("weighted_facility_location", 1, {"normalize": scale})
    assert table["id"].to_pylist() == ["x0020"]


def test_methods_for_large_pools_agree_with_the_exact_one_where_they_see_everything():
    pool = make_pool(80, labeled=10)
    exact = pool.select("facility_location", 10)
    for options in (
        {"method": "sparse", "neighbors": 80},
        {"method": "partition", "part_size": 80},
        {"method": "stochastic", "epsilon": 1e-300},
        {"exact_limit": 1, "part_size": 80},
    ):
        assert pool.select("facility_location", 10, options).equals(exact)


@pytest.mark.parametrize("method", ["sparse", "partition", "stochastic"])
def test_methods_for_large_pools_lose_little(method):
    pool = make_pool(1500, dimensions=6)
    options = {
        "method": method,
        "neighbors": 150,
        "exact_limit": 100,
        "part_size": 300,
        "ground": 700,
        "probes": 1,
    }
    vectors = vectors_of(pool)
    values = []
    for parameters in ({}, options):
        table = pool.select("facility_location", 30, parameters)
        rows = [pool.ids.index(id) for id in table["id"].to_pylist()]
        values.append((compare(vectors, vectors[rows]).max(axis=1) + 1).mean())
        if method != "sparse":
            assert sum(table["score"].to_pylist()) == pytest.approx(1500 * values[0], rel=0.05)
    assert values[1] > 0.97 * values[0]


def test_the_curriculum_goes_from_easy_to_hard():
    pool = make_pool(100)
    bands = (rankdata(normalized_nll(pool.features())) - 0.5) * 4 // 100
    for round, expected in ((0, 0), (1, 0), (2, 1), (4, 3), (9, 3)):
        table = pool.select("ld_cal", 10, {"stages": 4}, round=round)
        assert {bands[pool.ids.index(id)] for id in table["id"].to_pylist()} == {expected}
    wide = pool.select("ld_cal", 60, {"stages": 4}, round=2)["id"].to_pylist()
    assert {bands[pool.ids.index(id)] for id in wide} == {0, 1, 2}


def test_one_stage_is_weighted_facility_location():
    pool = make_pool(70, labeled=5)
    expected = pool.select("weighted_facility_location", 8)
    assert pool.select("ld_cal", 8, {"stages": 1})["id"].equals(expected["id"])
