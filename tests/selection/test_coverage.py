"""Facility location against submodlib, apricot and plain greedy on the whole matrix."""

from itertools import combinations
from typing import Any

import apricot
import numpy as np
import pytest
from submodlib import FacilityLocationFunction

from atgen_ray.selection.kernels.bound import Bound
from atgen_ray.selection.kernels.coverage import DenseCoverage, Part, PartsCoverage
from atgen_ray.selection.kernels.coverage_device import DeviceCoverage
from atgen_ray.selection.kernels.coverage_sparse import SparseCoverage
from atgen_ray.selection.kernels.executor import InProcessExecutor, Steps
from atgen_ray.selection.kernels.greedy import (
    maximize,
    maximize_stochastically,
    maximize_with_limit,
)
from atgen_ray.selection.kernels.neighbors import find_neighbors
from atgen_ray.selection.kernels.partition import Pool, maximize_in_parts
from atgen_ray.selection.kernels.similarity import coarsen, compare, quantise


def directions(count, clusters=0, dimensions=24, seed=0):
    generator = np.random.default_rng(seed)
    vectors = generator.standard_normal((count, dimensions))
    if clusters:
        vectors = (
            3 * generator.standard_normal((clusters, dimensions))[np.arange(count) % clusters]
            + vectors
        )
    return quantise(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def greedy(similarity, covered, weights, count):
    """Every gain from scratch at every step over ground (rows) x candidates (columns)."""
    rows: list[int] = []
    gains: list[float] = []
    covered = covered.copy()
    for _ in range(count):
        found = weights @ np.maximum(similarity - covered[:, None], 0)
        found[rows] = -1
        rows.append(int(found.argmax()))
        gains.append(found[rows[-1]])
        covered = np.maximum(covered, similarity[:, rows[-1]])
    return rows, gains


def uncovered(vectors):
    return np.full(len(vectors), -1.0)


@pytest.mark.parametrize("clusters", [0, 12])
@pytest.mark.parametrize("megabytes", [1, 64])
def test_the_same_batch_as_submodlib_and_apricot(clusters, megabytes):
    vectors = directions(600, clusters)
    rows, gains = maximize(
        DenseCoverage(vectors, vectors, uncovered(vectors), None, megabytes), 40, 128
    )
    shifted = (
        compare(vectors, vectors) + 1
    )  # both libraries take 0, not -1, for what nothing covers
    peer = FacilityLocationFunction(
        n=600, mode="dense", separate_rep=False, sijs=shifted.astype(np.float32)
    )
    found = peer.maximize(
        budget=40,
        optimizer="LazyGreedy",
        stopIfZeroGain=False,
        stopIfNegativeGain=False,
        show_progress=False,
    )
    other = apricot.FacilityLocationSelection(40, metric="precomputed", optimizer="lazy").fit(
        shifted
    )
    value = shifted[:, rows].max(axis=1).sum()
    assert gains.sum() == pytest.approx(value)
    assert sum(gain for _, gain in found) == pytest.approx(value, rel=1e-4)
    assert shifted[:, other.ranking].max(axis=1).sum() == pytest.approx(value, rel=1e-4)
    assert set(rows.tolist()) == {row for row, _ in found} == set(other.ranking.tolist())


@pytest.mark.parametrize("megabytes", [1, 64])
@pytest.mark.parametrize("block_size", [1, 50])
def test_weights_labels_and_another_ground_than_the_candidates(megabytes, block_size):
    vectors, ground, labeled = (
        directions(300, 10),
        directions(450, 10, seed=1),
        directions(5, seed=2),
    )
    weights = np.random.default_rng(3).random(450)
    covered = compare(ground, labeled).max(axis=1)
    found = maximize(DenseCoverage(vectors, ground, covered, weights, megabytes), 30, block_size)
    rounded = np.rint(weights * 1024) / 1024
    rows, gains = greedy(compare(ground, vectors), covered, rounded, 30)
    assert found[0].tolist() == rows
    assert found[1].tolist() == gains


@pytest.mark.parametrize("follow", [True, False])
@pytest.mark.parametrize("megabytes", [1, 64])
def test_pairs_that_can_still_gain_are_enough_to_the_last_bit(megabytes, follow):
    vectors, ground = directions(500, 30), directions(700, 30, seed=1)
    weights, covered = np.random.default_rng(3).integers(0, 1025, 700) / 1024, uncovered(ground)
    function = DenseCoverage(vectors, ground, covered, weights, megabytes, follow)
    rows, gains = maximize(function, 200, 50)
    assert function._pairs is not None  # the case is one where it turns to them
    assert (rows.tolist(), gains.tolist()) == greedy(
        compare(ground, vectors), covered, weights, 200
    )


@pytest.mark.parametrize("follow", [True, False])
def test_torch_gives_the_same_to_the_last_bit(follow):
    vectors, ground = directions(300, 10), directions(450, 10, seed=1)
    weights, covered = np.random.default_rng(3).random(450), np.full(450, -0.2)
    expected = maximize(DenseCoverage(vectors, ground, covered, weights, 64), 30, 50)
    found = maximize(DeviceCoverage(vectors, ground, covered, weights, 1, "cpu", follow), 30, 50)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])


