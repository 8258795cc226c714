"""Numbers as they stand in a suite's tables."""

import math

import pytest

from atgen_ray.bench.analysis.tables import write_cell


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        (0.0, "0.000"),
        (-2.8e-17, "0.000"),
        (0.00073, "7.3e-04"),
        (-0.01, "-0.010"),
        (1234.5, "1,234"),
        (math.inf, "no bound"),
        (math.nan, "–"),
    ],
)
def test_a_number_is_as_long_as_it_is_sure(value: float, cell: str) -> None:
    assert write_cell(value) == cell
