"""Kernels against scipy, scikit-learn and brute force."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats
from sklearn.metrics import adjusted_rand_score
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.preprocessing import minmax_scale

from atgen_ray.selection.kernels.clusters import cluster
from atgen_ray.selection.kernels.normalization import normalize, rank, stratify
from atgen_ray.selection.kernels.similarity import center, coarsen, compare, nearest, quantise

columns = hnp.arrays(
    np.float64, st.integers(1, 30), elements=st.floats(-1e6, 1e6) | st.sampled_from([0.0, 1.0, 2.0])
)


def directions(count, dimensions=384, seed=0):
    vectors = np.random.default_rng(seed).standard_normal((count, dimensions)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_similarities_are_cosines():
    rows, others = directions(50), directions(30, seed=1)
    np.testing.assert_allclose(
        compare(quantise(rows), quantise(others)), cosine_similarity(rows, others), atol=1e-6
    )
    expected = cosine_similarity(rows, others).max(axis=1)
    np.testing.assert_allclose(
        nearest(quantise(rows), quantise(others), megabytes=1), expected, atol=1e-6
    )


def test_similarities_and_their_sums_are_the_same_in_any_order_and_block():
    vectors = quantise(directions(400))
    whole = compare(vectors, vectors)
    generator = np.random.default_rng(3)
    axes, rows = generator.permutation(384), generator.permutation(400)
    wide = vectors.astype(float)
    np.testing.assert_array_equal(wide[:, axes] @ wide[:, axes].T, wide @ wide.T)
    np.testing.assert_array_equal(compare(vectors[:, axes], vectors[:, axes]), whole)
    np.testing.assert_array_equal(compare(vectors[rows], vectors), whole[rows])
    np.testing.assert_array_equal(
        np.concatenate([compare(vectors[i : i + 7], vectors) for i in range(0, 400, 7)]), whole
    )
    np.testing.assert_array_equal(whole[:, rows].sum(axis=1), whole.sum(axis=1))
    np.testing.assert_array_equal(center(vectors[rows]), center(vectors))


@pytest.mark.parametrize("dimensions", [1, 3, 384])
def test_coarse_similarities_are_exact_and_near(dimensions):
    vectors = quantise(directions(400, dimensions))
    coarse = coarsen(vectors)
    whole = compare(coarse, coarse)
    wide = coarse.astype(np.float64)
    assert whole.dtype == np.float32
    np.testing.assert_array_equal(whole, wide @ wide.T)
    axes = np.random.default_rng(3).permutation(dimensions)
    np.testing.assert_array_equal(compare(coarse[:, axes], coarse[:, axes]), whole)
    difference = whole - compare(vectors, vectors)
    assert np.abs(difference).max() < 0.003
    assert np.abs(difference.mean()) < 1e-4


def test_a_vector_is_as_similar_to_itself_as_can_be():
    vectors = quantise(directions(200))
    assert compare(vectors, vectors).diagonal().tolist() == [1.0] * 200


def test_centre_of_opposites_is_nowhere():
    assert center(quantise(np.array([[0.6, 0.8], [-0.6, -0.8]]))).tolist() == [0.0, 0.0]


@given(values=columns)
def test_ranks(values):
    np.testing.assert_array_equal(rank(values), stats.rankdata(values))


@settings(deadline=None)
@given(values=columns)
def test_scales(values):
    if np.ptp(values) == 0:
        assert all((normalize(values, scale) == 0).all() for scale in ("rank", "minmax", "zscore"))
    else:
        ranks = (stats.rankdata(values) - 1) / (len(values) - 1)
        np.testing.assert_allclose(normalize(values, "rank"), ranks)
        shares = (values - values.min()) / np.ptp(values)
        np.testing.assert_allclose(normalize(values, "zscore"), stats.zscore(shares), atol=1e-9)
        np.testing.assert_allclose(normalize(values, "minmax"), shares, atol=1e-9)
    np.testing.assert_array_equal(normalize(values, "none"), values)


def test_minmax_on_ordinary_values():
    values = np.random.default_rng(0).exponential(size=50)
    np.testing.assert_allclose(normalize(values, "minmax"), minmax_scale(values))


@given(values=columns, strata=st.integers(1, 12), by=st.sampled_from(["equal_size", "equal_width"]))
def test_strata_rise_with_the_values_and_equal_values_share_one(values, strata, by):
    found = stratify(values, strata, by)
    assert found.min() >= 0
    assert found.max() < strata
    order = np.argsort(values)
    assert (np.diff(found[order]) >= 0).all()
    assert all(len(set(found[values == value])) == 1 for value in values)


@pytest.mark.parametrize("count", [10, 23, 100, 1000])
def test_strata_of_equal_size_differ_by_one_at_most(count):
    values = np.random.default_rng(count).permutation(count).astype(float)
    sizes = np.bincount(stratify(values, 10, "equal_size"), minlength=10)
    assert sizes.max() - sizes.min() <= 1


def test_clusters_find_groups_and_never_outnumber_distinct_vectors():
    groups = np.repeat(np.eye(4), 25, axis=0)
    noisy = groups + 0.05 * np.random.default_rng(0).standard_normal(groups.shape)
    noisy /= np.linalg.norm(noisy, axis=1, keepdims=True)
    assert adjusted_rand_score(groups.argmax(axis=1), cluster(quantise(noisy), 4, seed=0)) == 1
    assert len(set(cluster(quantise(groups), 50, seed=0))) == 4
    assert cluster(quantise(groups[:20]), 3, seed=0).tolist() == [0] * 20
