"""Normalisation of quantities of different units to one scale, and division into strata."""

from typing import Literal

import numpy as np

from atgen_ray.core.arrays import Integers, Numbers

Scale = Literal["rank", "zscore", "minmax", "none"]
Stratification = Literal["equal_size", "equal_width"]


def rank(values: Numbers) -> Numbers:
    """Return ranks from 1 to n, smallest first; equal values share the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def normalize(values: Numbers, scale: Scale) -> Numbers:
    """Return `values` (n,), n > 0, on a scale; constant values become 0 unless it is "none".

    rank: (rank - 1) / (n - 1); minmax: from 0 to 1; zscore: mean 0 and standard deviation 1.
    """
    if scale == "none":
        return values
    spread = np.ptp(values)
    if spread == 0:
        return np.zeros_like(values)
    if scale == "rank":
        return (rank(values) - 1) / (len(values) - 1)
    shares = (values - values.min()) / spread
    return shares if scale == "minmax" else (shares - shares.mean()) / shares.std()


def stratify(values: Numbers, strata: int, by: Stratification) -> Integers:
    """Return the stratum of each of `values` (n,), from 0 to strata - 1 in ascending order; equal
    values share a stratum.

    equal_size cuts the ranks evenly, equal_width the range of the values.
    """
    if by == "equal_size":
        return ((rank(values) - 0.5) * strata / len(values)).astype(np.int64)
    widths = normalize(values, "minmax") * strata
    # The largest value belongs to the last stratum, not to one of its own.
    return np.minimum(widths.astype(np.int64), strata - 1)
