"""IDDS, graph cut, DUAL, k-center, k-means, TypiClust, BADGE, Fisher and task diversity against
plain definitions.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
from sklearn.cluster import KMeans
from submodlib import GraphCutFunction, LogDeterminantFunction

from atgen_ray.scoring import bleu_variance, normalized_nll
from atgen_ray.selection import States
from atgen_ray.testing.pools import Pool, make_pool


def similarities(pool):
    vectors = np.array(pool.vectors, dtype=np.float32).astype(float)
    return vectors @ vectors.T


def rows_of(pool, table):
    return [pool.ids.index(id) for id in table["id"].to_pylist()]


def bundles(kinds, size, seed=0, noise=0.05, **given):
    """`kinds` tight bundles of `size` examples each, bundle b holding the ids from b * size."""
    generator = np.random.default_rng(seed)
    vectors = np.repeat(np.eye(kinds), size, axis=0) + noise * generator.standard_normal(
        (kinds * size, kinds)
    )
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    pool = make_pool(kinds * size, seed=seed)
    return replace(pool, vectors=[tuple(row) for row in vectors.tolist()], **given)


@pytest.mark.parametrize("labeled", [0, 30])
@pytest.mark.parametrize("weight", [0.0, 0.67, 1.0])
def test_idds_is_its_definition(labeled, weight):
    pool = make_pool(200, labeled=labeled)
    table, table_of = pool.select("idds", 25, {"density_weight": weight}), similarities(pool)
    known, rest = list(range(labeled)), list(range(labeled, 200))
    for row, score in zip(rows_of(pool, table), table["score"].to_pylist(), strict=True):
        density = table_of[:, rest].mean(axis=1)
        novelty = table_of[:, known].mean(axis=1) if known else np.zeros(200)
        expected = weight * density - (1 - weight) * novelty
        assert score == pytest.approx(expected[row], abs=1e-5)
        assert score == pytest.approx(expected[rest].max(), abs=1e-5)
        rest.remove(row)
        known.append(row)


def test_idds_keeps_away_from_the_labelled():
    pool = bundles(3, 20, labeled=frozenset(f"x{row:04d}" for row in range(5)))
    assert {row // 20 for row in rows_of(pool, pool.select("idds", 2))} == {1, 2}


@pytest.mark.parametrize("weight", [0.3, 0.5])
def test_graph_cut_is_that_of_submodlib(weight):
    pool = make_pool(150)
    shifted = (similarities(pool) + 1).astype(
        np.float32
    )  # the library cannot take negative similarities
    table = pool.select("graph_cut", 20, {"redundancy_weight": weight})
    rows = rows_of(pool, table)
    similar = similarities(pool)
    for place, gain in enumerate(table["score"].to_pylist()):
        chosen = rows[:place]
        gains = similar.sum(axis=0) - weight * (2 * similar[:, chosen].sum(axis=1) + 1)
        assert gain == pytest.approx(gains[rows[place]], abs=1e-4)
        assert gain == pytest.approx(np.delete(gains, chosen).max(), abs=1e-4)
    # Adding 1 to every similarity adds the same to the gain of every example, so the picks stay the
    # same.
    peer = GraphCutFunction(
        n=150, mode="dense", lambdaVal=weight, separate_rep=False, ggsijs=shifted
    )
    found = peer.maximize(
        budget=20,
        optimizer="NaiveGreedy",
        stopIfZeroGain=False,
        stopIfNegativeGain=False,
        show_progress=False,
    )
    assert {row for row, _ in found} == set(rows)


def test_graph_cut_counts_the_labelled_as_chosen():
    pool = bundles(3, 10, labeled=frozenset({"x0000"}))
    assert {
        row // 10 for row in rows_of(pool, pool.select("graph_cut", 2, {"redundancy_weight": 9}))
    } == {1, 2}


def test_dual_visits_a_region_once_and_takes_its_most_uncertain():
    pool = bundles(4, 12, noise=0.0)
    variance = bleu_variance(pool.features())
    variance[variance >= 0.96] = -1
    table = pool.select("dual", 8, {"neighbors": 12})
    rows = rows_of(pool, table)
    assert sorted(row // 12 for row in rows[:4]) == [0, 1, 2, 3]
    for row in rows[:4]:
        bundle = slice(row // 12 * 12, row // 12 * 12 + 12)
        assert variance[row] == variance[bundle].max()
    assert [("filled", 1.0) in parts for parts in table["parts"].to_pylist()] == [False] * 4 + [
        True
    ] * 4
    assert len(set(rows)) == 8
    again = pool.select("dual", 8, {"neighbors": 12}, seed=8)
    assert rows_of(pool, again)[:4] == rows[:4]
    assert rows_of(pool, again)[4:] != rows[4:]


def test_dual_passes_over_noise():
    noisy = [["a b", "c d", "e f"]] * 12  # nothing in common: BLEUVar is 1
    calm = [["a b c", "a b d", "a b c"]] * 12
    pool = bundles(2, 12, noise=0.01, samples=[*noisy, *calm])
    rows = rows_of(pool, pool.select("dual", 2, {"neighbors": 12, "share": 0.5}))
    assert rows[0] >= 12


def test_k_center_in_embeddings_and_in_states():
    pool = bundles(5, 8, labeled=frozenset({"x0000"}))
    table = pool.select("k_center", 4)
    assert {row // 8 for row in rows_of(pool, table)} == {1, 2, 3, 4}
    assert all(score > 0.8 for score in table["score"].to_pylist())
    assert pool.select("k_center", 4, {"space": "states"})["id"].equals(
        table["id"]
    )  # states point the same way
    elsewhere = Pool(pool.ids, pool.vectors[::-1], pool.logprobs, pool.labeled)
    in_states = pool.select("k_center", 4, {"space": "states"}, states=elsewhere.states())
    assert in_states["id"].equals(elsewhere.select("k_center", 4)["id"])


def test_kmeans_takes_the_centre_of_every_cluster_and_large_ones_first():
    sizes = [9, 3, 6]
    directions = np.repeat(np.eye(3), sizes, axis=0) + 0.05 * np.random.default_rng(
        1
    ).standard_normal((18, 3))
    vectors = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    pool = replace(make_pool(18), vectors=[tuple(row) for row in vectors.tolist()])
    table = pool.select("kmeans", 3)
    library = KMeans(3, n_init=5, random_state=0).fit(vectors)
    expected = {
        int(np.argmin(np.linalg.norm(vectors - center, axis=1)))
        for center in library.cluster_centers_
    }
    rows = rows_of(pool, table)
    assert set(rows) == expected
    assert [sum(row >= start for start in (9, 12)) for row in rows] == [0, 2, 1]
    assert [dict(parts)["cluster_share"] for parts in table["parts"].to_pylist()] == pytest.approx(
        [0.5, 1 / 3, 1 / 6]
    )


def test_typiclust_takes_typical_examples_of_clusters_without_labels():
    pool = bundles(4, 15, labeled=frozenset(f"x{row:04d}" for row in range(15, 18)))
    # With three labels and two picks there are five clusters: one bundle may be cut in two.
    table = pool.select("typiclust", 2)
    rows = rows_of(pool, table)
    assert len({row // 15 for row in rows} - {1}) == 2
    assert [dict(parts)["labels_in_cluster"] for parts in table["parts"].to_pylist()] == [0, 0]
    for row in rows:
        members = range(row // 15 * 15, row // 15 * 15 + 15)
        distances = np.sqrt(2 - 2 * similarities(pool)[np.ix_(members, members)].clip(-1, 1))
        means = distances.sum(axis=1) / 14
        assert means[row % 15] <= np.median(means)


def test_typicality_by_hand():
    """In one cluster: b is nearer to its two neighbours than a and c are."""
    angles = np.array([0.0, 0.1, 0.25])
    pool = Pool(list("abc"), [(math.cos(angle), math.sin(angle)) for angle in angles], [[-1.0]] * 3)
    table = pool.select("typiclust", 3, {"max_clusters": 1})

    def chord(angle):
        return 2 * math.sin(angle / 2)

    expected = {"b": (chord(0.1) + chord(0.15)) / 2, "a": (chord(0.1) + chord(0.25)) / 2}
    assert table["id"].to_pylist() == ["b", "a", "c"]
    found = {row["id"]: 1 / dict(row["parts"])["typicality"] for row in table.to_pylist()}
    assert {id: found[id] for id in "ab"} == pytest.approx(expected, abs=1e-3)


def test_badge_starts_with_the_largest_gradient_and_scales_hidden_states_by_the_error():
    pool = make_pool(50)
    error = 1 - np.exp(-normalized_nll(pool.features()))
    lengths = error * np.linalg.norm(3 * np.array(pool.vectors), axis=1)
    table = pool.select("badge", 10)
    assert rows_of(pool, table)[0] == lengths.argmax()
    first = dict(table["parts"].to_pylist()[0])["squared_distance"]
    assert first == pytest.approx(lengths.max() ** 2, rel=1e-4)
    as_they_are = pool.select("badge", 10, {"gradients": True}, features=None)
    assert dict(as_they_are["parts"].to_pylist()[0])["squared_distance"] == pytest.approx(
        9, rel=1e-4
    )
    assert not table["id"].equals(pool.select("badge", 10, seed=1)["id"])


def test_fisher_is_the_log_determinant_of_submodlib():
    """log det of the information matrix is that of the Gram matrix plus 1, up to a constant."""
    pool = make_pool(80)
    lengths = np.random.default_rng(1).uniform(
        0.5, 2, (80, 1)
    )  # vectors of one length would all tie at first
    vectors = np.array(pool.vectors) * lengths
    states = States(pool.ids, vectors)
    table = pool.select(
        "fisher", 12, {"prior": 1.0, "space": "states", "normalize": False}, states=states
    )
    peer = LogDeterminantFunction(
        n=80, mode="dense", lambdaVal=1, sijs=(vectors @ vectors.T).astype(np.float32)
    )
    found = peer.maximize(
        budget=12,
        optimizer="NaiveGreedy",
        stopIfZeroGain=False,
        stopIfNegativeGain=False,
        show_progress=False,
    )
    assert rows_of(pool, table) == [row for row, _ in found]
    chosen = vectors[rows_of(pool, table)]
    assert sum(table["score"].to_pylist()) == pytest.approx(
        np.linalg.slogdet(np.eye(12) + chosen @ chosen.T)[1], abs=1e-4
    )


def test_fisher_learns_least_from_what_is_labelled():
    pool = bundles(3, 10, labeled=frozenset(f"x{row:04d}" for row in range(8)))
    assert {row // 10 for row in rows_of(pool, pool.select("fisher", 2))} == {1, 2}


def test_quotas_follow_inverse_confidence():
    """Mean token probabilities 0.8 and 0.2: of ten places the confident task has two."""
    logprobs = [[math.log(0.8)]] * 30 + [[math.log(0.2)]] * 30
    pool = replace(bundles(2, 30), logprobs=logprobs)
    picks = rows_of(pool, pool.select("task_diversity", 10, {"tasks": 2}))
    assert sum(row < 30 for row in picks) == 2
    other = rows_of(pool, pool.select("task_diversity", 10, {"tasks": 2}, seed=1))
    assert sum(row < 30 for row in other) == 2
    assert set(other) != set(picks)
