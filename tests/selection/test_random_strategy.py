"""Random sampling: seeded, uniform, and a matter of each example alone."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from atgen_ray.selection import select_batch

IDS = [f"x{number:03d}" for number in range(200)]


def draw(ids, count, **given):
    return select_batch("random", {}, ids=ids, count=count, **given)["id"].to_pylist()


@settings(max_examples=50, deadline=None)
@given(removed=st.sets(st.sampled_from(IDS)), count=st.integers(1, 30))
def test_examples_that_leave_the_pool_take_nobody_with_them(removed, count):
    ranking = draw(IDS, len(IDS))
    rest = [id for id in IDS if id not in removed]
    if rest:
        assert draw(rest, count) == [id for id in ranking if id not in removed][:count]


def test_seed_round_and_number_change_the_draw():
    draws = [
        tuple(draw(IDS, 10, seed=seed, round=round)) for seed in (0, 1, -1) for round in (0, 1)
    ]
    assert len(set(draws)) == 6
    assert draw(IDS, 10, seed=1, round=1) == draw(IDS, 10, seed=1, round=1)
    numbers = [
        tuple(select_batch("random", {"draw": number}, ids=IDS, count=10)["id"].to_pylist())
        for number in range(3)
    ]
    assert len(set(numbers)) == 3
    assert numbers[0] == tuple(draw(IDS, 10))


def test_every_example_is_as_likely():
    hits = np.zeros(50)
    for seed in range(400):
        hits[[int(id[1:]) for id in draw(IDS[:50], 10, seed=seed)]] += 1
    # Each count is binomial with mean 80 and standard deviation 8.
    assert hits.sum() == 4000
    assert hits.min() > 48
    assert hits.max() < 112
