"""Money in whole billionths of a dollar, which add up exactly."""

import math

NANO = 1_000_000_000


def to_nano(dollars: float) -> int:
    """Return `dollars` in billionths, rounded up."""
    return math.ceil(scale(dollars))


def scale(dollars: float) -> float:
    """Return `dollars` in billionths, rounded to a thousandth of one.

    The rounding removes the error of the product, so that 0.57 dollars buy what costs 0.57.
    """
    return round(dollars * NANO, 3)
