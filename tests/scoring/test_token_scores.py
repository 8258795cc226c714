"""Likelihood and entropy of a row depend on that row alone."""

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atgen_ray.core.records import FEATURES_SCHEMA
from atgen_ray.scoring import UNCERTAINTIES, mean_token_entropy, normalized_nll


def tabulate(rows):
    """A features table of (values, error) rows: the values are the log-probabilities and, negated,
    the entropies.
    """
    empty = dict.fromkeys(FEATURES_SCHEMA.names)
    return pa.Table.from_pylist(
        [
            empty
            | {
                "id": f"x{number}",
                "logprobs": values,
                "entropies": None
                if values is None
                else [None if value is None else -value for value in values],
                "top_logprobs": None
                if values is None
                else [[value, math.log(0.1), -9.0] for value in values],
                "error": error,
            }
            for number, (values, error) in enumerate(rows)
        ],
        schema=FEATURES_SCHEMA,
    )


def test_means_by_hand():
    table = tabulate([([-1.0, -2.0, -6.0], None), ([-0.5], None), ([0.0, 0.0], None)])
    assert normalized_nll(table).tolist() == [3.0, 0.5, 0.0]
    assert mean_token_entropy(table).tolist() == [3.0, 0.5, 0.0]
    assert UNCERTAINTIES["sequence_nll"](table).tolist() == [9.0, 0.5, 0.0]
    assert UNCERTAINTIES["max_token"](table).tolist() == [6.0, 0.5, 0.0]
    likeliest = [[math.exp(-1), math.exp(-2), math.exp(-6)], [math.exp(-0.5)], [1.0, 1.0]]
    margins = [[value - 0.1 for value in row] for row in likeliest]
    np.testing.assert_allclose(
        UNCERTAINTIES["margin"](table), [1 - np.mean(row) for row in margins], rtol=1e-6
    )
    np.testing.assert_allclose(
        UNCERTAINTIES["min_margin"](table), [1 - min(row) for row in margins], rtol=1e-6
    )


def test_a_step_that_reports_one_token_has_no_margin():
    rows = [([-1.0, -1.0], None)] * 3
    table = tabulate(rows)
    tops = pa.array([[[-1.0, -2.0], [-1.0]], [[-1.0, -2.0], None], [[-1.0, -2.0], [-1.0, -3.0]]])
    table = table.set_column(table.column_names.index("top_logprobs"), "top_logprobs", tops)
    assert np.isnan(UNCERTAINTIES["margin"](table)).tolist() == [True, True, False]


@pytest.mark.parametrize(
    "row",
    [
        ([], None),
        (None, None),
        ([-1.0, math.nan], None),
        ([-1.0, -math.inf], None),
        ([math.inf, -math.inf], None),
        ([-1.0, None], None),
        ([-1.0], "over-long prompt"),
    ],
)
def test_a_row_without_a_usable_output_is_nan_and_its_neighbours_are_not(row):
    table = tabulate([([-1.0, -3.0], None), row, ([-5.0], None)])
    for name, score in UNCERTAINTIES.items():
        before, bad, after = score(table)
        assert np.isfinite([before, after]).all()
        assert math.isnan(bad)
        if name in {"nll", "entropy"}:
            assert (before, after) == (2.0, 5.0)


def test_empty_tables():
    assert normalized_nll(FEATURES_SCHEMA.empty_table()).shape == (0,)
    assert normalized_nll(tabulate([([], None), ([], None)])).shape == (2,)


values = st.none() | st.lists(
    st.none() | st.floats(-30, 0, width=32) | st.just(-math.inf), max_size=12
)
row_lists = st.lists(st.tuples(values, st.none() | st.just("failed")), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(rows=row_lists, data=st.data())
def test_batch_composition_never_changes_a_score(rows, data):
    table = tabulate(rows)
    order = data.draw(st.permutations(range(len(rows))))
    cut = data.draw(st.integers(0, len(rows)))
    chunked = pa.concat_tables([table.slice(0, cut), table.slice(cut)])
    for score in UNCERTAINTIES.values():
        alone = np.array([score(tabulate([row]))[0] for row in rows])
        np.testing.assert_array_equal(score(table), alone)
        np.testing.assert_array_equal(score(table.take(order)), alone[order])
        np.testing.assert_array_equal(score(chunked), alone)
        np.testing.assert_array_equal(score(table.slice(cut)), alone[cut:])
