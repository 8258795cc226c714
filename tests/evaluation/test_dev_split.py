"""The dev split: stable as labels come in, and never degenerate."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atgen_ray.evaluation import dev_split

id_lists = st.lists(st.text(min_size=1, max_size=5), unique=True, max_size=30)
fractions = st.sampled_from([0.001, 0.1, 0.2, 0.5, 0.9, 1.0])


@given(ids=id_lists, fraction=fractions, seed=st.integers(-5, 5), data=st.data())
def test_membership_never_changes_as_labels_are_appended(ids, fraction, seed, data):
    earlier = ids[: data.draw(st.integers(0, len(ids)))]
    assert dev_split(earlier, fraction, seed) == dev_split(ids, fraction, seed) & set(earlier)


@given(ids=id_lists.filter(lambda ids: len(ids) >= 5), fraction=fractions, seed=st.integers(-5, 5))
def test_from_five_ids_on_neither_side_is_empty(ids, fraction, seed):
    assert 0 < len(dev_split(ids, fraction, seed)) < len(ids)


def test_the_share_is_about_the_fraction():
    ids = [f"x{number}" for number in range(5000)]
    for fraction in (0.1, 0.3):
        assert len(dev_split(ids, fraction, seed=1)) == pytest.approx(5000 * fraction, rel=0.1)


def test_seed_decides_and_zero_means_none():
    ids = [f"x{number}" for number in range(100)]
    assert dev_split(ids, 0.0, seed=1) == set()
    assert dev_split([], 0.2, seed=1) == set()
    assert dev_split(ids, 0.2, seed=1) == dev_split(ids, 0.2, seed=1) != dev_split(ids, 0.2, seed=2)