def test_stochastic_greedy_is_seeded_and_nearly_as_good():
    vectors = directions(800, 20)

    def select(seed, epsilon=0.05):
        function = DenseCoverage(vectors, vectors, uncovered(vectors), None, 64, follow=False)
        return maximize_stochastically(function, 30, epsilon, 16, seed)

    best = maximize(DenseCoverage(vectors, vectors, uncovered(vectors), None, 64), 30, 128)[1].sum()
    for seed in range(3):
        rows, gains = select(seed)
        assert len(set(rows.tolist())) == 30
        assert gains.sum() == pytest.approx((compare(vectors, vectors[rows]).max(axis=1) + 1).sum())
        assert gains.sum() > 0.95 * best
    assert select(0)[0].tolist() == select(0)[0].tolist() != select(1)[0].tolist()
    # A sample as large as the pool is plain greedy.
    assert select(0, epsilon=1e-300)[1].sum() == best


@pytest.mark.parametrize("neighbors", [5, 200])
def test_sparse_coverage_is_greedy_on_the_matrix_without_distant_pairs(neighbors):
    vectors, weights = directions(200, 8), np.random.default_rng(0).integers(0, 1025, 200) / 1024
    indices, similarities = find_neighbors(vectors, neighbors, 1)
    known = np.full((200, 200), -1.0)
    np.put_along_axis(known, indices.astype(int), similarities, axis=1)
    covered = compare(vectors, directions(2, seed=9)).max(axis=1)
    rows, gains = maximize(SparseCoverage(indices, similarities, covered, weights), 40, 64)
    expected = greedy(known, covered, weights, 40)
    assert (rows.tolist(), gains.tolist()) == expected
    if neighbors == 200:
        dense = maximize(DenseCoverage(vectors, vectors, covered, weights, 64), 40, 64)
        assert (dense[0].tolist(), dense[1].tolist()) == expected


def in_parts(vectors, count, parts, proposals=10, covered=None, weights=None):
    order = np.random.default_rng(0).permutation(len(vectors))
    members = [np.sort(part) for part in np.array_split(order, parts)]
    covered = uncovered(vectors) if covered is None else covered
    pool = Pool(vectors, covered, weights, members, InProcessExecutor())
    return maximize_in_parts(pool, count, proposals, 64)


@pytest.mark.parametrize("clusters", [0, 25])
@pytest.mark.parametrize("proposals", [2, 10])  # with 2, picks are the best of samples
def test_partition_loses_little(clusters, proposals):
    vectors = directions(1000, clusters)
    rows, gains, bound = in_parts(vectors, 25, 5, proposals)
    best = maximize(DenseCoverage(vectors, vectors, uncovered(vectors), None, 64), 25, 64)[1].sum()
    value = (compare(vectors, vectors[rows]).max(axis=1) + 1).sum()
    assert len(set(rows.tolist())) == 25
    # What they gain over the whole pool, not over a sample.
    assert gains.sum() == pytest.approx(value, rel=1e-3)
    assert value > 0.98 * best
    assert bound.share < value / best + 1e-3


