"""Money as whole billionths of a dollar, which add up exactly."""

import math

NANO = 1_000_000_000


def to_nano(dollars: float) -> int:
    """Billionths of a dollar, never less than `dollars`."""
    return math.ceil(scale(dollars))


def scale(dollars: float) -> float:
    """Billionths, without the last bits of a product of floats: 0.57 dollars buy what costs
    0.57.
    """
    return round(dollars * NANO, 3)
