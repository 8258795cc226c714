"""Kernels of distance: neighbours, spread, seeding, density, determinants, divergence, places in
groups.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import NearestNeighbors

from atgen_ray.selection.kernels import clusters
from atgen_ray.selection.kernels.clusters import cluster, group, rank_in_groups
from atgen_ray.selection.kernels.divergence import mean_divergence
from atgen_ray.selection.kernels.farthest import farthest_first, kmeanspp_seeding
from atgen_ray.selection.kernels.logdet import maximize_determinant
from atgen_ray.selection.kernels.neighbors import find_neighbors, find_neighbors_in_cells
from atgen_ray.selection.kernels.similarity import compare, nearest, quantise, sum_similarities


def directions(count, dimensions=16, seed=0):
    vectors = np.random.default_rng(seed).standard_normal((count, dimensions))
    return quantise(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def test_neighbours_are_those_of_scikit_learn():
    vectors = directions(700)
    indices, similarities = find_neighbors(vectors, 15, 1)
    distances, expected = (
        NearestNeighbors(n_neighbors=15, metric="cosine").fit(vectors).kneighbors(vectors)
    )
    np.testing.assert_allclose(1 - similarities, distances, atol=2e-6)
    assert np.mean(indices == expected) > 0.999  # the library does not know our rounding
    assert (indices[:, 0] == np.arange(700)).all()


def test_equal_neighbours_come_in_order_and_there_may_be_fewer():
    vectors = quantise(np.array([[1.0, 0.0]] * 3 + [[0.0, 1.0]]))
    indices, similarities = find_neighbors(vectors, 9, 1)
    assert indices.tolist() == [[0, 1, 2, 3]] * 3 + [[3, 0, 1, 2]]
    assert similarities.tolist() == [[1, 1, 1, 0]] * 3 + [[1, 0, 0, 0]]


def test_neighbours_in_cells():
    vectors = directions(900)
    exact = find_neighbors(vectors, 10, 8)
    everywhere = find_neighbors_in_cells(vectors, 10, 8, cells=12, probes=12, seed=0)
    np.testing.assert_array_equal(everywhere[1], exact[1])
    some = find_neighbors_in_cells(vectors, 10, 8, cells=12, probes=5, seed=0)
    recall = (
        np.mean(
            [len(set(found) & set(true)) for found, true in zip(some[0], exact[0], strict=True)]
        )
        / 10
    )
    assert 0.7 < recall < 1
    assert (some[0][:, 0] == np.arange(900)).all()
    lonely = find_neighbors_in_cells(quantise(np.eye(3)), 3, 1, cells=3, probes=1, seed=0)
    assert lonely[0].tolist() == [[0, 0, 0], [1, 1, 1], [2, 2, 2]]
    assert lonely[1].tolist() == [[1, -1, -1]] * 3


@pytest.mark.parametrize("known", [0, 3])
@pytest.mark.parametrize("block_size", [1, 7, 500])
def test_farthest_first_is_that_of_a_loop(known, block_size):
    vectors, labeled = directions(200), directions(known, seed=1)
    similar = nearest(vectors, labeled, 1)
    rows, found = farthest_first(vectors, similar, 60, block_size)
    table = compare(vectors, vectors)
    chosen: list[int] = []
    for row, similarity in zip(rows.tolist(), found, strict=True):
        now = np.maximum(similar, table[:, chosen].max(axis=1)) if chosen else similar.copy()
        now[chosen] = np.inf
        assert now[row] == similarity
        if chosen or known:
            assert row == now.argmin()
        chosen.append(row)
    if not known:
        assert rows[0] == (vectors @ vectors.sum(axis=0)).argmax()


def test_farthest_first_takes_one_of_every_kind_before_any_twice():
    kinds = np.concatenate([np.eye(5), -np.eye(5)])
    vectors = quantise(np.repeat(kinds, 6, axis=0))
    rows, found = farthest_first(vectors, np.full(60, -1.0), 20, 4)
    assert sorted(rows[:10] // 6) == list(range(10))
    assert len(set(rows.tolist())) == 20
    assert (found[10:] == 1).all()


def test_sums_of_similarities():
    vectors, others = directions(80), directions(300, seed=1)
    np.testing.assert_allclose(
        sum_similarities(vectors, others), compare(vectors, others).sum(axis=1), atol=3e-4
    )
    assert sum_similarities(vectors, others[:0]).tolist() == [0] * 80


def test_determinants_grow_as_computed_from_scratch():
    generator = np.random.default_rng(0)
    vectors, known = (
        generator.standard_normal((size, 12)).astype(np.float32) for size in (150, 20)
    )
    rows, gains = maximize_determinant(vectors, known, 0.5, 40)
    information = 0.5 * np.eye(12) + known.T.astype(float) @ known
    left = np.ones(150, dtype=bool)
    for row, gain in zip(rows, gains, strict=True):
        expected = np.log1p(np.einsum("ij,jk,ik->i", vectors, np.linalg.inv(information), vectors))
        assert gain == pytest.approx(expected[left].max(), abs=1e-4)
        before = np.linalg.slogdet(information)[1]
        information += np.outer(vectors[row], vectors[row].astype(float))
        assert gain == pytest.approx(np.linalg.slogdet(information)[1] - before, abs=1e-4)
        left[row] = False
    assert len(set(rows.tolist())) == 40


def test_equal_vectors_are_picked_by_row():
    vectors = np.array([[0.1, 0.2], [2, 1], [2, 1], [0, 0]], dtype=np.float32)
    assert maximize_determinant(vectors, vectors[:0], 1.0, 4)[0].tolist() == [1, 2, 0, 3]


def test_divergence_is_that_of_scipy():
    generator = np.random.default_rng(0)
    shares, others = generator.dirichlet([0.5] * 3, 200), generator.dirichlet([2] * 3, 90)
    shares[:2] = [[1, 0, 0], [0, 1, 0]]
    others[:2] = [[1.0, 0.0, 0.0], [0.0, 0.5, 0.5]]
    expected = [np.mean([jensenshannon(one, other) ** 2 for other in others]) for one in shares]
    np.testing.assert_allclose(mean_divergence(shares, others, 1), expected, atol=1e-9)
    assert mean_divergence(shares, shares[:1], 1)[1] == pytest.approx(np.log(2))
    assert mean_divergence(shares, shares[:1], 1)[0] == 0


def test_seeding_takes_the_longest_first_and_then_draws_by_squared_distance():
    vectors = np.array([[0, 0], [3, 0], [0, 1], [0, 2], [3, 0]], dtype=np.float32)
    seconds = []
    for seed in range(3000):
        rows, distances = kmeanspp_seeding(vectors, 3, seed)
        assert rows[0] == 1
        assert distances[0] == 9
        assert distances[1] == ((vectors[rows[1]] - vectors[1]) ** 2).sum()
        seconds.append(rows[1])
    shares = np.bincount(seconds, minlength=5) / 3000
    np.testing.assert_allclose(shares, np.array([9, 0, 10, 13, 0]) / 32, atol=0.03)
    rows, distances = kmeanspp_seeding(vectors, 5, 0)
    assert sorted(rows.tolist()) == [0, 1, 2, 3, 4]
    assert rows[-1] == 4  # the copy of one drawn before comes last
    assert distances[-1] == 0


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from([0.0, 0.5, 2.0])), min_size=1, max_size=20
    )
)
def test_places_in_groups(pairs):
    labels, values = (
        np.array([label for label, _ in pairs]),
        np.array([value for _, value in pairs]),
    )
    places = rank_in_groups(labels, values)
    for row, (label, value) in enumerate(pairs):
        before = [
            v
            for place, (kind, v) in enumerate(pairs)
            if kind == label and (-v, place) < (-value, row)
        ]
        assert places[row] == len(before)
    assert sorted(np.concatenate(group(labels)).tolist()) == list(range(len(pairs)))
    assert all(len(set(labels[rows])) == 1 for rows in group(labels))


def test_a_large_pool_is_clustered_by_a_sample(monkeypatch):
    kinds = np.arange(3000) % 6
    noisy = np.eye(6)[kinds] + 0.1 * np.random.default_rng(0).standard_normal((3000, 6))
    vectors = quantise(noisy / np.linalg.norm(noisy, axis=1, keepdims=True))
    monkeypatch.setattr(clusters, "FITTED", 400)
    assert adjusted_rand_score(kinds, cluster(vectors, 6, seed=0)) == 1
