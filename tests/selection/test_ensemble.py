"""The vote of several strategies."""

from typing import Any

import numpy as np
import pytest
from scipy.stats import rankdata

from atgen_ray.scoring import mean_token_entropy, normalized_nll
from atgen_ray.testing.pools import Pool, make_pool


def scores(pool, round=1, **parameters):
    rows = pool.select("ensemble", len(pool.ids), parameters, round=round).to_pylist()
    found = {row["id"]: row["score"] for row in rows}
    return np.array([found[id] for id in pool.ids])


def test_mean_of_normalised_ranks():
    pool = make_pool(40)
    length = [len(text.split()) for text in pool.texts]
    members = {"nsp": {"weight": 3}, "length": {"weight": 1}}
    ranks = [(rankdata(values) - 1) / 39 for values in (normalized_nll(pool.features()), length)]
    np.testing.assert_allclose(scores(pool, members=members), 0.75 * ranks[0] + 0.25 * ranks[1])


def test_reciprocal_ranks():
    pool = make_pool(40)
    members: dict[str, Any] = {"nsp": {}, "entropy": {}}
    ranks = [rankdata(-score(pool.features())) for score in (normalized_nll, mean_token_entropy)]
    expected = np.mean([1 / (60 + rank) for rank in ranks], axis=0)
    np.testing.assert_allclose(scores(pool, members=members, combine="reciprocal"), expected)


def test_weights_by_round():
    pool = make_pool(40)
    members = {"nsp": {"weight": [1, 0.5, 0]}, "length": {"weight": [0, 0.5, 1]}}
    for round, alone in ((0, "nsp"), (1, "nsp"), (3, "length"), (9, "length")):
        ids = pool.select("ensemble", 12, {"members": members}, round=round)["id"]
        assert ids.equals(pool.select(alone, 12, round=round)["id"])
    halfway = scores(pool, round=2, members=members)
    np.testing.assert_allclose(halfway, scores(pool, members={"nsp": {}, "length": {}}))


def test_a_member_that_picks_one_by_one_votes_by_place():
    pool = make_pool(40)
    ids = pool.select("ensemble", 8, {"members": {"k_center": {}}})["id"]
    assert ids.equals(pool.select("k_center", 8)["id"])
    shallow = pool.select(
        "ensemble", 8, {"members": {"k_center": {}, "length": {"weight": 0.001}}, "depth": 1}
    )
    assert shallow["id"].equals(ids)


def test_members_have_parameters_of_their_own():
    pool = make_pool(40)
    shortest = {"length": {"parameters": {"order": "shortest"}}}
    assert pool.select("ensemble", 5, {"members": shortest})["id"].equals(
        pool.select("length", 5, {"order": "shortest"})["id"]
    )


def test_an_example_that_one_member_cannot_rank_is_last_for_that_member():
    pool = Pool(
        list("abc"),
        [(1.0, 0.0)] * 3,
        [[-1.0], None, [-2.0]],
        texts=["one", "one two three", "one two"],
    )
    found = scores(pool, members={"nsp": {}, "length": {}})
    assert found == pytest.approx([0.25, 0.5, 0.75])
    alone = pool.select("ensemble", 3, {"members": {"nsp": {}}})
    assert alone["id"].to_pylist() == ["c", "a", "b"]
    assert alone["parts"].to_pylist()[2] == [("filled", 1.0)]


def test_no_member_with_a_weight_leaves_ties():
    pool = make_pool(6)
    table = pool.select("ensemble", 3, {"members": {"nsp": {"weight": 0}}})
    assert len(set(table["id"].to_pylist())) == 3
