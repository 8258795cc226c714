"""HUDS against an example worked out by hand and against scikit-learn."""

import math

import numpy as np
import pytest
from sklearn.metrics.pairwise import cosine_distances

from atgen_ray.testing.pools import Pool, make_pool

# Uncertainties 1, 2, 3, 4; the two less uncertain examples differ, the two more uncertain ones are
# the same.
BY_HAND = Pool(
    list("abcd"), [(1, 0), (0, 1), (1, 0), (1, 0)], [[-1.0], [-2.0, -2.0], [-3.0], [-3.0, -5.0]]
)
APART = 1 - math.sqrt(0.5)  # cosine distance of (1, 0) to the direction of (1, 0) + (0, 1)


def scores(pool, **parameters):
    rows = pool.select("huds", len(pool.ids), parameters).to_pylist()
    return {row["id"]: row["score"] for row in rows}, {
        row["id"]: dict(row["parts"]) for row in rows
    }


def test_by_hand_without_a_common_scale():
    found, parts = scores(BY_HAND, strata=2, normalize="none", diversity_weight=0.5)
    assert list(found) == ["d", "c", "b", "a"]
    expected = {"a": 0.5 * APART + 0.5, "b": 0.5 * APART + 1.0, "c": 1.5, "d": 2.0}
    assert found == pytest.approx(expected, abs=1e-6)
    assert [parts[id]["stratum"] for id in "abcd"] == [0, 0, 1, 1]
    assert [parts[id]["nll"] for id in "abcd"] == [1, 2, 3, 4]
    assert [parts[id]["distance"] for id in "abcd"] == pytest.approx([APART, APART, 0, 0], abs=1e-6)


def test_by_hand_with_ranks():
    # Ranks of uncertainty 0, 1/3, 2/3, 1; of distance 2.5/3 twice and 0.5/3 twice.
    found, _ = scores(BY_HAND, strata=2, diversity_weight=0.75)
    assert list(found) == ["b", "a", "d", "c"]
    assert found == pytest.approx({"a": 7.5 / 12, "b": 8.5 / 12, "c": 3.5 / 12, "d": 4.5 / 12})


def test_by_hand_with_minmax_and_zscore():
    found, _ = scores(BY_HAND, strata=2, normalize="minmax", diversity_weight=0.25)
    assert found == pytest.approx({"a": 0.25, "b": 0.25 + 0.25, "c": 0.5, "d": 0.75})
    found, _ = scores(BY_HAND, strata=2, normalize="zscore", diversity_weight=0.0)
    assert found == pytest.approx(
        {id: (n - 2.5) / math.sqrt(1.25) for n, id in enumerate("abcd", 1)}
    )


def test_strata_of_equal_width_and_of_equal_size():
    pool = make_pool(12)
    skewed = Pool(
        pool.ids, pool.vectors, [[-value] for value in (0, 1, 2, 3, 4, 4.9, 5, 6, 7, 8, 90, 100)]
    )
    for by, expected in (("equal_width", [0] * 10 + [1] * 2), ("equal_size", [0] * 6 + [1] * 6)):
        _, parts = scores(skewed, strata=2, stratify=by)
        assert [parts[id]["stratum"] for id in pool.ids] == expected


def test_weight_decides_between_uncertainty_and_diversity():
    pool = make_pool(100)
    for weight, part in ((0, "uncertainty"), (1, "diversity")):
        found, parts = scores(pool, diversity_weight=weight)
        assert found == {id: parts[id][part] for id in found}


@pytest.mark.parametrize("clusters", [1, 3])
def test_distance_is_to_the_nearest_possible_centre(clusters):
    """Three tight bundles: one centre leaves them far off, three centres do not."""
    generator = np.random.default_rng(0)
    vectors = np.repeat(np.eye(3), 20, axis=0) + 0.05 * generator.standard_normal((60, 3))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    pool = make_pool(60)
    pool = Pool(pool.ids, vectors.tolist(), pool.logprobs)
    _, parts = scores(pool, strata=1, clusters=clusters)
    groups = [range(60)] if clusters == 1 else [range(start, start + 20) for start in (0, 20, 40)]
    for group in groups:
        members = vectors[list(group)]
        expected = cosine_distances(members, members.mean(axis=0, keepdims=True))[:, 0]
        np.testing.assert_allclose(
            [parts[pool.ids[row]]["distance"] for row in group], expected, atol=1e-6
        )


def test_examples_without_output_are_left_out_and_change_nothing_else():
    pool = make_pool(40)
    broken = Pool(
        [*pool.ids, "y", "z"],
        [*pool.vectors, (1.0,) + (0.0,) * 7, (math.nan,) * 8],
        [*pool.logprobs, [], [-9.0]],
    )
    table = broken.select("huds", 42)
    assert table.slice(0, 40).equals(pool.select("huds", 40))
    assert set(table["id"].to_pylist()[40:]) == {"y", "z"}
    assert table["parts"].to_pylist()[40:] == [[("filled", 1.0)]] * 2


def test_ties_break_by_id():
    pool = Pool(list("gfedcba"), [(0.6, 0.8)] * 7, [[-1.5, -0.5]] * 7)
    assert pool.select("huds", 7)["id"].to_pylist() == list("abcdefg")