def test_few_picks_of_one_part_are_plain_greedy_on_coarse_similarities():
    vectors, weights = directions(200), np.random.default_rng(1).random(200)
    covered = compare(vectors, directions(3, seed=4)).max(axis=1)
    rows, gains, bound = in_parts(vectors, 8, 1, covered=covered, weights=weights)
    coarse: Any = coarsen(vectors)
    expected = maximize_with_limit(DenseCoverage(coarse, coarse, covered, weights, 1), 8, 64)
    np.testing.assert_array_equal(rows, expected[0])
    np.testing.assert_array_equal(gains, expected[1])
    assert expected[1].sum() / expected[2] <= bound.share < 1  # it looks for better prices
    assert (bound.measured, bound.pool) == (200, 200)


def test_what_occurs_many_times_is_picked_once():
    """Nine of ten examples are one of twenty; parts propose the same ones again and again."""
    few, rest = directions(20, seed=1), directions(100, seed=2)
    vectors = np.concatenate([np.repeat(few, 45, axis=0), rest])
    rows, gains, _ = in_parts(vectors, 40, 5)
    assert len(set(rows.tolist())) == 40
    assert len(np.unique(vectors[rows], axis=0)) == 40
    assert set(map(bytes, few)) <= set(map(bytes, vectors[rows]))
    # There are not as many different ones as are wanted: the others add nothing.
    rows, gains, bound = in_parts(vectors[:900], 30, 5)
    assert len(set(rows.tolist())) == 30
    assert gains[20:].tolist() == [0.0] * 10
    assert bound.share == 1


def best_of_all(similarity, covered, weights, count):
    """What the best `count` columns add, by looking at all sets of them."""
    return max(
        (weights * np.maximum(similarity[:, [*columns]].max(axis=1) - covered, 0)).sum()
        for columns in combinations(range(similarity.shape[1]), count)
    )


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("count", [1, 2, 3])
def test_no_batch_adds_more_than_the_limit(count, seed):
    vectors, weights = directions(18, 6 * (seed % 2), 6, seed), np.ones(18)
    covered = compare(vectors, directions(1, dimensions=6, seed=9))[:, 0]
    best = best_of_all(compare(vectors, vectors), covered, weights, count)
    dense = DenseCoverage(vectors, vectors, covered, weights, 64, follow=seed < 2)
    _, gains, limit = maximize_with_limit(dense, count, 4)
    assert gains.sum() <= best <= limit + 1e-9
    assert limit == pytest.approx(best) or count > 1
    _, found, bound = in_parts(vectors, count, 1, covered=covered, weights=weights)
    coarse = compare(coarsen(vectors), coarsen(vectors))
    best = best_of_all(coarse, covered, weights, count)
    assert bound.share <= found.sum() / best + 1e-6
    assert bound.share > 0.8


def test_a_bound_by_a_sample_says_so_and_is_careful():
    vectors = directions(3000, 40)
    pool = Pool(vectors, uncovered(vectors), None, [np.arange(3000)], InProcessExecutor())
    batch = maximize_in_parts(pool, 40, 10, 64)[0]
    whole = pool.bound(batch, np.arange(3000), Steps(InProcessExecutor(), 1))
    shares = []
    for seed in range(20):
        rows = np.sort(np.random.default_rng(seed).choice(3000, 400, replace=False))
        bound = pool.bound(batch, rows, Steps(InProcessExecutor(), 1))
        shares.append(bound.share)
        assert "95 % sure, by 400 of 3,000 examples" in str(bound)
    assert 0.9 * whole.share < np.mean(shares) < whole.share
    assert np.mean(np.array(shares) > whole.share) <= 0.1
    assert str(Bound(0.97499, 3000, 3000)) == ">= 97.4 % of the best possible"


@pytest.mark.parametrize("megabytes", [1, 64])
@pytest.mark.parametrize("cuts", [[450], [1, 200], [7, 8, 9, 300]])
def test_a_ground_in_parts_is_the_same_to_the_last_bit(cuts, megabytes):
    vectors, ground = directions(300, 10), directions(450, 10, seed=1)
    weights, covered = np.random.default_rng(3).random(450), np.full(450, -0.2)
    whole = Part(ground, covered, weights)
    parts = [whole.take(rows) for rows in np.split(np.arange(450), cuts) if len(rows)]
    expected = maximize(DenseCoverage(vectors, ground, covered, weights, 64), 60, 50)
    found = maximize(PartsCoverage(vectors, parts, megabytes), 60, 50)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])
